//! The engines that the platform runs on. Each is the embedded one unless its address is set.

use std::collections::BTreeSet;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::address::{postgres, redis};
use super::input::{ConfigError, ConfigInput};
use super::kafka;
use super::settings::{BusSettings, OddsFeed, Role, Settings, StoreSettings};

/// The bus selected by the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusEngine {
    /// In this process.
    Embedded,
    /// Kafka, configured by [`BusSettings`].
    Kafka,
}

/// The cache selected by the settings.
#[derive(Clone, Debug)]
pub enum CacheEngine {
    /// In this process.
    Embedded,
    /// Redis, at this address.
    Redis(SecretString),
}

/// The database selected by the settings.
#[derive(Clone, Debug)]
pub enum StoreEngine {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// PostgreSQL.
    Postgres {
        /// The primary, for writes, and for reads if `read_url` is not set: a URL or libpq's
        /// `host=… user=…`.
        url: SecretString,
        /// The database that the role `odds` reads from.
        read_url: SecretString,
    },
}

/// The engines that a process uses.
#[derive(Clone, Debug)]
pub struct Engines {
    /// The bus that carries updates.
    pub bus: BusEngine,
    /// The cache that holds current odds.
    pub cache: CacheEngine,
    /// The database that stores everything.
    pub store: StoreEngine,
}

impl Engines {
    /// Whether the roles that show prices follow the odds topic: the setting allows it, the topic is
    /// on Kafka, and other processes broadcast its changes.
    pub fn follows_topic(&self, feed: OddsFeed) -> bool {
        self.bus == BusEngine::Kafka
            && matches!(self.cache, CacheEngine::Redis(_))
            && feed != OddsFeed::Redis
    }

    /// One line per engine, without secrets.
    pub fn summary(&self) -> String {
        let [bus, cache, database] = self.names();
        format!("# bus: {bus}\n# cache: {cache}\n# database: {database}\n")
    }

    /// The names of bus, cache and database, without secrets.
    pub fn names(&self) -> [String; 3] {
        let bus = match self.bus {
            BusEngine::Embedded => "embedded",
            BusEngine::Kafka => "Kafka",
        };
        let cache = match self.cache {
            CacheEngine::Embedded => "embedded",
            CacheEngine::Redis(_) => "Redis",
        };
        let database = match &self.store {
            StoreEngine::Sqlite(path) => format!("SQLite, {}", path.display()),
            StoreEngine::Postgres { .. } => "PostgreSQL".to_owned(),
        };
        [bus.to_owned(), cache.to_owned(), database]
    }
}

/// Selects the engines, or returns all errors in their settings.
pub(super) fn choose(
    settings: &Settings,
    input: &ConfigInput,
) -> Result<Engines, Vec<ConfigError>> {
    let mut wrong = Vec::new();
    let bus = bus(&settings.bus, input, &mut wrong);
    let cache = cache(settings, input)
        .map_err(|error| wrong.push(error))
        .ok();
    let store = store(&settings.store, input)
        .map_err(|error| wrong.push(error))
        .ok();
    match (cache, store) {
        (Some(cache), Some(store)) if wrong.is_empty() => Ok(Engines { bus, cache, store }),
        _ => Err(wrong),
    }
}

/// Rejects roles that depend on a role outside this process while their engine is embedded: the
/// embedded engines connect roles only within one process.
pub(super) fn split_roles(
    roles: &BTreeSet<Role>,
    engines: &Engines,
    input: &ConfigInput,
) -> Vec<ConfigError> {
    embedded_connections(roles, engines)
        .into_iter()
        .filter(|(role, needed, _)| roles.contains(role) && !roles.contains(needed))
        .map(|(role, needed, variable)| {
            let role = role.name();
            let needed = needed.name();
            input.error(
                "ROLE",
                format!(
                    "\"{needed}\" in addition to \"{role}\", or {variable}: the embedded engines connect roles only within one process"
                ),
            )
        })
        .collect()
}

/// The roles that an embedded engine connects: a role, the one that it needs in its process, and the
/// setting that lets them run in separate processes.
fn embedded_connections(
    roles: &BTreeSet<Role>,
    engines: &Engines,
) -> Vec<(Role, Role, &'static str)> {
    use Role::{Bets, Confirmation, Ingest, Odds, Processor, Settlement, Wallet};
    const BUS: &str = "KAFKA_BROKERS";
    const CACHE: &str = "REDIS_URL";
    const STORE: &str = "a PostgreSQL DATABASE_URL";
    let bus = engines.bus == BusEngine::Embedded;
    let cache = matches!(engines.cache, CacheEngine::Embedded);
    let store = matches!(engines.store, StoreEngine::Sqlite(_));
    // A processor on Kafka serves odds roles in other processes, unless odds runs in this one.
    let processor_alone = !bus && roles.contains(&Processor);
    let needs = [
        (bus, Ingest, Processor, BUS),
        (bus, Processor, Ingest, BUS),
        (cache, Odds, Processor, CACHE),
        (store, Odds, Processor, STORE),
        (cache && processor_alone, Processor, Odds, CACHE),
        (store && processor_alone, Processor, Odds, STORE),
        (cache, Bets, Processor, CACHE),
        (store, Bets, Wallet, STORE),
        (bus, Bets, Confirmation, BUS),
        (bus, Confirmation, Bets, BUS),
        (store, Confirmation, Bets, STORE),
        // The processor stores the dead letters of the embedded bus.
        (bus, Confirmation, Processor, BUS),
        (bus, Settlement, Ingest, BUS),
        (store, Settlement, Bets, STORE),
    ];
    needs
        .into_iter()
        .filter(|(is_embedded, ..)| *is_embedded)
        .map(|(_, role, needed, variable)| (role, needed, variable))
        .collect()
}

fn bus(settings: &BusSettings, input: &ConfigInput, wrong: &mut Vec<ConfigError>) -> BusEngine {
    if settings.kafka_brokers.is_none() {
        return BusEngine::Embedded;
    }
    wrong.extend(
        kafka::check(settings)
            .into_iter()
            .map(|(variable, want)| input.error(variable, want)),
    );
    BusEngine::Kafka
}

fn is_broker(text: &str) -> bool {
    let text = text.trim();
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    !host.is_empty()
        && !host.contains([' ', '/', '@'])
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn cache(settings: &Settings, input: &ConfigInput) -> Result<CacheEngine, ConfigError> {
    let want = "redis://user:password@host:6379/0, or rediss:// for TLS";
    if let Some(url) = &settings.cache.redis_url {
        let bad = |problem: &str| input.error("REDIS_URL", format!("{want}, but {problem}"));
        if !url.expose_secret().contains("://") {
            return Err(bad("the scheme is missing"));
        }
        redis::parse(url).map_err(|problem| bad(&problem))?;
        return Ok(CacheEngine::Redis(url.clone()));
    }
    match &settings.cache.redis_addr {
        None => Ok(CacheEngine::Embedded),
        Some(address) if is_broker(address.expose_secret()) => {
            let url = SecretString::from(format!("redis://{}/", address.expose_secret().trim()));
            let bad = |problem| {
                input.error(
                    "REDIS_ADDR",
                    format!("an address like host:port, but {problem}"),
                )
            };
            redis::parse(&url).map_err(bad)?;
            Ok(CacheEngine::Redis(url))
        }
        Some(_) => Err(input.error(
            "REDIS_ADDR",
            "an address like host:port; use REDIS_URL for anything else",
        )),
    }
}

const POSTGRES: &str = "a PostgreSQL URL like postgres://user:password@host:5432/name";
const SQLITE: &str = "a SQLite file like data/sports-bet.db or sqlite://data/sports-bet.db";

/// Selects the database from the settings.
pub fn store(settings: &StoreSettings, input: &ConfigInput) -> Result<StoreEngine, ConfigError> {
    // The original's variable is used only if ours is not set.
    let (variable, url) = match &settings.postgres_dsn {
        Some(dsn) if !input.is_set("DATABASE_URL") => ("POSTGRES_DSN", dsn),
        _ => ("DATABASE_URL", &settings.database_url),
    };
    let check = |variable: &str, address: &SecretString| {
        let bad = |problem| input.error(variable, format!("{POSTGRES}, but {problem}"));
        postgres::check(address.expose_secret()).map_err(bad)
    };
    if postgres::is_postgres(url.expose_secret()) {
        check(variable, url)?;
        let read_url = settings.database_ro_url.as_ref().unwrap_or(url);
        check("DATABASE_RO_URL", read_url)?;
        return Ok(StoreEngine::Postgres {
            url: url.clone(),
            read_url: read_url.clone(),
        });
    }
    if variable == "POSTGRES_DSN" {
        check(variable, url)?;
    }
    if settings.database_ro_url.is_some() {
        return Err(input.error("DATABASE_RO_URL", "it unset, or a PostgreSQL DATABASE_URL"));
    }
    let path = sqlite_path(url.expose_secret());
    path.map(StoreEngine::Sqlite)
        .ok_or_else(|| input.error("DATABASE_URL", format!("{POSTGRES}, or {SQLITE}")))
}

/// The SQLite file, for commands that only work on the embedded database.
pub fn sqlite_file(url: &SecretString, input: &ConfigInput) -> Result<PathBuf, ConfigError> {
    sqlite_path(url.expose_secret()).ok_or_else(|| input.error("DATABASE_URL", SQLITE))
}

/// The SQLite file, parsed as the diesel CLI does. Anything that looks like a server address is
/// rejected: it may contain a password, and paths are displayed.
fn sqlite_path(url: &str) -> Option<PathBuf> {
    let path = match url.split_once("://") {
        Some(("sqlite", path)) if !path.contains(['?', '#', '%']) => path,
        None if !url.starts_with("file:") && !url.contains('=') => url,
        _ => return None,
    };
    let (first, _) = path.split_once('/').unwrap_or((path, ""));
    let is_server = first.contains([':', '@']) || (path.contains('@') && path.contains(':'));
    let is_file =
        !path.is_empty() && !path.contains(":memory:") && !path.contains(['\0', '"', '\'']);
    (is_file && !is_server).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests;
