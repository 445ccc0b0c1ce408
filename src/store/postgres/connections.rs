//! The connections to the server: made on demand, dropped when they are of no use, and work that
//! failed on such a connection repeated on a fresh one.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::address::PgAddress;
use super::error::{Failure, ONLY_READS, one_line};
use super::gate::{Entry, Gate};
use super::session::{Scope, Session, Sessions};
use super::{PgOptions, StoreError};
use crate::telemetry::log_limit::LogLimit;
use diesel::connection::{AnsiTransactionManager, TransactionManager};
use diesel::pg::PgConnection;
use diesel::r2d2::{ManageConnection, NopErrorHandler, Pool, PooledConnection, R2D2Connection};

/// How often a piece of work is done at most, if another transaction came in between or its
/// connection broke.
const TRIES: usize = 3;
/// If connecting has just failed and there is no connection at all, a caller waits only this long:
/// every call would otherwise take the whole connection timeout for as long as the server is away.
const FAST_FAIL_TIMEOUT: Duration = Duration::from_millis(250);
/// How long ago "just" is: longer than the pool's pause between two tries with the time that a try
/// may take.
const RECENT_FAILURE_WINDOW: Duration = Duration::from_secs(6);
/// After a try to connect that failed, the server is left alone for this long, whoever asks: a
/// login that is refused costs both sides thousands of rounds of a hash, and what one try finds out
/// is true for all.
const PAUSE: Duration = Duration::from_secs(1);
/// The pool tries each connection again after half of that. Shorter than [`PAUSE`], so that one of
/// them tries when it is over, and all follow soon after it succeeded.
const POOL_TIMEOUT: Duration = Duration::from_millis(500);
/// The server has no connection left for us. It is logged so often at most.
static FULL: LogLimit = LogLimit::growing(Duration::from_secs(60), Duration::from_secs(3_600));
/// Texts of a server, or a pooler, that has no connection left.
const NONE_LEFT: [&str; 4] = [
    "too many connections",
    "too many clients",
    "connection slots",
    "no more connections allowed",
];

/// The connections of a store. All kinds of work share them, so that a server that gives fewer than
/// were asked for still serves every kind.
pub(super) struct Connections {
    pool: Pool<Server>,
    shared: Arc<Shared>,
    timeout: Duration,
}

impl Connections {
    /// At most `size` connections. They are made on demand, and tried again in the background, with
    /// pauses, until that succeeds. So this never fails and never waits.
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
            // A question before each use would cost a round trip; a broken connection is noticed by
            // the work itself.
            .test_on_check_out(false)
            // Whoever asks for a connection is told the error; it is logged there, once.
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
        let hopeless = self.pool.state().connections == 0
            && self
                .shared
                .tries
                .failed_within(RECENT_FAILURE_WINDOW)
                .is_some();
        let patience = if hopeless {
            FAST_FAIL_TIMEOUT.min(self.timeout)
        } else {
            self.timeout
        };
        (patience, Instant::now() + patience)
    }

    /// A connection, for writing only one to a server that takes writes.
    fn link(
        &self,
        patience: Duration,
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
                Err(_) => return Err(self.none_within(patience)),
            }
        }
    }

    fn none_within(&self, patience: Duration) -> StoreError {
        let why = self.shared.tries.failed_within(RECENT_FAILURE_WINDOW);
        StoreError::Unavailable(why.unwrap_or_else(|| match self.pool.state().connections {
            0 => format!("no answer to connecting within {patience:?}"),
            all => format!("none of {all} connections became free within {patience:?}"),
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

    /// Does `work`, one statement, and repeats it if its connection broke or another transaction
    /// came in between. It must be safe to repeat: whether a commit was done whose answer got lost
    /// is not known.
    pub(super) fn run<T>(
        &self,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.within(Scope::Statement, work)
    }

    /// Does `work` in one transaction. Each of its statements sees what was committed before it
    /// began: behind a lock the state is what the lock's last holder left.
    pub(super) fn transaction<T>(
        &self,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.within(Scope::Transaction, work)
    }

    /// Does `work`, which only reads, in one snapshot.
    pub(super) fn snapshot<T>(
        &self,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.within(Scope::Snapshot, work)
    }

    /// Does `work` in a transaction that may take its time.
    pub(super) fn migration<T>(
        &self,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.within(Scope::Migration, work)
    }

    /// As [`Share::run`], unless every connection of this share is in use: `None` then, at once.
    pub(super) fn run_if_free<T>(
        &self,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Option<Result<T, StoreError>> {
        let (patience, until) = self.connections.until();
        let entry = self.gate.try_enter()?;
        Some(self.repeat(entry, patience, until, Scope::Statement, work))
    }

    fn within<T>(
        &self,
        scope: Scope,
        work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let (patience, until) = self.connections.until();
        let entry = self.gate.enter(until).ok_or_else(|| {
            StoreError::Unavailable(format!(
                "none of {} connections became free within {patience:?}",
                self.gate.size()
            ))
        })?;
        self.repeat(entry, patience, until, scope, work)
    }

    fn repeat<T>(
        &self,
        _entry: Entry<'_>,
        patience: Duration,
        mut until: Instant,
        scope: Scope,
        mut work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut tries = 1;
        loop {
            let mut link = self.connections.link(patience, until, self.writes)?;
            let failure = match self.attempt(&mut link, scope, &mut work) {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if failure.is_lost() {
                if failure.is_of_a_pooler() {
                    link.session.found_pooler();
                }
                // What made this one useless, a restart or a switch-over for instance, likely did
                // so to the others: none is used again.
                link.lost = true;
                self.connections.shared.outdate(&link);
            } else if !failure.is_collision() {
                return Err(failure.into());
            }
            drop(link);
            if tries == TRIES {
                return Err(failure.into());
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
        let Some(begin) = link.session.begin(scope) else {
            return work(&mut link.connection);
        };
        // Half done it would leave the connection in a transaction that nobody ends.
        AnsiTransactionManager::begin_transaction_sql(&mut link.connection, &begin)
            .inspect_err(|_| link.lost = true)?;
        match work(&mut link.connection) {
            Ok(done) => {
                AnsiTransactionManager::commit_transaction(&mut link.connection)?;
                Ok(done)
            }
            Err(failure) => {
                // On a connection that broke the rollback fails too: the reason that counts is the
                // first one.
                let rolled_back =
                    AnsiTransactionManager::rollback_transaction(&mut link.connection);
                link.lost |= rolled_back.is_err();
                Err(failure)
            }
        }
    }
}

/// What the pool, its connections and those who use them know in common.
#[derive(Debug, Default)]
struct Shared {
    /// Grows when a connection was found to be of no use. Those that were made before are not used
    /// any more.
    generation: AtomicU64,
    tries: Tries,
    /// When connections to a server that only reads were given up last.
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

    /// Whether connections to a server that only reads are given up now: once in a [`PAUSE`].
    fn may_renew(&self) -> bool {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = renewed.is_none_or(|at| at.elapsed() >= PAUSE);
        if is_due {
            *renewed = Some(Instant::now());
        }
        is_due
    }
}

/// The tries to connect to a server.
#[derive(Debug, Default)]
struct Tries {
    /// When and why connecting failed last; none once it succeeded.
    failure: Mutex<Option<(Instant, String)>>,
    /// Held by the one that tries while there is a failure.
    turn: Mutex<()>,
}

impl Tries {
    /// Connects with `connect`. After a failure one tries at a time, with a [`PAUSE`]; the others
    /// are told that failure.
    fn connect<T>(&self, connect: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let has_failed = self.failed_within(Duration::MAX).is_some();
        let _turn = has_failed.then(|| self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(why) = self.failed_within(PAUSE) {
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
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection.
struct Link {
    connection: PgConnection,
    session: Session,
    generation: u64,
    lost: bool,
}

/// How connections are made and judged. Diesel's own manager takes a connection for broken only
/// within a transaction.
#[derive(Debug)]
struct Server {
    sessions: Sessions,
    size: u32,
    shared: Arc<Shared>,
}

impl Server {
    fn tell_if_full(&self, why: &str) {
        if NONE_LEFT.iter().any(|known| why.contains(known))
            && let Some(repeated) = FULL.check(why)
        {
            log::warn!(
                repeated, wanted = self.size;
                "the database gives no more connections, those that are there are shared: {why}; see DATABASE_POOL_SIZE"
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
            .inspect_err(|why| self.tell_if_full(why))
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

/// Why there is no connection.
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

    #[test]
    fn a_failure_is_told_to_all_and_the_server_is_left_alone_for_a_while() {
        let tries = Tries::default();
        let refused = |why: &str| tries.connect(|| Err::<(), _>(why.to_owned())).unwrap_err();
        assert_eq!(["first", "second"].map(refused), ["first", "first"]);
        *tries.failure() = Instant::now()
            .checked_sub(PAUSE)
            .map(|at| (at, "first".to_owned()));
        assert_eq!(["third", "fourth"].map(refused), ["third", "third"]);
        *tries.failure() = Instant::now()
            .checked_sub(PAUSE)
            .map(|at| (at, "third".to_owned()));
        // And once it succeeded, nothing waits any more.
        assert_eq!(tries.connect(|| Ok(())), Ok(()));
        assert_eq!(refused("fifth"), "fifth");
    }

    #[test]
    fn while_it_has_not_failed_all_connect_at_once() {
        let (tries, meeting) = (Tries::default(), std::sync::Barrier::new(3));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| tries.connect(|| Ok(meeting.wait())).unwrap());
            }
        });
    }
}
