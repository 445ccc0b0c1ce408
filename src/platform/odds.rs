//! The `odds` role: from books to clients.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use actix::prelude::*;
use actix_web::web;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::Semaphore;

use super::builder::{HUB_MAILBOX, PlatformBuilder};
use super::checks::{check_cache, check_feed, check_store};
use super::engines::{Bus, Stores};
use super::session_workers::{SessionWorkers, distributor_settings, session_limits};
use super::{StartError, bounds, role_metrics, startup};
use crate::actors::odds::book_router::BookRouter;
use crate::actors::odds::book_source::{BookSource, MergePolicy};
use crate::actors::odds::broadcast_listener::{BroadcastListener, ListenerEdges, SilenceLimits};
use crate::actors::odds::client_reads::{ClientReads, ReadLimits};
use crate::actors::odds::messages::{GetSnapshot, RestateBook};
use crate::actors::odds::odds_book::{BookEdges, ChangeSubscriber, MirrorFeed};
use crate::actors::odds::restriction_keeper::{KeeperEdges, RestrictionKeeper};
use crate::actors::streaming::registry::Registry;
use crate::bus::Topic;
use crate::cache::{BroadcastStream, OddsCache};
use crate::config::Config;
use crate::config::settings::Role;
use crate::domain::odds::restrictions::CurrentRestrictions;
use crate::domain::streaming::epoch::CurrentEpoch;
use crate::grpc::WatchLimits;
use crate::http::addresses::Addresses;
use crate::http::gateway::Service;
use crate::http::health::Check;
use crate::http::odds::routes::odds_routes;
use crate::http::odds::state::OddsState;
use crate::http::server::Listen;
use crate::runtime::feed_health::FeedState;
use crate::services::bets::prices::Prices;
use crate::services::odds::OddsQueries;
use crate::store::Store;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::OddsMetrics;
use crate::telemetry::role;

/// Minimum time between two log lines about failed snapshots of one cause.
const SNAPSHOT_FAILURE_INTERVAL: Duration = Duration::from_secs(10);
/// Timeout of a snapshot request to the books.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);
/// Mailbox capacity of the broadcast listener, which receives no messages.
const LISTENER_MAILBOX: usize = 1;

/// The components that the `odds` role starts with.
pub(super) struct OddsRuntime {
    pub registry: Addr<Registry>,
    /// The registry's thread. The books that publish to it run there as well, so that a change
    /// crosses threads only once, on its way to the sessions.
    pub thread: ArbiterHandle,
    pub feed: Arc<FeedState>,
    /// The restrictions on the markets that are shown.
    pub restrictions: Arc<CurrentRestrictions>,
    /// Database reads on behalf of clients.
    pub reads: Arc<ClientReads>,
    pub metrics: OddsMetrics,
}

/// The books that clients see.
pub(super) struct ShownBooks {
    pub snapshots: Recipient<GetSnapshot>,
    /// Keeps the restrictions on their markets.
    pub keeper: Addr<RestrictionKeeper>,
}

impl PlatformBuilder<'_> {
    /// Starts the registry; `feed` creates the feed state.
    fn start_registry(
        &mut self,
        feed: impl Fn(IntGauge) -> FeedState,
    ) -> Result<OddsRuntime, StartError> {
        let metrics = role_metrics::odds()?;
        let feed = Arc::new(feed(metrics.feed_live.clone()));
        let thread = self.arbiter();
        let restrictions = Arc::new(CurrentRestrictions::default());
        let registry = self.start(
            "registry",
            &thread,
            HUB_MAILBOX,
            Registry::new(metrics.clone(), restrictions.clone()),
        );
        self.parts.registry = Some(registry.clone());
        self.parts.open_sockets.push(metrics.sessions.clone());
        let reads = self.client_reads(metrics.client_reads_refused.clone());
        Ok(OddsRuntime {
            registry,
            thread,
            feed,
            restrictions,
            reads,
            metrics,
        })
    }

    /// Starts the keeper of the restrictions on the books behind `books`.
    pub(super) fn start_keeper(
        &mut self,
        odds: &OddsRuntime,
        books: Recipient<RestateBook>,
        unreported_from: u64,
    ) -> Addr<RestrictionKeeper> {
        let edges = KeeperEdges {
            followed: odds.registry.clone().recipient(),
            books,
        };
        let restrictions = odds.restrictions.clone();
        let keeper = RestrictionKeeper::new(restrictions, unreported_from, edges);
        self.start("restriction keeper", &odds.thread, HUB_MAILBOX, keeper)
    }

    /// The queue of database reads on behalf of clients; `refused` counts reads rejected by a full
    /// queue. It uses a quarter of the connections; the others serve the live path.
    pub(super) fn client_reads(&self, refused: IntCounter) -> Arc<ClientReads> {
        let limits = ReadLimits {
            at_once: self.settings.store.database_pool_size as usize / 4,
            waiting: self.settings.clients.client_read_queue,
            unknown_ttl: self.settings.clients.unknown_event_ttl,
        };
        Arc::new(ClientReads::new(limits, refused))
    }

    /// Starts the books and serves clients from them. If the cache broadcasts changes, clients are
    /// served from mirror books that follow the broadcasts, so it does not matter which process
    /// reads which partition. Returns the price source for bets: the same books that clients see.
    pub(super) fn start_books(
        &mut self,
        config: &Config,
        bus: Option<&Bus>,
        cache: &Arc<dyn OddsCache>,
        stores: &Stores,
    ) -> Result<Option<Prices>, StartError> {
        let broadcasts = cache.listen();
        let topics = bus.and_then(|bus| bus.odds.as_ref());
        let feed = match (&broadcasts, topics) {
            (Some(_), _) => FeedState::awaiting_broadcasts,
            (None, Some(topics)) if topics.first_position.is_none() => FeedState::awaiting_bus,
            _ => FeedState::in_process,
        };
        // The role that shows prices to clients.
        let reader = [Role::Odds, Role::Bets]
            .into_iter()
            .find(|role| config.runs(*role));
        let odds = reader
            .map(|role| self.for_role(role, |builder| builder.start_registry(feed)))
            .transpose()?;
        let mut books = None;
        if let Some(topics) = topics.filter(|_| config.runs(Role::Processor)) {
            let local = odds.as_ref().filter(|_| broadcasts.is_none());
            books = self.for_role(Role::Processor, |builder| {
                builder.start_processor(topics, cache, &stores.main, local)
            })?;
        }
        let (Some(reader), Some(odds)) = (reader, odds) else {
            return Ok(None);
        };
        let mut checks = vec![check_store(&stores.read)];
        let shown = match broadcasts {
            Some(broadcasts) => {
                checks.push(check_cache(cache));
                let topic = bus.and_then(|bus| bus.followed.as_ref());
                Some(self.for_role(reader, |builder| {
                    builder.start_mirror(&odds, broadcasts, topic, cache, &stores.read)
                }))
            }
            None => books,
        };
        let Some(books) = shown else {
            // Unreachable: the configuration requires a processor in this process if the cache does
            // not broadcast.
            return Ok(None);
        };
        checks.push(check_feed(&odds.feed).needed_at_start());
        checks.push(self.for_role(reader, |builder| {
            builder.start_hold_poller(&odds, &stores.holds, &books)
        }));
        self.serve_books(config, odds, books, stores, checks)
            .map(Some)
    }

    /// Serves clients from the books if this process has the role `odds`, and returns the price
    /// source for bets.
    fn serve_books(
        &mut self,
        config: &Config,
        odds: OddsRuntime,
        books: ShownBooks,
        stores: &Stores,
        checks: Vec<Check>,
    ) -> Result<Prices, StartError> {
        let prices = Prices {
            snapshots: books.snapshots.clone(),
            timeout: SNAPSHOT_TIMEOUT,
            feed: odds.feed.clone(),
            restrictions: odds.restrictions.clone(),
        };
        if config.runs(Role::Odds) {
            self.for_role(Role::Odds, |builder| {
                builder.start_odds(odds, books.snapshots, stores, checks)
            })?;
        }
        Ok(prices)
    }

    /// Starts mirror books that follow the books of the processors, and `topic` if there is one.
    fn start_mirror(
        &mut self,
        odds: &OddsRuntime,
        broadcasts: Box<dyn BroadcastStream>,
        topic: Option<&Arc<dyn Topic>>,
        cache: &Arc<dyn OddsCache>,
        store: &Arc<dyn Store>,
    ) -> ShownBooks {
        let OddsRuntime {
            registry,
            thread,
            reads,
            metrics,
            ..
        } = odds;
        let edges = Arc::new(BookEdges {
            feed: MirrorFeed,
            source: BookSource::new(
                MergePolicy::CacheWins,
                cache.clone(),
                store.clone(),
                reads.clone(),
                metrics.book_metrics(),
            )
            .within(self.limits()),
            subscribers: vec![ChangeSubscriber::new(
                registry.clone().recipient(),
                metrics.registry_depth.clone(),
            )],
            metrics: metrics.book_metrics(),
        });
        let router = BookRouter::new(edges, self.settings.cache.book_idle_limit);
        let router = self.start("mirror router", thread, HUB_MAILBOX, router);
        // An `ingest` or a processor of an earlier version may run, and reports no sources.
        let keeper = self.start_keeper(odds, router.clone().recipient(), 0);
        let broadcasts = match topic {
            Some(topic) => self.start_follower(odds, topic, &router, broadcasts),
            None => broadcasts,
        };
        self.start_listener(odds, broadcasts, &router, &keeper);
        let snapshots = router.recipient();
        ShownBooks { snapshots, keeper }
    }

    /// Starts the listener that feeds the mirror books.
    fn start_listener(
        &mut self,
        odds: &OddsRuntime,
        broadcasts: Box<dyn BroadcastStream>,
        router: &Addr<BookRouter<MirrorFeed>>,
        keeper: &Addr<RestrictionKeeper>,
    ) {
        let edges = ListenerEdges {
            apply: router.clone().recipient(),
            reload: router.clone().recipient(),
            feed: odds.registry.clone().recipient(),
            sources: keeper.clone().recipient(),
        };
        let limits = SilenceLimits {
            feed: self.settings.cache.feed_stale_after,
            sources: self.settings.cache.source_silence,
        };
        let feed = odds.feed.clone();
        let metrics = odds.metrics.clone();
        let listener = BroadcastListener::new(broadcasts, edges, feed, limits, metrics);
        self.start(
            "broadcast listener",
            &odds.thread,
            LISTENER_MAILBOX,
            listener,
        );
    }

    /// Serves clients from `snapshots`.
    pub(super) fn start_odds(
        &mut self,
        odds: OddsRuntime,
        snapshots: Recipient<GetSnapshot>,
        stores: &Stores,
        checks: Vec<Check>,
    ) -> Result<(), StartError> {
        let metrics = odds.metrics.clone();
        let is_public = self.access.is_odds_public();
        let guard = self.request_guard(is_public, &metrics.refused);
        let client_bounds = self.client_bounds(Role::Odds, &metrics.registry, guard)?;
        let workers = SessionWorkers {
            distributor: distributor_settings(self.settings),
            registry: odds.registry.clone(),
            feed: odds.feed.clone(),
            liveness: self.liveness.clone(),
            snapshots: snapshots.clone(),
            restrictions: odds.restrictions.clone(),
            epoch: self.stream_epoch(&stores.read),
            access: client_bounds.access.clone(),
            limits: session_limits(self.settings),
            max_message: bounds::frames(self.settings).largest,
            queue: self.settings.clients.ws_session_queue,
            failures: Arc::new(LogLimit::every(SNAPSHOT_FAILURE_INTERVAL)),
            metrics: metrics.clone(),
        };
        self.revocation_subscribers
            .push(odds.registry.clone().recipient());
        let addresses = client_bounds.addresses.clone();
        let state = web::Data::new(self.odds_state(odds, snapshots, stores, addresses));
        let watches = watch_limits(&state);
        let queries = state.queries.clone();
        self.start_grpc_odds(&client_bounds, queries, workers.clone(), watches)?;
        // Runs on each server thread, which starts its own distributor.
        let routes = move |config: &mut web::ServiceConfig| {
            config
                .app_data(state.clone())
                .app_data(web::Data::new(workers.start_here()));
            odds_routes(config);
        };
        let port = self.odds_port();
        let address = self.start_service(Service::Odds, client_bounds, port, routes)?;
        self.parts.addresses.odds = Some(address);
        self.serve_health_of_callers(Role::Odds, checks, metrics.registry);
        Ok(())
    }

    /// Loads the epoch as soon as the database is available.
    fn stream_epoch(&self, store: &Arc<dyn Store>) -> Arc<CurrentEpoch> {
        let epoch = Arc::new(CurrentEpoch::default());
        let loading = startup::load_stream_epoch(store.clone(), epoch.clone());
        actix::spawn(role::inherit(loading));
        epoch
    }

    fn odds_port(&self) -> Listen {
        let clients = &self.settings.clients;
        let workers = clients.http_workers_odds.unwrap_or_else(cores);
        let connections = clients.ws_max_sessions + self.settings.limits.http_max_connections;
        Listen {
            variable: "HTTP_PORT_ODDS",
            ip: self.settings.process.bind_address,
            port: self.settings.ports.http_port_odds,
            workers,
            max_connections: bounds::accepted(connections, workers),
        }
    }

    /// What all server threads share.
    fn odds_state(
        &self,
        odds: OddsRuntime,
        snapshots: Recipient<GetSnapshot>,
        stores: &Stores,
        addresses: Addresses,
    ) -> OddsState {
        let clients = &self.settings.clients;
        OddsState {
            frames: bounds::frames(self.settings),
            queries: Arc::new(OddsQueries {
                snapshots,
                snapshot_timeout: SNAPSHOT_TIMEOUT,
                feed: odds.feed,
                restrictions: odds.restrictions,
                store: stores.read.clone(),
                reads: odds.reads,
            }),
            results: stores.results.clone(),
            session_permits: Arc::new(Semaphore::new(clients.ws_max_sessions)),
            next_session: Arc::new(AtomicU64::new(1)),
            max_sessions: clients.ws_max_sessions,
            allowed_origins: [
                clients.ws_allowed_origins.as_slice(),
                &self.settings.process.allowed_origins,
            ]
            .concat(),
            addresses,
            metrics: odds.metrics,
        }
    }
}

/// Streams and sessions have their limits in common.
fn watch_limits(state: &OddsState) -> WatchLimits {
    WatchLimits {
        session_permits: state.session_permits.clone(),
        max_sessions: state.max_sessions,
        next_session: state.next_session.clone(),
        addresses: state.addresses.clone(),
    }
}

/// Number of threads that can run in parallel.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}
