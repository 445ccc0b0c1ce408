//! The connections to the server: made when they are asked for, dropped when they broke, and work that met a broken one
//! done again on a fresh one.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::r2d2::{ManageConnection, NopErrorHandler, Pool, PooledConnection, R2D2Connection};

use super::address::PgAddress;
use super::error::{Failure, one_line};
use super::{PgOptions, StoreError};

/// How often a piece of work is done at most, when another transaction came in between or its connection broke.
const TRIES: usize = 3;
/// While connecting has just failed and there is no connection at all, a caller waits only so long: every call would
/// otherwise take the whole connection timeout for as long as the server is away.
const HOPELESS_WAIT: Duration = Duration::from_millis(250);
/// How long ago "just" is: longer than the pool's pause between two tries with the time that a try may take.
const JUST: Duration = Duration::from_secs(6);
/// After a try to connect that failed, the server is left alone for so long, whoever asks: a login that is refused
/// costs both sides thousands of rounds of a hash, and what one try finds out is true for all.
const PAUSE: Duration = Duration::from_secs(1);
/// The pool tries each connection anew after half of that. Shorter than [`PAUSE`], so that one of them tries when it is
/// over, and all follow soon after it succeeded.
const POOL_TIMEOUT: Duration = Duration::from_millis(500);

/// A pool of connections.
pub(super) struct Connections {
    pool: Pool<Server>,
    shared: Arc<Shared>,
    timeout: Duration,
}

impl Connections {
    /// A pool of at most `size` connections. It connects when one is asked for, and tries again in the background, with
    /// pauses, until it can. So this never fails and never waits.
    /// Those who share `tries` connect to the same server.
    pub(super) fn to(
        address: PgAddress,
        size: u32,
        setup: String,
        options: &PgOptions,
        tries: &Arc<Tries>,
    ) -> Connections {
        let shared = Arc::new(Shared { generation: AtomicU64::new(0), tries: tries.clone() });
        let timeout = options.connection_timeout.max(Duration::from_millis(1));
        let pool = Pool::builder()
            .max_size(size.max(1))
            .min_idle(Some(0))
            .connection_timeout(POOL_TIMEOUT)
            // A question before each use would cost a round trip; a broken connection is noticed by the work itself.
            .test_on_check_out(false)
            // Whoever asks for a connection is told the error; it is logged there, once.
            .error_handler(Box::new(NopErrorHandler))
            .build_unchecked(Server { address, setup, shared: shared.clone() });
        Connections { pool, shared, timeout }
    }

    /// Does `work`, and does it again where its connection broke or another transaction came in between. It must be safe
    /// to repeat: whether a commit was done whose answer got lost is not known.
    pub(super) fn run<T>(
        &self,
        mut work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut tries = 1;
        loop {
            let mut link = self.link()?;
            let failure = match work(&mut link.connection) {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if failure.is_lost() {
                // Whatever ended this one, a restart for instance, likely ended the others: none is used again.
                link.lost = true;
                self.shared.generation.fetch_max(link.generation + 1, Ordering::SeqCst);
            } else if !failure.is_collision() {
                return Err(failure.into());
            }
            drop(link);
            if tries == TRIES {
                return Err(failure.into());
            }
            tries += 1;
        }
    }

    /// Does `work` in one transaction. Each of its statements sees what was committed before it began, whatever the
    /// default of the database: behind a lock the state is that which the lock's last holder left.
    pub(super) fn transaction<T>(
        &self,
        mut work: impl FnMut(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.run(|connection| {
            let mut cause = None;
            let done: Result<T, Failure> = connection.build_transaction().read_committed().run(|connection| {
                work(connection).map_err(|failure| {
                    cause = Some(failure);
                    Failure::Database(diesel::result::Error::RollbackTransaction)
                })
            });
            // On a connection that broke the rollback fails too: the reason that counts is the first one.
            done.map_err(|failure| cause.unwrap_or(failure))
        })
    }

    /// Does `work` once, on a connection that is closed behind it, so that nothing that it set or locked remains.
    pub(super) fn once<T>(
        &self,
        work: impl FnOnce(&mut PgConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut link = self.link()?;
        link.lost = true;
        work(&mut link.connection)
    }

    fn link(&self) -> Result<PooledConnection<Server>, StoreError> {
        let hopeless = self.pool.state().connections == 0 && self.shared.tries.failed_within(JUST).is_some();
        let patience = if hopeless { HOPELESS_WAIT.min(self.timeout) } else { self.timeout };
        let until = Instant::now() + patience;
        loop {
            match self.pool.get_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(link) if self.shared.is_stale(&link) => drop(link),
                Ok(link) => return Ok(link),
                Err(_) => return Err(StoreError::Unavailable(self.why_none(patience))),
            }
        }
    }

    fn why_none(&self, patience: Duration) -> String {
        let why = self.shared.tries.failed_within(JUST);
        why.unwrap_or_else(|| match self.pool.state().connections {
            0 => format!("no answer to connecting within {patience:?}"),
            all => format!("none of {all} connections became free within {patience:?}"),
        })
    }
}

/// What the pool, its connections and those who use them know in common.
#[derive(Debug)]
struct Shared {
    /// Grows when a connection was found broken. Those that were made before are not used any more.
    generation: AtomicU64,
    tries: Arc<Tries>,
}

impl Shared {
    fn is_stale(&self, link: &Link) -> bool {
        link.generation < self.generation.load(Ordering::SeqCst)
    }
}

/// The tries to connect to a server, of all pools that do.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// When and why connecting failed last; none once it succeeded.
    failure: Mutex<Option<(Instant, String)>>,
    /// Held by the one that tries while there is a failure.
    turn: Mutex<()>,
}

impl Tries {
    /// Connects with `connect`. After a failure one tries at a time, with a [`PAUSE`]; the others are told that failure.
    fn connect<T>(&self, connect: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let has_failed = self.failed_within(Duration::MAX).is_some();
        let _turn = has_failed.then(|| self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(why) = self.failed_within(PAUSE) {
            return Err(why);
        }
        let connected = connect();
        *self.failure() = connected.as_ref().err().map(|why| (Instant::now(), one_line(why)));
        connected
    }

    fn failed_within(&self, time: Duration) -> Option<String> {
        let failure = self.failure();
        failure.as_ref().filter(|(at, _)| at.elapsed() < time).map(|(_, why)| why.clone())
    }

    fn failure(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection.
struct Link {
    connection: PgConnection,
    generation: u64,
    lost: bool,
}

/// How connections are made and judged. Diesel's own manager takes a connection for broken only within a transaction.
#[derive(Debug)]
struct Server {
    address: PgAddress,
    /// Statements that a new connection begins with.
    setup: String,
    shared: Arc<Shared>,
}

impl ManageConnection for Server {
    type Connection = Link;
    type Error = ConnectError;

    fn connect(&self) -> Result<Link, ConnectError> {
        let generation = self.shared.generation.load(Ordering::SeqCst);
        let connect = || {
            let mut connection = self.address.connect()?;
            connection.batch_execute(&self.setup).map_err(|error| self.address.redacted(&error))?;
            Ok(Link { connection, generation, lost: false })
        };
        self.shared.tries.connect(connect).map_err(ConnectError)
    }

    fn is_valid(&self, _: &mut Link) -> Result<(), ConnectError> {
        Ok(())
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        std::thread::panicking() || link.lost || self.shared.is_stale(link) || link.connection.is_broken()
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
        *tries.failure() = Instant::now().checked_sub(PAUSE).map(|at| (at, "first".to_owned()));
        assert_eq!(["third", "fourth"].map(refused), ["third", "third"]);
        *tries.failure() = Instant::now().checked_sub(PAUSE).map(|at| (at, "third".to_owned()));
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
