//! Partition reassignment and shutdown, on a durable bus.

use pretty_assertions::assert_eq;

use super::*;
use crate::bus::health::SubscriptionHealth;

/// Commits in order; an empty entry marks leaving the group.
type Commits = Arc<Mutex<Vec<Vec<(u32, u64)>>>>;

/// A durable subscription that delivers the events of a test and records commits.
struct Scripted {
    receiver: tokio::sync::mpsc::UnboundedReceiver<ConsumerEvent>,
    committed: Commits,
}

impl Subscription for Scripted {
    fn next_batch(
        &mut self,
        _: usize,
        _: Duration,
    ) -> BoxFuture<'_, Result<ConsumerEvent, BusError>> {
        async move { self.receiver.recv().await.ok_or(BusError::Closed) }.boxed()
    }

    fn commit(&mut self, done: &Position) {
        self.committed.lock().unwrap().push(done.iter().collect());
    }

    fn lag(&self) -> u64 {
        7
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn health(&self) -> SubscriptionHealth {
        SubscriptionHealth::joined("g")
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.committed.lock().unwrap().push(Vec::new());
        std::future::ready(()).boxed()
    }
}

fn record(partition: u32, offset: u64, bet: &Bet) -> Record {
    let record = NewRecord {
        key: Bytes::from_static(b"k"),
        payload: bet_placed(bet).into(),
        headers: Vec::new(),
    };
    Record {
        partition,
        offset,
        published_at: None,
        record,
    }
}

/// Work on a revoked partition is dropped.
#[actix_web::test]
async fn revoked_partition_is_dropped() {
    let fixture = fixture(PATIENT, |_, _| {
        Behaviour::After(
            2 * SECOND,
            Answer::Confirmed {
                provider_ref: String::new(),
            },
        )
    });
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let committed = Commits::default();
    let subscription = Scripted {
        receiver,
        committed: committed.clone(),
    };
    let consumer = fixture.start_on(
        SETTINGS,
        Box::new(subscription),
        Arc::new(fixture.dead.clone()),
    );
    let bets: Vec<_> = (0..2)
        .map(|_| pending_bet(fixture.clock.now(), DEADLINE))
        .collect();
    for bet in &bets {
        fixture.store.place(bet.clone());
    }
    sender
        .send(ConsumerEvent::Records(vec![
            record(0, 5, &bets[0]),
            record(1, 9, &bets[1]),
        ]))
        .unwrap();
    fixture
        .until(|| fixture.supplier.confirm_requests() == 2)
        .await;
    let moved = ConsumerEvent::Revoked {
        partitions: vec![0],
        are_records_lost: false,
    };
    sender.send(moved).unwrap();
    fixture.decided(bets[1].id).await;
    tokio::time::sleep(DEADLINE / 2).await;
    assert_eq!(
        fixture.store.status(bets[0].id),
        BetStatus::Pending,
        "its new owner decides it"
    );
    let last = committed.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last, [(1, 10)]);
    assert_eq!(fixture.metrics.in_flight.get(), 0);
    // The partition is assigned again and processed from its last committed offset.
    sender
        .send(ConsumerEvent::Records(vec![record(0, 5, &bets[0])]))
        .unwrap();
    fixture.decided(bets[0].id).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(
        committed.lock().unwrap().last().cloned().unwrap(),
        [(0, 6), (1, 10)]
    );
    // A closed bus stops the actor, and the process with it.
    drop(sender);
    fixture.until(|| !consumer.connected()).await;
}

/// Shutdown waits for bets in flight, commits, and leaves the group.
#[actix_web::test]
async fn drain_waits_commits_and_leaves() {
    let fixture = fixture(PATIENT, |bet, _| match bet.stake.cents() {
        7 => Behaviour::Silent,
        _ => Behaviour::After(
            SECOND,
            Answer::Confirmed {
                provider_ref: String::new(),
            },
        ),
    });
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let committed = Commits::default();
    let subscription = Scripted {
        receiver,
        committed: committed.clone(),
    };
    let settings = BetConsumerSettings {
        drain_limit: 2 * SECOND,
        ..SETTINGS
    };
    let consumer = fixture.start_on(
        settings,
        Box::new(subscription),
        Arc::new(fixture.dead.clone()),
    );
    let quick = pending_bet(fixture.clock.now(), DEADLINE);
    let slow = Bet {
        stake: Amount::new(7).unwrap(),
        ..pending_bet(fixture.clock.now(), DEADLINE)
    };
    let unread = pending_bet(fixture.clock.now(), DEADLINE);
    for bet in [&quick, &slow, &unread] {
        fixture.store.place(bet.clone());
    }
    sender
        .send(ConsumerEvent::Records(vec![
            record(0, 0, &quick),
            record(0, 1, &slow),
        ]))
        .unwrap();
    fixture
        .until(|| fixture.supplier.confirm_requests() == 2)
        .await;
    let started = Instant::now();
    let draining = consumer.send(Drain);
    tokio::time::sleep(SECOND / 100).await;
    sender
        .send(ConsumerEvent::Records(vec![record(0, 2, &unread)]))
        .unwrap();
    draining.await.unwrap();
    assert!(
        started.elapsed() >= 2 * SECOND && started.elapsed() < 3 * SECOND,
        "{:?}",
        started.elapsed()
    );
    assert_eq!(fixture.store.status(quick.id), BetStatus::Confirmed);
    assert_eq!(
        (
            fixture.store.status(slow.id),
            fixture.store.status(unread.id)
        ),
        (BetStatus::Pending, BetStatus::Pending)
    );
    let committed = committed.lock().unwrap().clone();
    assert_eq!(
        committed.last(),
        Some(&Vec::new()),
        "closed after the last commit"
    );
    assert_eq!(
        committed.iter().rev().nth(1),
        Some(&vec![(0, 1)]),
        "the slow bet is left to the next process"
    );
    assert!(
        consumer.connected(),
        "a drained consumer did not end because of a fault"
    );
}
