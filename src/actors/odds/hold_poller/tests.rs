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

/// No further read starts while one is in flight.
#[actix_web::test]
async fn slow_read_counts_as_failed() {
    let fixture = Fixture::start(Ok(Vec::new()));
    fixture.until_received(&[&[]]).await;
    let answer = fixture.answer.clone();
    // Released on another thread: the reads of the poller wait for it.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let holding = std::thread::spawn(move || {
        let _locked = answer.lock();
        released.recv().unwrap();
    });
    until("the database responds too slowly", || {
        let mut now = fixture.clock.lock();
        *now = now.later_by(Duration::from_millis(100));
        fixture.health.problem().is_some()
    })
    .await;
    release.send(()).unwrap();
    holding.join().unwrap();
    until("the database responds again", || {
        fixture.health.problem().is_none()
    })
    .await;
}

#[actix_web::test]
async fn holds_are_unknown_before_the_first_read() {
    let fixture = Fixture::start(Ok(Vec::new()));
    let before = fixture.health.problem().unwrap();
    assert!(before.contains("have not been read yet"), "{before}");
    fixture.until_received(&[&[]]).await;
    assert_eq!(fixture.health.problem(), None);
}
