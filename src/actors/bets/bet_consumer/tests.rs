//! The bet consumer on the embedded bus, with failures of the supplier, the database and the bus.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::prelude::*;
use bytes::Bytes;
use pretty_assertions::assert_eq;

use super::*;
use crate::actors::bets::confirmation::ConfirmationSettings;
use crate::actors::bets::supplier_client::{GuardSettings, SupplierClient};
use crate::actors::testing::money::{FakeMoney, ProbeEdges};
use crate::actors::testing::supplier::{Behaviour, ProbeSupplier, confirmed, rejected};
use crate::bus::embedded::EmbeddedTopic;
use crate::bus::{NewRecord, Topic, dead_letter};
use crate::domain::bets::bet::{Bet, BetId, BetStatus, SUPPLIER_TIMEOUT};
use crate::domain::bets::bet_events::{bet_placed, testing::pending_bet};
use crate::domain::wallet::amount::Amount;
use crate::runtime::backoff::BackoffPolicy;
use crate::runtime::circuit_breaker::BreakerPolicy;
use crate::runtime::clock::Clock;
use crate::runtime::drain::Drain;
use crate::store::money::CancelQueue;
use crate::store::request_batcher::ConcurrencyLimit;
use crate::supplier::confirm::{Answer, SupplierError};

const SECOND: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(10);
const PATIENT: BreakerPolicy = BreakerPolicy {
    failures: 1_000,
    pause: SECOND,
};

/// A bet consumer with everything it depends on.
struct Fixture {
    store: Arc<FakeMoney>,
    supplier: Arc<ProbeSupplier>,
    guarded: Arc<SupplierClient>,
    topic: EmbeddedTopic,
    dead: EmbeddedTopic,
    edges: ProbeEdges,
    clock: Clock,
    metrics: ConfirmationMetrics,
}

fn fixture(
    breaker: BreakerPolicy,
    behave: impl Fn(&Bet, usize) -> Behaviour + Send + 'static,
) -> Fixture {
    tokio::time::pause();
    let clock = Clock::of_tokio();
    let metrics = ConfirmationMetrics::new().unwrap();
    let supplier = Arc::new(ProbeSupplier::new(behave));
    let guard = GuardSettings {
        timeout: 3 * SECOND,
        breaker,
    };
    let guarded = Arc::new(SupplierClient::new(
        supplier.clone(),
        guard,
        clock.clone(),
        metrics.clone(),
    ));
    Fixture {
        store: Arc::new(FakeMoney::default()),
        supplier,
        guarded,
        topic: EmbeddedTopic::new("bet_placed", 1, 10_000),
        dead: EmbeddedTopic::new("bet_placed_dlq", 1, 100),
        edges: ProbeEdges::new(),
        clock,
        metrics,
    }
}

const SETTINGS: BetConsumerSettings = BetConsumerSettings {
    at_once: 8,
    ahead: 100,
    drain_limit: Duration::from_secs(30),
};

impl Fixture {
    fn start(&self) -> Addr<DrainableTask> {
        self.start_on(
            SETTINGS,
            self.topic.subscribe("bet-confirmation").unwrap(),
            Arc::new(self.dead.clone()),
        )
    }

    fn start_on(
        &self,
        settings: BetConsumerSettings,
        subscription: Box<dyn Subscription>,
        dead_letters: Arc<dyn Topic>,
    ) -> Addr<DrainableTask> {
        self.consumer(settings, subscription, dead_letters)
            .into_task()
            .start()
    }

    fn consumer(
        &self,
        settings: BetConsumerSettings,
        subscription: Box<dyn Subscription>,
        dead_letters: Arc<dyn Topic>,
    ) -> BetConsumer {
        let retry = BackoffPolicy {
            first: SECOND / 10,
            most: SECOND,
        };
        let confirmation_settings = ConfirmationSettings {
            topic: "bet_placed".to_owned(),
            retry,
            turns: ConcurrencyLimit::new(2),
            max_batch: 16,
        };
        let decider = self.edges.decider(&self.store, &self.clock, &self.metrics);
        let store = self.store.clone();
        let supplier = self.guarded.clone();
        let clock = self.clock.clone();
        let metrics = self.metrics.clone();
        let confirmation = BetConfirmation::new(
            confirmation_settings,
            store,
            supplier,
            decider,
            dead_letters,
            clock,
            metrics,
        );
        BetConsumer::new(settings, subscription, confirmation, self.metrics.clone())
    }

    /// Places a bet in the database and on the bus.
    async fn place(&self) -> BetId {
        let bet = pending_bet(self.clock.now(), DEADLINE);
        self.publish(bet_placed(&bet)).await;
        self.store.place(bet)
    }

    async fn publish(&self, payload: impl Into<Bytes>) {
        let record = NewRecord {
            key: Bytes::from_static(b"k"),
            payload: payload.into(),
            headers: Vec::new(),
        };
        self.topic.publish(vec![record]).await.unwrap();
    }

    async fn decided(&self, id: BetId) -> Bet {
        self.until(|| self.store.status(id) != BetStatus::Pending)
            .await;
        self.store.get(id)
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        for _ in 0..100_000 {
            if condition() {
                return;
            }
            tokio::time::sleep(SECOND / 100).await;
        }
        panic!("timed out waiting for the condition");
    }

    fn calls(&self, outcome: &str) -> u64 {
        self.metrics
            .supplier_calls
            .with_label_values(&[outcome])
            .get()
    }

    /// Time from placement to decision of a bet.
    fn took(&self, bet: &Bet) -> Duration {
        Duration::from_secs_f64(bet.decided_at.unwrap().seconds_since(bet.placed_at))
    }
}

/// The supplier's answer decides the bet and is published.
#[actix_web::test]
async fn supplier_answer_decides_bet() {
    let fixture = fixture(PATIENT, |bet, _| {
        if bet.stake.cents() == 1_500 {
            confirmed()
        } else {
            rejected("odds moved")
        }
    });
    let consumer = fixture.start();
    let taken = fixture.place().await;
    let refused = Bet {
        stake: Amount::new(1).unwrap(),
        ..pending_bet(fixture.clock.now(), DEADLINE)
    };
    // Stake and price in the record are ignored; the database row counts.
    fixture
        .publish(bet_placed(&Bet {
            stake: Amount::new(1_500).unwrap(),
            ..refused.clone()
        }))
        .await;
    let refused = fixture.store.place(refused);
    consumer.send(Drain).await.unwrap();
    let taken = fixture.store.get(taken);
    let refused = fixture.store.get(refused);
    assert_eq!(
        (taken.status, taken.provider_ref.as_deref()),
        (BetStatus::Confirmed, Some("SUP-1"))
    );
    assert_eq!(
        (refused.status, refused.reason.as_deref()),
        (BetStatus::Rejected, Some("odds moved"))
    );
    assert_eq!(
        (fixture.topic.depth(), fixture.edges.cancel_messages()),
        (0, 0)
    );
    let rows = fixture.edges.rows();
    let published: BTreeMap<_, _> = rows
        .iter()
        .map(|row| (row.key.clone(), row.payload.contains("CONFIRMED")))
        .collect();
    assert_eq!(
        published,
        BTreeMap::from([
            (taken.id.to_string(), true),
            (refused.id.to_string(), false)
        ])
    );
    let decided = |outcome| fixture.metrics.decided.with_label_values(&[outcome]).get();
    assert_eq!(
        (
            decided("confirmed"),
            decided("rejected"),
            fixture.metrics.consumed.get()
        ),
        (1, 1, 2)
    );
}

/// Failed requests are retried with growing delays until the supplier answers.
#[actix_web::test]
async fn failed_requests_are_retried_with_backoff() {
    let fixture = fixture(PATIENT, |_, attempt| match attempt {
        0 => Behaviour::Fail(SupplierError::Status(500)),
        1 => Behaviour::Fail(SupplierError::Unreadable("garbage".to_owned())),
        2 => Behaviour::Fail(SupplierError::UnknownVariant("MAYBE".to_owned())),
        3 => Behaviour::Silent,
        _ => confirmed(),
    });
    let _consumer = fixture.start();
    let bet = fixture.place().await;
    let bet = fixture.decided(bet).await;
    assert_eq!(bet.status, BetStatus::Confirmed);
    let times = fixture.supplier.asked_of(bet.id);
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        gaps[0] >= SECOND / 10 && gaps[1] >= SECOND / 5 && gaps[2] >= 2 * SECOND / 5,
        "{gaps:?}"
    );
    assert!(gaps[3] >= 3 * SECOND, "the timeout comes first: {gaps:?}");
    let outcomes = [
        "status",
        "unreadable",
        "unknown_word",
        "timeout",
        "confirmed",
    ]
    .map(|outcome| fixture.calls(outcome));
    assert_eq!(outcomes, [1; 5]);
}

/// An unanswered bet is rejected at its deadline, and a late answer does not change that.
#[actix_web::test]
async fn unanswered_bet_is_rejected_at_deadline() {
    // The supplier never answers the first bet; it answers the second after the deadline.
    let late = Behaviour::After as fn(Duration, Answer) -> Behaviour;
    let fixture = fixture(PATIENT, move |bet, attempt| {
        match (bet.stake.cents(), attempt) {
            (1_500, _) => Behaviour::Silent,
            (_, 0) => Behaviour::Fail(SupplierError::Status(503)),
            _ => late(
                DEADLINE,
                Answer::Confirmed {
                    provider_ref: "late".to_owned(),
                },
            ),
        }
    });
    let consumer = fixture.start();
    let silent = fixture.place().await;
    let late = Bet {
        stake: Amount::new(7).unwrap(),
        ..pending_bet(fixture.clock.now(), DEADLINE)
    };
    fixture.publish(bet_placed(&late)).await;
    let late = fixture.store.place(late);
    for id in [silent, late] {
        let bet = fixture.decided(id).await;
        assert_eq!(
            (bet.status, bet.reason.as_deref()),
            (BetStatus::Rejected, Some(SUPPLIER_TIMEOUT))
        );
        assert!(
            fixture.took(&bet) >= DEADLINE && fixture.took(&bet) < DEADLINE + SECOND / 10,
            "{:?}",
            fixture.took(&bet)
        );
    }
    // The record is delivered again, and now the supplier would confirm the bet.
    fixture.supplier.behave(|_, _| confirmed());
    let confirm_requests = fixture.supplier.confirm_requests();
    fixture.publish(bet_placed(&fixture.store.get(late))).await;
    tokio::time::sleep(2 * DEADLINE).await;
    assert_eq!(
        (
            fixture.store.status(late),
            fixture.supplier.confirm_requests()
        ),
        (BetStatus::Rejected, confirm_requests)
    );
    assert_eq!(
        (
            fixture.store.open_cancels().unwrap(),
            fixture.edges.cancel_messages()
        ),
        (2, 2)
    );
    consumer.send(Drain).await.unwrap();
    assert_eq!(fixture.topic.depth(), 0);
}

#[actix_web::test]
async fn expired_bet_is_not_requested() {
    let fixture = fixture(PATIENT, |_, _| confirmed());
    let bet = fixture.place().await;
    tokio::time::sleep(2 * DEADLINE).await;
    let _consumer = fixture.start();
    let bet = fixture.decided(bet).await;
    assert_eq!(
        (bet.reason.as_deref(), fixture.supplier.confirm_requests()),
        (Some(SUPPLIER_TIMEOUT), 0)
    );
}

/// A slow bet does not block later ones, and no more than `at_once` bets are in flight.
#[actix_web::test]
async fn slow_head_does_not_block_others() {
    let fixture = fixture(PATIENT, |bet, _| match bet.stake.cents() {
        7 => Behaviour::Silent,
        _ => Behaviour::After(
            SECOND / 10,
            Answer::Confirmed {
                provider_ref: String::new(),
            },
        ),
    });
    let consumer = fixture.start();
    let head = Bet {
        stake: Amount::new(7).unwrap(),
        ..pending_bet(fixture.clock.now(), DEADLINE)
    };
    fixture.publish(bet_placed(&head)).await;
    let head = fixture.store.place(head);
    let mut others = Vec::new();
    for _ in 0..50 {
        others.push(fixture.place().await);
    }
    for id in others {
        let bet = fixture.decided(id).await;
        assert!(fixture.took(&bet) < 2 * SECOND, "{:?}", fixture.took(&bet));
    }
    assert_eq!(fixture.store.status(head), BetStatus::Pending);
    assert_eq!(
        fixture.topic.depth(),
        51,
        "no later offset is committed before the head is done"
    );
    assert_eq!(fixture.supplier.most_at_once(), SETTINGS.at_once);
    fixture.decided(head).await;
    consumer.send(Drain).await.unwrap();
    assert_eq!(
        (
            fixture.topic.depth(),
            fixture.metrics.in_flight.get(),
            fixture.metrics.bus_lag.get()
        ),
        (0, 0, 0)
    );
}

#[actix_web::test]
async fn read_ahead_is_bounded() {
    let fixture = fixture(PATIENT, |bet, _| {
        if bet.stake.cents() == 7 {
            Behaviour::Silent
        } else {
            confirmed()
        }
    });
    let settings = BetConsumerSettings {
        ahead: 10,
        ..SETTINGS
    };
    let subscription = fixture.topic.subscribe("bet-confirmation").unwrap();
    let _consumer = fixture.start_on(settings, subscription, Arc::new(fixture.dead.clone()));
    let head = Bet {
        stake: Amount::new(7).unwrap(),
        ..pending_bet(fixture.clock.now(), DEADLINE)
    };
    fixture.publish(bet_placed(&head)).await;
    let head = fixture.store.place(head);
    for _ in 0..50 {
        fixture.place().await;
    }
    tokio::time::sleep(DEADLINE / 2).await;
    let read = 51 - fixture.topic.unread("bet-confirmation");
    assert!(
        (10..=10 + SETTINGS.at_once as u64).contains(&read),
        "{read}"
    );
    fixture.decided(head).await;
    fixture.until(|| fixture.topic.depth() == 0).await;
}

/// A database outage delays the decision; no record is committed before its bet is decided.
#[actix_web::test]
async fn database_outage_delays_decision_and_commit() {
    let fixture = fixture(PATIENT, |_, _| {
        Behaviour::After(
            SECOND,
            Answer::Confirmed {
                provider_ref: "S".to_owned(),
            },
        )
    });
    let subscription = fixture.topic.subscribe("bet-confirmation").unwrap();
    let consumer = fixture.consumer(SETTINGS, subscription, Arc::new(fixture.dead.clone()));
    let health = consumer.health();
    let _consumer = consumer.into_task().start();
    // The database is unavailable when the bet is read.
    fixture.store.go_away();
    let first = fixture.place().await;
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(
        (fixture.supplier.confirm_requests(), fixture.topic.depth()),
        (0, 1)
    );
    fixture.store.come_back();
    fixture
        .until(|| fixture.supplier.confirm_requests() == 1)
        .await;
    // The database is unavailable when the bet is decided.
    fixture.store.go_away();
    let tried = fixture.store.decisions();
    tokio::time::sleep(3 * SECOND).await;
    assert!(fixture.store.decisions() > tried + 2);
    assert_eq!(fixture.topic.depth(), 1);
    assert_eq!(health.problem().as_deref(), Some("bets cannot be decided"));
    fixture.store.come_back();
    assert_eq!(fixture.decided(first).await.status, BetStatus::Confirmed);
    fixture.until(|| fixture.topic.depth() == 0).await;
    assert_eq!(
        (fixture.supplier.confirm_requests(), health.problem()),
        (1, None)
    );
    assert!(fixture.metrics.errors.with_label_values(&["store"]).get() > 3);
}

#[actix_web::test]
async fn invalid_record_is_dead_lettered_before_commit() {
    let fixture = fixture(PATIENT, |_, _| confirmed());
    let mut dead_group = fixture.dead.subscribe("g").unwrap();
    let away = Arc::new(AwayAtFirst {
        inner: fixture.dead.clone(),
        is_away: AtomicBool::new(true),
    });
    let consumer = fixture.start_on(
        SETTINGS,
        fixture.topic.subscribe("bet-confirmation").unwrap(),
        away.clone(),
    );
    let unknown = pending_bet(fixture.clock.now(), DEADLINE);
    let unreadable = fixture.place().await;
    fixture.store.make_unreadable(unreadable);
    fixture.publish(&b"{garbage"[..]).await;
    fixture.publish(bet_placed(&unknown)).await;
    let good = fixture.place().await;
    assert_eq!(fixture.decided(good).await.status, BetStatus::Confirmed);
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(
        fixture.topic.depth(),
        4,
        "nothing is committed while the dead letter topic is unavailable"
    );
    assert!(
        fixture
            .metrics
            .errors
            .with_label_values(&["dead_letter"])
            .get()
            > 3
    );
    away.is_away.store(false, Ordering::SeqCst);
    consumer.send(Drain).await.unwrap();
    assert_eq!((fixture.topic.depth(), fixture.dead.depth()), (0, 3));
    let ConsumerEvent::Records(dead) = dead_group.next_batch(9, Duration::ZERO).await.unwrap()
    else {
        panic!("revoked")
    };
    let mut letters: Vec<_> = dead
        .iter()
        .map(|record| {
            (
                dead_letter::read(record).reason,
                record.header("source_offset").unwrap().to_owned(),
            )
        })
        .collect();
    letters.sort();
    let expected = [
        ("malformed", "1"),
        ("unknown_bet", "2"),
        ("unreadable_bet", "0"),
    ];
    assert_eq!(
        letters,
        expected.map(|(reason, offset)| (reason.to_owned(), offset.to_owned()))
    );
    assert_eq!(dead[0].header("source_topic"), Some("bet_placed"));
    let counted = |reason| {
        fixture
            .metrics
            .dead_letters
            .with_label_values(&[reason])
            .get()
    };
    assert_eq!(
        (
            counted("malformed"),
            counted("unknown_bet"),
            counted("unreadable_bet")
        ),
        (1, 1, 1)
    );
}

/// A topic that is unavailable until `is_away` is cleared.
struct AwayAtFirst {
    inner: EmbeddedTopic,
    is_away: AtomicBool,
}

impl Topic for AwayAtFirst {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        if self.is_away.load(Ordering::SeqCst) {
            return std::future::ready(Err(BusError::Unavailable("away".to_owned()))).boxed();
        }
        self.inner.publish(records)
    }

    fn subscribe(&self, group: &str) -> Result<Box<dyn Subscription>, BusError> {
        self.inner.subscribe(group)
    }

    fn depth(&self) -> usize {
        self.inner.depth()
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), BusError>> {
        self.inner.ping()
    }
}

/// No request is sent while the circuit is open; after it closes, all bets are decided.
#[actix_web::test]
async fn bets_are_decided_after_circuit_closes() {
    let breaker = BreakerPolicy {
        failures: 5,
        pause: 2 * SECOND,
    };
    let fixture = fixture(breaker, |_, _| {
        Behaviour::Fail(SupplierError::Unreachable("refused".to_owned()))
    });
    let consumer = fixture.start();
    let mut bets = Vec::new();
    for _ in 0..8 {
        bets.push(fixture.place().await);
    }
    tokio::time::sleep(4 * SECOND).await;
    let confirm_requests = fixture.supplier.confirm_requests();
    // Eight requests may be in flight when the fifth failure opens the circuit; then one every two
    // seconds.
    assert!((5..=10).contains(&confirm_requests), "{confirm_requests}");
    assert!(
        fixture
            .guarded
            .problem()
            .unwrap()
            .contains("cannot be reached")
    );
    assert_eq!(
        fixture.metrics.breaker.with_label_values(&["closed"]).get(),
        0
    );
    fixture.supplier.behave(|_, _| confirmed());
    for bet in bets {
        let bet = fixture.decided(bet).await;
        assert_eq!(bet.status, BetStatus::Confirmed);
        assert!(fixture.took(&bet) < 7 * SECOND);
    }
    assert_eq!(
        (
            fixture.guarded.problem(),
            fixture.metrics.breaker.with_label_values(&["closed"]).get()
        ),
        (None, 1)
    );
    consumer.send(Drain).await.unwrap();
    assert_eq!(fixture.topic.depth(), 0);
}

mod moving;
