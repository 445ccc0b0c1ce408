//! Opens the configured engines. External engines need not be available yet: each is waited for
//! where it is used. Only an unusable SQLite file fails the startup.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::bus::embedded::{EmbeddedTopic, UnreadTopic};
use crate::bus::embedded_compacted::EmbeddedCompactedTopic;
use crate::bus::group_path::GroupPath;
use crate::bus::kafka::KafkaBus;
use crate::bus::{CompactedTopic, Topic};
use crate::cache::OddsCache;
use crate::cache::embedded::EmbeddedCache;
use crate::cache::redis::{RedisCache, RedisOptions};
use crate::config::Config;
use crate::config::engines::{BusEngine, CacheEngine, StoreEngine};
use crate::config::settings::{BusSettings, Role};
use crate::domain::odds::plausible::Plausibility;
use crate::domain::timestamp::Timestamp;
use crate::store::Store;
use crate::store::access::AccessStore;
use crate::store::blocking::blocking;
use crate::store::holds::HoldStore;
use crate::store::money::{MoneyStore, ResultStore};
use crate::store::postgres::{PgOptions, PgStore};
use crate::store::sqlite::{DatabaseLock, SqliteStore};

use super::StartError;

/// Maximum number of dead letters that the embedded bus holds.
const DEAD_LETTER_CAPACITY: usize = 1_000;
/// How long a dense stream gathers before it is published. For Kafka and its consumers, one large
/// request costs little more than a small one: at 10,000 updates per second Kafka used a third of a
/// core for requests of a few records, and half of that with this delay. A stream of a thousand
/// updates per second is not dense.
const KAFKA_GATHERING: Duration = Duration::from_millis(10);

/// Roles that publish odds or consume them.
const USING_ODDS: [Role; 2] = [Role::Ingest, Role::Processor];
/// Roles that publish results of markets or consume them.
const USING_RESULTS: [Role; 2] = [Role::Ingest, Role::Settlement];
/// Roles that publish bets or consume them.
const USING_BETS: [Role; 3] = [Role::Bets, Role::Confirmation, Role::Settlement];
/// Roles that write the bus or consume it in a group.
const USING_BUS: [Role; 5] = [
    Role::Ingest,
    Role::Processor,
    Role::Bets,
    Role::Confirmation,
    Role::Settlement,
];
/// Roles that show prices.
const SHOWING_PRICES: [Role; 2] = [Role::Odds, Role::Bets];

/// Roles that migrate the PostgreSQL schema.
pub(super) const MIGRATING: [Role; 5] = [
    Role::Processor,
    Role::Wallet,
    Role::Bets,
    Role::Confirmation,
    Role::Settlement,
];

/// The topics of the bus that the roles of this process use, and no others: a login need not have
/// permissions for the topics of other roles.
#[derive(Clone)]
pub(super) struct Bus {
    /// The odds topics, if a role publishes to them or consumes them.
    pub odds: Option<OddsTopics>,
    /// The topics of results, if a role uses them.
    pub results: Option<ResultTopics>,
    /// The odds topic, if the books of this process follow it.
    pub followed: Option<Arc<dyn Topic>>,
    /// The bet topics, if a role uses them.
    pub bets: Option<BetTopics>,
}

/// The topics of odds.
#[derive(Clone)]
pub(super) struct OddsTopics {
    /// Odds updates, which books and store read.
    pub updates: Arc<dyn Topic>,
    /// The updates of all suppliers, if the source of each market is selected from them.
    pub supplier_updates: Option<Arc<dyn Topic>>,
    /// Frames that could not be decoded.
    pub dead_letters: Arc<dyn Topic>,
    /// The states of the sources.
    pub source_status: Arc<dyn CompactedTopic>,
    /// The first position of a bus that starts with the process; `None` for a durable bus.
    pub first_position: Option<u64>,
    /// How long a dense stream of updates gathers before it is published.
    pub gathering: Duration,
}

/// The topics of results.
#[derive(Clone)]
pub(super) struct ResultTopics {
    /// The results of markets.
    pub results: Arc<dyn Topic>,
    /// Results that could not be read, or need an operator.
    pub dead_letters: Arc<dyn Topic>,
}

/// The topics of bets.
#[derive(Clone)]
pub(super) struct BetTopics {
    /// Placed bets.
    pub placed: Arc<dyn Topic>,
    /// Records of placed bets that could not be decoded or published.
    pub placed_dead_letters: Arc<dyn Topic>,
    /// Decided bets.
    pub confirmed: Arc<dyn Topic>,
    /// Records of decided bets that could not be published.
    pub confirmed_dead_letters: Arc<dyn Topic>,
    /// Settled bets.
    pub settled: Arc<dyn Topic>,
    /// Records of settled bets that could not be published.
    pub settled_dead_letters: Arc<dyn Topic>,
}

impl OddsTopics {
    /// Whether dead letters stay on the bus, where operators can read them.
    pub(super) fn keeps_dead_letters(&self) -> bool {
        self.first_position.is_none()
    }

    /// The groups that a supplier's update passes through until `group` has read the odds topic.
    pub(super) fn path_to(&self, settings: &BusSettings, group: &str) -> GroupPath {
        let mut path = GroupPath::default();
        if let Some(topic) = &self.supplier_updates {
            path = path.then(topic.clone(), settings.kafka_group_selector.clone());
        }
        path.then(self.updates.clone(), group.to_owned())
    }

    /// The topic that suppliers' updates are published to.
    pub(super) fn ingest_topic(&self) -> &Arc<dyn Topic> {
        self.supplier_updates.as_ref().unwrap_or(&self.updates)
    }
}

impl Bus {
    /// Opens the topics that the roles of this process use; `None` if they use none.
    pub(super) fn open(config: &Config) -> Result<Option<Bus>, StartError> {
        let is_used = config.runs_any(&USING_BUS) || follows_topic(config);
        let open = match config.engines.bus {
            BusEngine::Embedded => open_embedded,
            BusEngine::Kafka => open_kafka,
        };
        is_used.then(|| open(config)).transpose()
    }
}

/// Whether the books of this process follow the odds topic.
fn follows_topic(config: &Config) -> bool {
    let feed = config.settings.cache.odds_feed;
    config.runs_any(&SHOWING_PRICES) && config.engines.follows_topic(feed)
}

fn open_embedded(config: &Config) -> Result<Bus, StartError> {
    let settings = &config.settings.bus;
    let first = first_position();
    let partitions = settings.embedded_bus_partitions;
    let capacity = settings.embedded_bus_capacity;
    let dead_letters: Arc<dyn Topic> =
        Arc::new(EmbeddedTopic::new("dead_letters", 1, DEAD_LETTER_CAPACITY));
    let bets = config.runs_any(&USING_BETS).then(|| BetTopics {
        placed: Arc::new(EmbeddedTopic::new(
            &settings.kafka_topic_bet_placed,
            partitions,
            capacity,
        )),
        placed_dead_letters: dead_letters.clone(),
        confirmed: Arc::new(UnreadTopic::new(&settings.kafka_topic_bet_confirmed)),
        confirmed_dead_letters: dead_letters.clone(),
        settled: Arc::new(UnreadTopic::new(&settings.kafka_topic_bet_settled)),
        settled_dead_letters: dead_letters.clone(),
    });
    let results = config.runs_any(&USING_RESULTS).then(|| ResultTopics {
        results: if config.runs(Role::Settlement) {
            Arc::new(EmbeddedTopic::new(
                &settings.kafka_topic_market_results,
                partitions,
                capacity,
            ))
        } else {
            Arc::new(UnreadTopic::new(&settings.kafka_topic_market_results))
        },
        dead_letters: dead_letters.clone(),
    });
    let updates = |name: &str| -> Arc<dyn Topic> {
        Arc::new(EmbeddedTopic::starting_at(
            name, first, partitions, capacity,
        ))
    };
    let selects = config.settings.suppliers.has_priority();
    let odds = OddsTopics {
        updates: updates(&settings.kafka_topic_odds),
        supplier_updates: selects.then(|| updates(&settings.kafka_topic_suppliers)),
        dead_letters,
        source_status: Arc::new(EmbeddedCompactedTopic::default()),
        first_position: Some(first),
        gathering: Duration::ZERO,
    };
    Ok(Bus {
        odds: Some(odds),
        results,
        followed: None,
        bets,
    })
}

fn open_kafka(config: &Config) -> Result<Bus, StartError> {
    let settings = &config.settings.bus;
    let open = if config.runs_any(&USING_BUS) {
        KafkaBus::new
    } else {
        KafkaBus::for_reading
    };
    let kafka = open(settings, "sports-bet")?;
    let selects = config.settings.suppliers.has_priority();
    let odds = config.runs_any(&USING_ODDS).then(|| OddsTopics {
        updates: kafka.topic(&settings.kafka_topic_odds),
        supplier_updates: selects.then(|| kafka.topic(&settings.kafka_topic_suppliers)),
        dead_letters: kafka.topic(&settings.dead_letter_topic()),
        source_status: kafka.compacted_topic(&settings.kafka_topic_source_status),
        first_position: None,
        gathering: KAFKA_GATHERING,
    });
    let results = config.runs_any(&USING_RESULTS).then(|| ResultTopics {
        results: kafka.topic(&settings.kafka_topic_market_results),
        dead_letters: kafka.topic(&settings.kafka_topic_market_results_dlq),
    });
    let bets = config.runs_any(&USING_BETS).then(|| BetTopics {
        placed: kafka.topic(&settings.kafka_topic_bet_placed),
        placed_dead_letters: kafka.topic(&settings.kafka_topic_bet_placed_dlq),
        confirmed: kafka.topic(&settings.kafka_topic_bet_confirmed),
        confirmed_dead_letters: kafka.topic(&settings.kafka_topic_bet_confirmed_dlq),
        settled: kafka.topic(&settings.kafka_topic_bet_settled),
        settled_dead_letters: kafka.topic(&settings.kafka_topic_bet_settled_dlq),
    });
    // After the others: a process that also writes the topic creates it.
    let followed = follows_topic(config).then(|| kafka.existing_topic(&settings.kafka_topic_odds));
    Ok(Bus {
        odds,
        results,
        followed,
        bets,
    })
}

pub(super) fn open_cache(config: &Config) -> Result<Arc<dyn OddsCache>, StartError> {
    let settings = &config.settings.cache;
    Ok(match &config.engines.cache {
        CacheEngine::Embedded => Arc::new(EmbeddedCache::new(settings.cache_ttl)),
        CacheEngine::Redis(url) => {
            let options = RedisOptions {
                ca_file: settings.redis_ca_file.as_deref(),
                channel: &settings.redis_pubsub_channel,
                deployment: settings.deployment.as_deref(),
                uses_original_channel: settings.redis_original_channel,
                ttl: settings.cache_ttl,
                limits: Plausibility::within(config.settings.suppliers.supplier_max_clock_skew),
            };
            Arc::new(RedisCache::new(url, &options)?)
        }
    })
}

/// The databases of the roles.
#[derive(Clone)]
pub(super) struct Stores {
    /// Read and written by the processor.
    pub main: Arc<dyn Store>,
    /// Read by the `odds` role.
    pub read: Arc<dyn Store>,
    /// Holds wallets and bets.
    pub money: Arc<dyn MoneyStore>,
    /// The holds on markets that are shown, read like the markets.
    pub holds: Arc<dyn HoldStore>,
    /// The results that are shown, read like the markets.
    pub results: Arc<dyn ResultStore>,
    /// API keys and revocations, read from the database that commands write.
    pub access: Arc<dyn AccessStore>,
}

impl Stores {
    /// One database for all roles.
    fn of_one(store: Arc<SqliteStore>) -> Stores {
        Stores {
            main: store.clone(),
            read: store.clone(),
            money: store.clone(),
            holds: store.clone(),
            results: store.clone(),
            access: store,
        }
    }
}

/// Opens the stores. A SQLite file is locked and migrated immediately; PostgreSQL is migrated when
/// it becomes available, by [`crate::platform::startup`].
pub(super) async fn open_stores(
    config: &Config,
) -> Result<(Stores, Option<DatabaseLock>), StartError> {
    let limits = Plausibility::within(config.settings.suppliers.supplier_max_clock_skew);
    match &config.engines.store {
        StoreEngine::Sqlite(path) => {
            let path = path.to_string_lossy().into_owned();
            let shown = path.clone();
            let opened = blocking(move || {
                let store = SqliteStore::open(&path)?.within(limits);
                let lock = DatabaseLock::of(Path::new(&path))?;
                store.migrate()?;
                Ok((Arc::new(store), lock))
            });
            let (store, lock) = opened
                .await
                .map_err(|cause| StartError::Store { name: shown, cause })?;
            Ok((Stores::of_one(store), Some(lock)))
        }
        StoreEngine::Postgres { url, read_url } => {
            let size = config.settings.store.database_pool_size;
            let options = PgOptions {
                readers: size,
                money: size,
                limits,
                ..PgOptions::default()
            };
            let failed = |cause| StartError::Store {
                name: "PostgreSQL".to_owned(),
                cause,
            };
            let main = PgStore::open(url, &options).map_err(failed)?;
            let mut read = PgStore::reader(read_url, &options).map_err(failed)?;
            if config.runs_any(&MIGRATING) {
                main.expect_migration(&mut read);
            }
            let main = Arc::new(main);
            let read = Arc::new(read);
            Ok((
                Stores {
                    main: main.clone(),
                    read: read.clone(),
                    money: main.clone(),
                    holds: read.clone(),
                    results: read,
                    access: main,
                },
                None,
            ))
        }
    }
}

/// Opens the database for `ingest` alone, which only reads the open markets of its sources. `None`
/// for a SQLite file, which belongs to the process of the processor.
pub(super) fn open_ingest_store(config: &Config) -> Result<Option<Arc<dyn Store>>, StartError> {
    let StoreEngine::Postgres { url, .. } = &config.engines.store else {
        return Ok(None);
    };
    let options = PgOptions {
        readers: 1,
        limits: Plausibility::within(config.settings.suppliers.supplier_max_clock_skew),
        ..PgOptions::default()
    };
    let store = PgStore::reader(url, &options).map_err(|cause| StartError::Store {
        name: "PostgreSQL".to_owned(),
        cause,
    })?;
    Ok(Some(Arc::new(store)))
}

/// The first position of the embedded bus: the current time in microseconds. The bus ends with the
/// process, and if the process was killed, clients have received numbers that the store never
/// wrote. At fewer than a million records per second and partition, all positions of earlier
/// processes are lower.
fn first_position() -> u64 {
    Timestamp::now().micros().unsigned_abs()
}
