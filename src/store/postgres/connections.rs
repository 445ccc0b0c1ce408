//! The connections to the server. They are opened on demand and dropped when they become useless;
//! work that failed on such a connection is retried on a new one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::address::PgAddress;
use super::error::{ERRORS, ONLY_READS};
use super::gate::{Entry, Gate};
use super::session::{Scope, Session, Sessions};
use super::{PgOptions, StoreError};
use crate::store::failure::{Failure, one_line};
use crate::telemetry::log_limit::LogLimit;
use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::pg::PgConnection;
use diesel::r2d2::{ManageConnection, NopErrorHandler, Pool, PooledConnection, R2D2Connection};

/// Maximum number of attempts at a piece of work if it conflicts with another transaction or loses
/// its connection.
const MAX_ATTEMPTS: usize = 3;
/// How long a caller waits if connecting has just failed and no connection is open. Otherwise every
/// call would take the whole connection timeout while the server is down.
const FAST_FAIL_TIMEOUT: Duration = Duration::from_millis(250);
/// How recent a failure must be for [`FAST_FAIL_TIMEOUT`]: longer than the pool's pause between two
/// attempts plus the duration of an attempt.
const RECENT_FAILURE_WINDOW: Duration = Duration::from_secs(6);
/// After a failed attempt to connect, no caller tries again for this long. A rejected login costs
/// both sides thousands of hash rounds, and the result of one attempt holds for all callers.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// After half of this time the pool retries each connection. Shorter than [`RETRY_INTERVAL`], so
/// that one connection retries as soon as the interval ends, and the others follow soon after it
/// succeeds.
const POOL_TIMEOUT: Duration = Duration::from_millis(500);
/// Limits the log lines about a server without free connections.
static FULL_LOG_LIMIT: LogLimit =
    LogLimit::growing(Duration::from_secs(60), Duration::from_secs(3_600));
/// Error texts of a server or pooler that has no connection left.
const NO_CONNECTION_TEXTS: [&str; 4] = [
    "too many connections",
    "too many clients",
    "connection slots",
    "no more connections allowed",
];

/// The connections of a store. All kinds of work share them, so every kind is served even if the
/// server grants fewer connections than configured.
pub(super) struct Connections {
    pool: Pool<Server>,
    shared: Arc<Shared>,
    timeout: Duration,
}

impl Connections {
    /// A pool of at most `size` connections, opened on demand and retried in the background until
    /// they succeed. Never fails and never waits.
    pub(super) fn to(
        address: PgAddress,
        size: u32,
        options: &PgOptions,
        only_reads: bool,
    ) -> Arc<Connections> {
        let shared = Arc::new(Shared::default());
        let timeout = options.connection_timeout.max(Duration::from_millis(1));
        let sessions = Sessions::new(address, options, only_reads);
        let pool = Pool::builder()
            .max_size(size.max(1))
            .min_idle(Some(0))
            .connection_timeout(POOL_TIMEOUT)
            // A check before each use would cost a round trip; the work itself notices a broken
            // connection.
            .test_on_check_out(false)
            // The caller gets the error and logs it once.
            .error_handler(Box::new(NopErrorHandler))
            .build_unchecked(Server {
                sessions,
                size,
                shared: shared.clone(),
            });
        Arc::new(Connections {
            pool,
            shared,
            timeout,
        })
    }

    fn until(&self) -> (Duration, Instant) {
        let is_failing = self.pool.state().connections == 0
            && self
                .shared
                .tries
                .failed_within(RECENT_FAILURE_WINDOW)
                .is_some();
        let max_wait = if is_failing {
            FAST_FAIL_TIMEOUT.min(self.timeout)
        } else {
            self.timeout
        };
        (max_wait, Instant::now() + max_wait)
    }

    /// A connection; if `writes`, only one to a server that accepts writes.
    fn link(
        &self,
        max_wait: Duration,
        until: Instant,
        writes: bool,
    ) -> Result<PooledConnection<Server>, StoreError> {
        loop {
            match self
                .pool
                .get_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(link) if self.shared.is_stale(&link) => drop(link),
                Ok(link) if writes && link.session.only_reads => {
                    // A new connection may lead to another server, or to this one after its
                    // promotion.
                    if !self.shared.may_renew() {
                        return Err(StoreError::Unavailable(ONLY_READS.to_owned()));
                    }
                    self.shared.outdate(&link);
                }
                Ok(link) => return Ok(link),
                Err(_) => return Err(self.timeout_error(max_wait)),
            }
        }
    }

    fn timeout_error(&self, max_wait: Duration) -> StoreError {
        let why = self.shared.tries.failed_within(RECENT_FAILURE_WINDOW);
        StoreError::Unavailable(why.unwrap_or_else(|| match self.pool.state().connections {
            0 => format!("no connection established within {max_wait:?}"),
            all => format!("none of {all} connections became free within {max_wait:?}"),
        }))
    }
}

/// The share of the connections that one kind of work may use at once.
pub(super) struct Share {
    connections: Arc<Connections>,
    gate: Gate,
    writes: bool,
}

impl Share {
    pub(super) fn of(connections: &Arc<Connections>, size: u32, writes: bool) -> Share {
        Share {
            connections: connections.clone(),
            gate: Gate::new(size),
            writes,
        }
    }

    /// Runs `work`, a single statement, and retries it if the connection breaks or another
    /// transaction conflicts. `work` must be idempotent: if the reply to a commit is lost, its
    /// result is unknown.
    pub(super) fn run<T>(
        &self,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.within(Scope::Statement, work)
    }

    /// Runs `work` in one transaction. Each statement sees everything committed before that
    /// statement began; after acquiring a lock it therefore sees the writes of the lock's previous
    /// holder.
    pub(super) fn transaction<T>(
        &self,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.within(Scope::Transaction, work)
    }

    /// Runs `work`, which only reads, in one snapshot.
    pub(super) fn snapshot<T>(
        &self,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.within(Scope::Snapshot, work)
    }

    /// Runs `work` in a transaction without a statement timeout.
    pub(super) fn migration<T>(
        &self,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.within(Scope::Migration, work)
    }

    /// Runs `work` outside a transaction, without a statement timeout. The connection is closed
    /// afterwards.
    pub(super) fn concurrent_migration<T>(
        &self,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.within(Scope::ConcurrentMigration, work)
    }

    /// Like [`Share::run`], but returns `None` at once if all connections of this share are in use.
    pub(super) fn run_if_free<T>(
        &self,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Option<Result<T, StoreError>> {
        let (max_wait, until) = self.connections.until();
        let entry = self.gate.try_enter()?;
        Some(self.repeat(entry, max_wait, until, Scope::Statement, work))
    }

    fn within<T>(
        &self,
        scope: Scope,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let (max_wait, until) = self.connections.until();
        let entry = self.gate.enter(until).ok_or_else(|| {
            StoreError::Unavailable(format!(
                "none of {} connections became free within {max_wait:?}",
                self.gate.size()
            ))
        })?;
        self.repeat(entry, max_wait, until, scope, work)
    }

    fn repeat<T>(
        &self,
        _entry: Entry<'_>,
        max_wait: Duration,
        mut until: Instant,
        scope: Scope,
        mut work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut tries = 1;
        loop {
            let mut link = self.connections.link(max_wait, until, self.writes)?;
            let failure = match self.attempt(&mut link, scope, &mut work) {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if failure.is_lost() {
                if failure.is_pooler_failure() {
                    link.session.found_pooler();
                }
                // The cause, such as a restart or a switch-over, likely affects the other
                // connections too, so none of them is reused.
                link.lost = true;
                self.connections.shared.outdate(&link);
            } else if !failure.is_collision() {
                return Err(ERRORS.failure(failure));
            }
            drop(link);
            if tries == MAX_ATTEMPTS {
                return Err(ERRORS.failure(failure));
            }
            tries += 1;
            until = self.connections.until().1;
        }
    }

    fn attempt<T>(
        &self,
        link: &mut Link,
        scope: Scope,
        work: &mut impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if scope == Scope::ConcurrentMigration {
            let settings = link.session.concurrent_migration()?;
            // The settings and the locks of the session end with it.
            link.lost = true;
            link.connection.batch_execute(&settings)?;
            return work(&mut link.connection);
        }
        let Some(begin) = link.session.begin(scope) else {
            return work(&mut link.connection);
        };
        // A failed BEGIN could leave the connection in a transaction that nobody ends.
        AnsiTransactionManager::begin_transaction_sql(&mut link.connection, &begin)
            .inspect_err(|_| link.lost = true)?;
        match work(&mut link.connection) {
            Ok(done) => {
                AnsiTransactionManager::commit_transaction(&mut link.connection)?;
                Ok(done)
            }
            Err(failure) => {
                // On a broken connection the rollback fails too; report the first error.
                let rolled_back =
                    AnsiTransactionManager::rollback_transaction(&mut link.connection);
                link.lost |= rolled_back.is_err();
                Err(failure)
            }
        }
    }
}

/// State shared by the pool, its connections and their users.
#[derive(Debug, Default)]
struct Shared {
    /// Increases when a connection turns out to be useless. Connections of earlier generations are
    /// not reused.
    generation: AtomicU64,
    tries: Tries,
    /// When connections to a read-only server were last discarded.
    renewed: Mutex<Option<Instant>>,
}

impl Shared {
    fn is_stale(&self, link: &Link) -> bool {
        link.generation < self.generation.load(Ordering::SeqCst)
    }

    fn outdate(&self, link: &Link) {
        self.generation
            .fetch_max(link.generation + 1, Ordering::SeqCst);
    }

    /// Whether connections to a read-only server may be discarded now, at most once per
    /// [`RETRY_INTERVAL`].
    fn may_renew(&self) -> bool {
        let mut renewed = self.renewed.lock();
        let is_due = renewed.is_none_or(|at| at.elapsed() >= RETRY_INTERVAL);
        if is_due {
            *renewed = Some(Instant::now());
        }
        is_due
    }
}

/// The attempts to connect to a server.
#[derive(Debug, Default)]
struct Tries {
    /// The time and cause of the last failed attempt; `None` after a success.
    failure: Mutex<Option<(Instant, String)>>,
    /// Held during an attempt that follows a failure.
    turn: Mutex<()>,
}

impl Tries {
    /// Connects with `connect`. After a failure, only one attempt runs at a time, at most once per
    /// [`RETRY_INTERVAL`]; other callers get the stored failure.
    fn connect<T>(&self, connect: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let has_failed = self.failed_within(Duration::MAX).is_some();
        let _turn = has_failed.then(|| self.turn.lock());
        if let Some(why) = self.failed_within(RETRY_INTERVAL) {
            return Err(why);
        }
        let connected = connect();
        *self.failure() = connected
            .as_ref()
            .err()
            .map(|why| (Instant::now(), one_line(why)));
        connected
    }

    fn failed_within(&self, time: Duration) -> Option<String> {
        let failure = self.failure();
        failure
            .as_ref()
            .filter(|(at, _)| at.elapsed() < time)
            .map(|(_, why)| why.clone())
    }

    fn failure(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.failure.lock()
    }
}

/// A pooled connection.
struct Link {
    connection: PgConnection,
    session: Session,
    generation: u64,
    lost: bool,
}

/// Creates and checks connections. Diesel's own manager considers a connection broken only within a
/// transaction.
#[derive(Debug)]
struct Server {
    sessions: Sessions,
    size: u32,
    shared: Arc<Shared>,
}

impl Server {
    fn log_if_full(&self, why: &str) {
        if NO_CONNECTION_TEXTS.iter().any(|known| why.contains(known))
            && let Some(repeated) = FULL_LOG_LIMIT.check(why)
        {
            log::warn!(
                repeated, wanted = self.size;
                "database has no free connection slots, sharing the open ones: {why}; see DATABASE_POOL_SIZE"
            );
        }
    }
}

impl ManageConnection for Server {
    type Connection = Link;
    type Error = ConnectError;

    fn connect(&self) -> Result<Link, ConnectError> {
        let generation = self.shared.generation.load(Ordering::SeqCst);
        let connected = self.shared.tries.connect(|| self.sessions.connect());
        let (connection, session) = connected
            .inspect_err(|why| self.log_if_full(why))
            .map_err(ConnectError)?;
        Ok(Link {
            connection,
            session,
            generation,
            lost: false,
        })
    }

    fn is_valid(&self, _: &mut Link) -> Result<(), ConnectError> {
        Ok(())
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        std::thread::panicking()
            || link.lost
            || self.shared.is_stale(link)
            || link.connection.is_broken()
    }
}

/// Why connecting failed.
#[derive(Debug)]
struct ConnectError(String);

impl fmt::Display for ConnectError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for ConnectError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a failure, all callers get that failure, and nobody connects for a while.
    #[test]
    fn failure_is_shared_until_the_retry() {
        let tries = Tries::default();
        let refused = |why: &str| tries.connect(|| Err::<(), _>(why.to_owned())).unwrap_err();
        assert_eq!(["first", "second"].map(refused), ["first", "first"]);
        *tries.failure() = Instant::now()
            .checked_sub(RETRY_INTERVAL)
            .map(|at| (at, "first".to_owned()));
        assert_eq!(["third", "fourth"].map(refused), ["third", "third"]);
        *tries.failure() = Instant::now()
            .checked_sub(RETRY_INTERVAL)
            .map(|at| (at, "third".to_owned()));
        // After a success, attempts no longer wait.
        assert_eq!(tries.connect(|| Ok(())), Ok(()));
        assert_eq!(refused("fifth"), "fifth");
    }

    #[test]
    fn callers_connect_concurrently_without_failures() {
        let tries = Tries::default();
        let meeting = std::sync::Barrier::new(3);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| tries.connect(|| Ok(meeting.wait())).unwrap());
            }
        });
    }
}
