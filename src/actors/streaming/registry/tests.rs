use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::testing::*;

/// Records the event and sequence number of each change. A slow probe takes `takes` for each.
struct ProbeDistributor {
    taken: Arc<Mutex<Vec<(String, u64)>>>,
    takes: Duration,
}

impl Actor for ProbeDistributor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(1);
    }
}

impl Handler<Deliver> for ProbeDistributor {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, context: &mut Context<Self>) {
        let taken = deliver
            .delivery
            .frames()
            .iter()
            .map(|frame| (deliver.event_id.to_string(), frame.seq));
        self.taken.lock().unwrap().extend(taken);
        context.wait(tokio::time::sleep(self.takes).into_actor(self));
    }
}

impl Handler<FeedChanged> for ProbeDistributor {
    type Result = ();

    fn handle(&mut self, _: FeedChanged, _: &mut Context<Self>) {}
}

impl Handler<RevocationsChanged> for ProbeDistributor {
    type Result = ();

    fn handle(&mut self, _: RevocationsChanged, _: &mut Context<Self>) {}
}

impl Handler<EndAllSessions> for ProbeDistributor {
    type Result = ();

    fn handle(&mut self, _: EndAllSessions, context: &mut Context<Self>) {
        context.stop();
    }
}

struct Probe {
    id: DistributorId,
    taken: Arc<Mutex<Vec<(String, u64)>>>,
    address: Addr<ProbeDistributor>,
}

impl Probe {
    fn taken(&self) -> Vec<(String, u64)> {
        self.taken.lock().unwrap().clone()
    }
}

async fn joined(registry: &Addr<Registry>, takes: Duration) -> Probe {
    let taken = Arc::default();
    let address = ProbeDistributor {
        taken: Arc::clone(&taken),
        takes,
    }
    .start();
    let join = Join {
        deliver: address.clone().recipient(),
        feed: address.clone().recipient(),
        revocations: address.clone().recipient(),
        end: address.clone().recipient(),
    };
    let id = registry.send(join).await.unwrap().id;
    Probe { id, taken, address }
}

async fn follow(registry: &Addr<Registry>, probe: &Probe, event: &str) {
    let event_id = EventId::new(event).unwrap();
    registry
        .send(Follow {
            distributor: probe.id,
            event_id,
        })
        .await
        .unwrap();
}

async fn change(registry: &Addr<Registry>, event: &str, seq: u64) {
    let update = market_update(event, "1x2", None, seq as i64, 1);
    let states = Arc::new([Arc::new(MarketState { update, seq })]);
    registry
        .send(BookChanged {
            traced: None,
            states,
            conflated: false,
            restated: None,
        })
        .await
        .unwrap();
}

/// Waits until a probe has received these changes.
async fn until_taken(probe: &Probe, event: &str, numbers: std::ops::RangeInclusive<u64>) {
    let expected: Vec<_> = numbers.map(|seq| (event.to_owned(), seq)).collect();
    for _ in 0..1_000 {
        if probe.taken() == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!(
        "timed out after 10 s: got {:?}, expected {expected:?}",
        probe.taken()
    );
}

/// A thread receives the changes of an event only while it follows that event.
#[actix_web::test]
async fn thread_receives_only_followed_events() {
    let registry = Registry::new(OddsMetrics::new().unwrap(), Arc::default()).start();
    let one = joined(&registry, Duration::ZERO).await;
    let other = joined(&registry, Duration::ZERO).await;
    assert_ne!(one.id, other.id);
    follow(&registry, &one, "A").await;
    follow(&registry, &one, "A").await;
    follow(&registry, &other, "B").await;
    change(&registry, "A", 1).await;
    change(&registry, "B", 2).await;
    change(&registry, "C", 3).await;
    until_taken(&one, "A", 1..=1).await;
    until_taken(&other, "B", 2..=2).await;
    registry
        .send(Unfollow {
            distributor: one.id,
            event_id: EventId::new("A").unwrap(),
        })
        .await
        .unwrap();
    change(&registry, "A", 4).await;
    follow(&registry, &one, "A").await;
    change(&registry, "A", 2).await;
    until_taken(&other, "B", 2..=2).await;
    until_taken(&one, "A", 1..=2).await;
}

/// A slow thread applies backpressure to the books, and no change is lost.
#[actix_web::test]
async fn slow_thread_applies_backpressure() {
    let registry = Registry::new(OddsMetrics::new().unwrap(), Arc::default()).start();
    let slow = joined(&registry, Duration::from_millis(5)).await;
    follow(&registry, &slow, "A").await;
    for seq in 1..=40 {
        change(&registry, "A", seq).await;
    }
    assert!(
        slow.taken().len() > 10,
        "books continue only when there is room"
    );
    until_taken(&slow, "A", 1..=40).await;
}

/// A stopped thread is removed; the others continue.
#[actix_web::test]
async fn stopped_thread_is_removed() {
    let registry = Registry::new(OddsMetrics::new().unwrap(), Arc::default()).start();
    let gone = joined(&registry, Duration::ZERO).await;
    let other = joined(&registry, Duration::ZERO).await;
    follow(&registry, &gone, "A").await;
    follow(&registry, &other, "A").await;
    gone.address
        .send(EndAllSessions {
            reason: CloseReason::GoingAway,
            spread: Duration::ZERO,
        })
        .await
        .unwrap();
    for seq in 1..=3 {
        change(&registry, "A", seq).await;
    }
    until_taken(&other, "A", 1..=3).await;
    assert!(gone.taken().is_empty());
}
