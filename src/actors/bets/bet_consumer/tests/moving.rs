//! Partitions that come and go, and a process that stops, on a bus that keeps its records.

use pretty_assertions::assert_eq;

use super::*;
use crate::bus::health::SubscriptionHealth;

/// What was committed, in its order; nothing where the group was left.
type Commits = Arc<Mutex<Vec<Vec<(u32, u64)>>>>;

/// A durable subscription that gives what a test puts in, and notes what is committed.
struct Scripted {
    given: tokio::sync::mpsc::UnboundedReceiver<ConsumerEvent>,
    committed: Commits,
}

impl Subscription for Scripted {
    fn next_batch(
        &mut self,
        _: usize,
        _: Duration,
    ) -> BoxFuture<'_, Result<ConsumerEvent, BusError>> {
        async move { self.given.recv().await.ok_or(BusError::Closed) }.boxed()
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

#[actix_web::test]
async fn of_a_partition_that_is_read_elsewhere_it_lets_go() {
    let bench = bench(PATIENT, |_, _| {
        Behaviour::After(
            2 * SECOND,
            Answer::Confirmed {
                provider_ref: String::new(),
            },
        )
    });
    let (give, given) = tokio::sync::mpsc::unbounded_channel();
    let committed = Commits::default();
    let subscription = Scripted {
        given,
        committed: committed.clone(),
    };
    let confirmer = bench.start_on(
        SETTINGS,
        Box::new(subscription),
        Arc::new(bench.dead.clone()),
    );
    let bets: Vec<_> = (0..2)
        .map(|_| pending_bet(bench.clock.now(), DEADLINE))
        .collect();
    for bet in &bets {
        bench.store.place(bet.clone());
    }
    give.send(ConsumerEvent::Records(vec![
        record(0, 5, &bets[0]),
        record(1, 9, &bets[1]),
    ]))
    .unwrap();
    bench.until(|| bench.supplier.asked() == 2).await;
    give.send(ConsumerEvent::Revoked(vec![0])).unwrap();
    bench.decided(bets[1].id).await;
    tokio::time::sleep(DEADLINE / 2).await;
    assert_eq!(
        bench.store.status(bets[0].id),
        BetStatus::Pending,
        "others see to it"
    );
    let last = committed.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last, [(1, 10)]);
    assert_eq!(bench.metrics.in_flight.get(), 0);
    // It comes back, and is done from its beginning.
    give.send(ConsumerEvent::Records(vec![record(0, 5, &bets[0])]))
        .unwrap();
    bench.decided(bets[0].id).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(
        committed.lock().unwrap().last().cloned().unwrap(),
        [(0, 6), (1, 10)]
    );
    // A bus that is closed ends it, and the process with it.
    drop(give);
    bench.until(|| !confirmer.connected()).await;
}

#[actix_web::test]
async fn a_stop_waits_for_the_bets_in_work_commits_and_leaves() {
    let bench = bench(PATIENT, |bet, _| match bet.stake.cents() {
        7 => Behaviour::Silent,
        _ => Behaviour::After(
            SECOND,
            Answer::Confirmed {
                provider_ref: String::new(),
            },
        ),
    });
    let (give, given) = tokio::sync::mpsc::unbounded_channel();
    let committed = Commits::default();
    let subscription = Scripted {
        given,
        committed: committed.clone(),
    };
    let settings = ConfirmerSettings {
        drain_limit: 2 * SECOND,
        ..SETTINGS
    };
    let confirmer = bench.start_on(
        settings,
        Box::new(subscription),
        Arc::new(bench.dead.clone()),
    );
    let quick = pending_bet(bench.clock.now(), DEADLINE);
    let slow = Bet {
        stake: Amount::new(7).unwrap(),
        ..pending_bet(bench.clock.now(), DEADLINE)
    };
    let unread = pending_bet(bench.clock.now(), DEADLINE);
    for bet in [&quick, &slow, &unread] {
        bench.store.place(bet.clone());
    }
    give.send(ConsumerEvent::Records(vec![
        record(0, 0, &quick),
        record(0, 1, &slow),
    ]))
    .unwrap();
    bench.until(|| bench.supplier.asked() == 2).await;
    let started = Instant::now();
    let draining = confirmer.send(Drain);
    tokio::time::sleep(SECOND / 100).await;
    give.send(ConsumerEvent::Records(vec![record(0, 2, &unread)]))
        .unwrap();
    draining.await.unwrap();
    assert!(
        started.elapsed() >= 2 * SECOND && started.elapsed() < 3 * SECOND,
        "{:?}",
        started.elapsed()
    );
    assert_eq!(bench.store.status(quick.id), BetStatus::Confirmed);
    assert_eq!(
        (bench.store.status(slow.id), bench.store.status(unread.id)),
        (BetStatus::Pending, BetStatus::Pending)
    );
    let committed = committed.lock().unwrap().clone();
    assert_eq!(
        committed.last(),
        Some(&Vec::new()),
        "closed behind everything"
    );
    assert_eq!(
        committed.iter().rev().nth(1),
        Some(&vec![(0, 1)]),
        "the slow one is the next process's"
    );
    assert!(
        confirmer.connected(),
        "one that has drained did not end by a fault"
    );
}
