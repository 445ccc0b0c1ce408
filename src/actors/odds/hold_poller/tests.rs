use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use pretty_assertions::assert_eq;

use super::*;
use crate::domain::odds::hold::HoldScope;
use crate::store::holds::{HoldOrder, HoldStep, Released};
use crate::testing::until;

type Answer = Result<Vec<StoredHold>, StoreError>;

/// Answers every read alike. A read waits while the answer is locked.
struct FixedStore(Arc<Mutex<Answer>>);

impl HoldStore for FixedStore {
    fn set_hold(&self, _: &HoldOrder) -> Result<i64, StoreError> {
        unreachable!()
    }

    fn release_hold(&self, _: i64, _: &HoldStep) -> Result<Released, StoreError> {
        unreachable!()
    }

    fn holds(&self, _: Option<Timestamp>) -> Answer {
        self.0.lock().clone()
    }

    fn count_open_markets(&self, _: &HoldScope) -> Result<u64, StoreError> {
        unreachable!()
    }
}

/// Records the numbers of the holds that it receives.
struct ProbeKeeper(Arc<Mutex<Vec<Vec<i64>>>>);

impl Actor for ProbeKeeper {
    type Context = Context<Self>;
}

impl Handler<HoldsLoaded> for ProbeKeeper {
    type Result = ();

    fn handle(&mut self, loaded: HoldsLoaded, _: &mut Context<Self>) {
        self.0
            .lock()
            .push(loaded.0.iter().map(|hold| hold.id).collect());
    }
}

struct Fixture {
    answer: Arc<Mutex<Answer>>,
    received: Arc<Mutex<Vec<Vec<i64>>>>,
    health: Arc<HoldHealth>,
    metrics: OddsMetrics,
    clock: Arc<Mutex<Timestamp>>,
}

impl Fixture {
    fn start(answer: Answer) -> Fixture {
        let answer = Arc::new(Mutex::new(answer));
        let received: Arc<Mutex<Vec<Vec<i64>>>> = Arc::default();
        let clock = Arc::new(Mutex::new(at(0)));
        let metrics = OddsMetrics::new().unwrap();
        let keeper = ProbeKeeper(received.clone()).start().recipient();
        let time = clock.clone();
        let poller = HoldPoller::new(
            Arc::new(FixedStore(answer.clone())),
            keeper,
            Clock::of(move || *time.lock()),
            metrics.clone(),
        );
        let health = poller.health();
        poller.start();
        Fixture {
            answer,
            received,
            health,
            metrics,
            clock,
        }
    }

    async fn until_received(&self, expected: &[&[i64]]) {
        until(&format!("{expected:?}"), || {
            *self.received.lock() == expected
        })
        .await;
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_760_000_000_000_000 + seconds * 1_000_000).unwrap()
}

fn stored(id: i64, until: Option<Timestamp>) -> StoredHold {
    let scope = HoldScope::All;
    StoredHold {
        hold: Hold { id, scope, until },
        set: HoldStep {
            at: at(0),
            by: "operator".to_owned(),
            reason: "r".to_owned(),
        },
        released: None,
    }
}

fn away() -> StoreError {
    StoreError::Unavailable("gone".to_owned())
}

#[test]
fn holds_are_sent_when_they_change() {
    let mut known = KnownHolds::default();
    assert_eq!(known.unsent(at(0)), None, "nothing was read");
    known.read = Some(Vec::new());
    assert_eq!(known.unsent(at(0)), Some(Vec::new()));
    known.sent = known.unsent(at(0));
    assert_eq!(known.unsent(at(0)), None);
    known.read = Some(vec![stored(1, Some(at(5))).hold, stored(2, None).hold]);
    let both = known.unsent(at(4)).unwrap();
    assert_eq!(both.len(), 2);
    known.sent = Some(both);
    assert_eq!(known.unsent(at(4)), None);
    assert_eq!(known.unsent(at(5)), Some(vec![stored(2, None).hold]));
}

#[actix_web::test]
async fn holds_stay_in_force_while_unreadable() {
    let fixture = Fixture::start(Err(away()));
    until("the read fails", || {
        fixture.metrics.hold_read_errors.get() > 0
    })
    .await;
    assert!(fixture.received.lock().is_empty());
    assert!(fixture.health.problem().unwrap().contains("cannot be read"));
    *fixture.answer.lock() = Ok(vec![stored(1, Some(at(60))), stored(2, None)]);
    fixture.until_received(&[&[1, 2]]).await;
    assert_eq!(fixture.health.problem(), None);
    assert_eq!(fixture.metrics.holds.get(), 2);
    *fixture.answer.lock() = Err(away());
    let failed = fixture.metrics.hold_read_errors.get();
    until("the read fails again", || {
        fixture.metrics.hold_read_errors.get() > failed
    })
    .await;
    fixture.until_received(&[&[1, 2]]).await;
    assert!(fixture.health.problem().is_some());
    // One of them ends at its time, although nothing can be read.
    *fixture.clock.lock() = at(60);
    fixture.until_received(&[&[1, 2], &[2]]).await;
    *fixture.answer.lock() = Ok(Vec::new());
    fixture.until_received(&[&[1, 2], &[2], &[]]).await;
    assert_eq!(fixture.metrics.holds.get(), 0);
}

/// Locks the answer, so that reads wait, until it is dropped.
struct HeldAnswer(Option<(Sender<()>, JoinHandle<()>)>);

impl HeldAnswer {
    /// On another thread, because the test goes on.
    fn hold(answer: &Arc<Mutex<Answer>>) -> HeldAnswer {
        let answer = answer.clone();
        let (locked, is_locked) = channel();
        let (release, released) = channel::<()>();
        let holding = std::thread::spawn(move || {
            let _locked = answer.lock();
            locked.send(()).unwrap();
            let _ = released.recv();
        });
        is_locked.recv().unwrap();
        HeldAnswer(Some((release, holding)))
    }
}

impl Drop for HeldAnswer {
    fn drop(&mut self) {
        if let Some((release, holding)) = self.0.take() {
            drop(release);
            holding.join().unwrap();
        }
    }
}

#[actix_web::test]
async fn slow_read_counts_as_failed() {
    let fixture = Fixture::start(Ok(vec![stored(1, Some(at(60))), stored(2, None)]));
    fixture.until_received(&[&[1, 2]]).await;
    let held = HeldAnswer::hold(&fixture.answer);
    until("the database responds too slowly", || {
        fixture.metrics.hold_read_errors.get() > 0
    })
    .await;
    assert!(fixture.health.problem().is_some());
    *fixture.clock.lock() = at(60);
    fixture.until_received(&[&[1, 2], &[2]]).await;
    drop(held);
    until("the database responds again", || {
        fixture.health.problem().is_none()
    })
    .await;
}

/// Its first read never ends.
struct HangingStore {
    reads: AtomicUsize,
    end: Mutex<Receiver<()>>,
}

impl HoldStore for HangingStore {
    fn set_hold(&self, _: &HoldOrder) -> Result<i64, StoreError> {
        unreachable!()
    }

    fn release_hold(&self, _: i64, _: &HoldStep) -> Result<Released, StoreError> {
        unreachable!()
    }

    fn holds(&self, _: Option<Timestamp>) -> Answer {
        if self.reads.fetch_add(1, Ordering::Relaxed) == 0 {
            let _ = self.end.lock().recv();
        }
        Ok(Vec::new())
    }

    fn count_open_markets(&self, _: &HoldScope) -> Result<u64, StoreError> {
        unreachable!()
    }
}

/// The next try does not wait for a read that hangs.
#[actix_web::test]
async fn read_that_never_returns_is_repeated() {
    let (end, ended) = channel();
    let store = Arc::new(HangingStore {
        reads: AtomicUsize::new(0),
        end: Mutex::new(ended),
    });
    let received: Arc<Mutex<Vec<Vec<i64>>>> = Arc::default();
    let metrics = OddsMetrics::new().unwrap();
    let keeper = ProbeKeeper(received.clone()).start().recipient();
    let clock = Clock::of(|| at(0));
    let poller = HoldPoller::new(store, keeper, clock, metrics.clone());
    let health = poller.health();
    poller.start();
    until("holds from the second read", || received.lock().len() == 1).await;
    assert_eq!(metrics.hold_read_errors.get(), 1);
    assert_eq!(health.problem(), None);
    drop(end);
}

#[actix_web::test]
async fn hanging_reads_take_few_threads() {
    let answer = Arc::new(Mutex::new(Ok(Vec::new())));
    let store = Arc::new(FixedStore(answer.clone()));
    let turns = Arc::new(Semaphore::new(MAX_READS));
    let held = HeldAnswer::hold(&answer);
    for _ in 0..2 * MAX_READS {
        let limit = Duration::from_millis(20);
        let failed = read(store.clone(), at(0), turns.clone(), limit).await;
        let failed = failed.unwrap_err().to_string();
        assert!(failed.contains("has not responded for 20ms"), "{failed}");
    }
    // The test, and one for each read that was started.
    assert!(Arc::strong_count(&store) <= 1 + MAX_READS);
    drop(held);
    let read = read(store, at(0), turns, READ_TIMEOUT).await;
    assert_eq!(read.unwrap(), []);
}

#[actix_web::test]
async fn holds_are_unknown_before_the_first_read() {
    let fixture = Fixture::start(Ok(Vec::new()));
    let before = fixture.health.problem().unwrap();
    assert!(before.contains("have not been read yet"), "{before}");
    fixture.until_received(&[&[]]).await;
    assert_eq!(fixture.health.problem(), None);
}
