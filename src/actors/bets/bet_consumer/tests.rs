//! The confirmer on the embedded bus, before a supplier, a database and a bus that fail in every
//! way.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use pretty_assertions::assert_eq;

use super::*;
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
use crate::runtime::request_batcher::ConcurrencyLimit;
use crate::store::money::MoneyStore;
use crate::supplier::confirm::{Answer, SupplierError};

const SECOND: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(10);
const PATIENT: BreakerPolicy = BreakerPolicy {
    failures: 1_000,
    pause: SECOND,
};

/// Everything around a confirmer.
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

fn bench(
    breaker: BreakerPolicy,
    behave: impl Fn(&Bet, usize) -> Behaviour + Send + 'static,
) -> Fixture {
    tokio::time::pause();
    let (clock, metrics) = (Clock::of_tokio(), ConfirmationMetrics::new().unwrap());
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

const SETTINGS: ConfirmerSettings = ConfirmerSettings {
    at_once: 8,
    ahead: 100,
    drain_limit: Duration::from_secs(30),
};

impl Fixture {
    fn start(&self) -> Addr<Confirmer> {
        self.start_on(
            SETTINGS,
            self.topic.subscribe("bet-confirmation").unwrap(),
            Arc::new(self.dead.clone()),
        )
    }

    fn start_on(
        &self,
        settings: ConfirmerSettings,
        subscription: Box<dyn Subscription>,
        dead_letters: Arc<dyn Topic>,
    ) -> Addr<Confirmer> {
        let retry = BackoffPolicy {
            first: SECOND / 10,
            most: SECOND,
        };
        let desk_settings = ConfirmationSettings {
            topic: "bet_placed".to_owned(),
            retry,
            turns: ConcurrencyLimit::new(2),
            together: 16,
        };
        let decider = self.edges.decider(&self.store, &self.clock, &self.metrics);
        let (store, supplier) = (self.store.clone(), self.guarded.clone());
        let (clock, metrics) = (self.clock.clone(), self.metrics.clone());
        let desk = BetConfirmation::new(
            desk_settings,
            store,
            supplier,
            decider,
            dead_letters,
            clock,
            metrics,
        );
        Confirmer::new(settings, subscription, desk, self.metrics.clone()).start()
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
        panic!("it does not come to pass");
    }

    fn calls(&self, outcome: &str) -> u64 {
        self.metrics
            .supplier_calls
            .with_label_values(&[outcome])
            .get()
    }

    /// How long it took to decide a bet.
    fn took(&self, bet: &Bet) -> Duration {
        Duration::from_secs_f64(bet.decided_at.unwrap().seconds_since(bet.placed_at))
    }
}

#[actix_web::test]
async fn the_supplier_s_word_decides_and_is_told() {
    let bench = bench(PATIENT, |bet, _| {
        if bet.stake.cents() == 1_500 {
            confirmed()
        } else {
            rejected("odds moved")
        }
    });
    let confirmer = bench.start();
    let taken = bench.place().await;
    let refused = Bet {
        stake: Amount::new(1).unwrap(),
        ..pending_bet(bench.clock.now(), DEADLINE)
    };
    // What the record says of stake and price is not what counts.
    bench
        .publish(bet_placed(&Bet {
            stake: Amount::new(1_500).unwrap(),
            ..refused.clone()
        }))
        .await;
    let refused = bench.store.place(refused);
    confirmer.send(Drain).await.unwrap();
    let (taken, refused) = (bench.store.get(taken), bench.store.get(refused));
    assert_eq!(
        (taken.status, taken.provider_ref.as_deref()),
        (BetStatus::Confirmed, Some("SUP-1"))
    );
    assert_eq!(
        (refused.status, refused.reason.as_deref()),
        (BetStatus::Rejected, Some("odds moved"))
    );
    assert_eq!((bench.topic.depth(), bench.edges.cancels_told()), (0, 0));
    let rows = bench.edges.rows();
    let told: BTreeMap<_, _> = rows
        .iter()
        .map(|row| (row.key.clone(), row.payload.contains("CONFIRMED")))
        .collect();
    assert_eq!(
        told,
        BTreeMap::from([
            (taken.id.to_string(), true),
            (refused.id.to_string(), false)
        ])
    );
    let decided = |outcome| bench.metrics.decided.with_label_values(&[outcome]).get();
    assert_eq!(
        (
            decided("confirmed"),
            decided("rejected"),
            bench.metrics.consumed.get()
        ),
        (1, 1, 2)
    );
}

#[actix_web::test]
async fn what_is_no_answer_is_asked_again_with_growing_delay_until_there_is_one() {
    let bench = bench(PATIENT, |_, attempt| match attempt {
        0 => Behaviour::Fail(SupplierError::Status(500)),
        1 => Behaviour::Fail(SupplierError::Unreadable("garbage".to_owned())),
        2 => Behaviour::Fail(SupplierError::UnknownVariant("MAYBE".to_owned())),
        3 => Behaviour::Silent,
        _ => confirmed(),
    });
    let _confirmer = bench.start();
    let bet = bench.place().await;
    let bet = bench.decided(bet).await;
    assert_eq!(bet.status, BetStatus::Confirmed);
    let times = bench.supplier.asked_of(bet.id);
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        gaps[0] >= SECOND / 10 && gaps[1] >= SECOND / 5 && gaps[2] >= 2 * SECOND / 5,
        "{gaps:?}"
    );
    assert!(gaps[3] >= 3 * SECOND, "its timeout comes first: {gaps:?}");
    let outcomes = [
        "status",
        "unreadable",
        "unknown_word",
        "timeout",
        "confirmed",
    ]
    .map(|outcome| bench.calls(outcome));
    assert_eq!(outcomes, [1; 5]);
}

#[actix_web::test]
async fn without_an_answer_the_bet_ends_at_its_deadline_and_a_late_one_never_revives_it() {
    // The first is silent for ever; the second answers, when the bet's time is over.
    let late = Behaviour::After as fn(Duration, Answer) -> Behaviour;
    let bench = bench(PATIENT, move |bet, attempt| {
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
    let confirmer = bench.start();
    let silent = bench.place().await;
    let late = Bet {
        stake: Amount::new(7).unwrap(),
        ..pending_bet(bench.clock.now(), DEADLINE)
    };
    bench.publish(bet_placed(&late)).await;
    let late = bench.store.place(late);
    for id in [silent, late] {
        let bet = bench.decided(id).await;
        assert_eq!(
            (bet.status, bet.reason.as_deref()),
            (BetStatus::Rejected, Some(SUPPLIER_TIMEOUT))
        );
        assert!(
            bench.took(&bet) >= DEADLINE && bench.took(&bet) < DEADLINE + SECOND / 10,
            "{:?}",
            bench.took(&bet)
        );
    }
    // Its record comes once more, and the supplier would take it now.
    bench.supplier.behave(|_, _| confirmed());
    let asked = bench.supplier.asked();
    bench.publish(bet_placed(&bench.store.get(late))).await;
    tokio::time::sleep(2 * DEADLINE).await;
    assert_eq!(
        (bench.store.status(late), bench.supplier.asked()),
        (BetStatus::Rejected, asked)
    );
    assert_eq!(
        (
            bench.store.open_cancels().unwrap(),
            bench.edges.cancels_told()
        ),
        (2, 2)
    );
    confirmer.send(Drain).await.unwrap();
    assert_eq!(bench.topic.depth(), 0);
}

#[actix_web::test]
async fn a_bet_whose_time_is_over_when_it_is_read_is_not_asked_about() {
    let bench = bench(PATIENT, |_, _| confirmed());
    let bet = bench.place().await;
    tokio::time::sleep(2 * DEADLINE).await;
    let _confirmer = bench.start();
    let bet = bench.decided(bet).await;
    assert_eq!(
        (bet.reason.as_deref(), bench.supplier.asked()),
        (Some(SUPPLIER_TIMEOUT), 0)
    );
}

#[actix_web::test]
async fn a_head_that_waits_holds_up_nobody_and_no_more_are_in_work_than_may_be() {
    let bench = bench(PATIENT, |bet, _| match bet.stake.cents() {
        7 => Behaviour::Silent,
        _ => Behaviour::After(
            SECOND / 10,
            Answer::Confirmed {
                provider_ref: String::new(),
            },
        ),
    });
    let confirmer = bench.start();
    let head = Bet {
        stake: Amount::new(7).unwrap(),
        ..pending_bet(bench.clock.now(), DEADLINE)
    };
    bench.publish(bet_placed(&head)).await;
    let head = bench.store.place(head);
    let mut others = Vec::new();
    for _ in 0..50 {
        others.push(bench.place().await);
    }
    for id in others {
        let bet = bench.decided(id).await;
        assert!(bench.took(&bet) < 2 * SECOND, "{:?}", bench.took(&bet));
    }
    assert_eq!(bench.store.status(head), BetStatus::Pending);
    assert_eq!(
        bench.topic.depth(),
        51,
        "nothing behind the head is committed before it is done"
    );
    assert_eq!(bench.supplier.most_at_once(), SETTINGS.at_once);
    bench.decided(head).await;
    confirmer.send(Drain).await.unwrap();
    assert_eq!(
        (
            bench.topic.depth(),
            bench.metrics.in_flight.get(),
            bench.metrics.bus_lag.get()
        ),
        (0, 0, 0)
    );
}

#[actix_web::test]
async fn it_reads_only_so_far_beyond_a_record_that_is_not_done() {
    let bench = bench(PATIENT, |bet, _| {
        if bet.stake.cents() == 7 {
            Behaviour::Silent
        } else {
            confirmed()
        }
    });
    let settings = ConfirmerSettings {
        ahead: 10,
        ..SETTINGS
    };
    let subscription = bench.topic.subscribe("bet-confirmation").unwrap();
    let _confirmer = bench.start_on(settings, subscription, Arc::new(bench.dead.clone()));
    let head = Bet {
        stake: Amount::new(7).unwrap(),
        ..pending_bet(bench.clock.now(), DEADLINE)
    };
    bench.publish(bet_placed(&head)).await;
    let head = bench.store.place(head);
    for _ in 0..50 {
        bench.place().await;
    }
    tokio::time::sleep(DEADLINE / 2).await;
    let read = 51 - bench.topic.unread("bet-confirmation");
    assert!(
        (10..=10 + SETTINGS.at_once as u64).contains(&read),
        "{read}"
    );
    bench.decided(head).await;
    bench.until(|| bench.topic.depth() == 0).await;
}

#[actix_web::test]
async fn a_database_that_is_away_delays_the_decision_and_not_a_record_is_committed_before() {
    let bench = bench(PATIENT, |_, _| {
        Behaviour::After(
            SECOND,
            Answer::Confirmed {
                provider_ref: "S".to_owned(),
            },
        )
    });
    let confirmer = bench.start();
    // Away when the bet is looked up.
    bench.store.go_away();
    let first = bench.place().await;
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!((bench.supplier.asked(), bench.topic.depth()), (0, 1));
    bench.store.come_back();
    bench.until(|| bench.supplier.asked() == 1).await;
    // Away when it is to be decided.
    bench.store.go_away();
    let tried = bench.store.decisions();
    tokio::time::sleep(3 * SECOND).await;
    assert!(bench.store.decisions() > tried + 2);
    assert_eq!(bench.topic.depth(), 1);
    let trouble = confirmer.send(Problem).await.unwrap();
    assert_eq!(trouble.as_deref(), Some("bets cannot be decided"));
    bench.store.come_back();
    assert_eq!(bench.decided(first).await.status, BetStatus::Confirmed);
    bench.until(|| bench.topic.depth() == 0).await;
    assert_eq!(
        (
            bench.supplier.asked(),
            confirmer.send(Problem).await.unwrap()
        ),
        (1, None)
    );
    assert!(bench.metrics.errors.with_label_values(&["store"]).get() > 3);
}

/// A test to the confirmer: what is wrong?
#[derive(Message)]
#[rtype(result = "Option<String>")]
struct Problem;

impl Handler<Problem> for Confirmer {
    type Result = Option<String>;

    fn handle(&mut self, _: Problem, _: &mut Context<Self>) -> Option<String> {
        self.trouble().problem()
    }
}

#[actix_web::test]
async fn what_is_no_bet_is_a_dead_letter_before_it_is_done() {
    let bench = bench(PATIENT, |_, _| confirmed());
    let mut dead_group = bench.dead.subscribe("g").unwrap();
    let away = Arc::new(AwayAtFirst {
        inner: bench.dead.clone(),
        is_away: AtomicBool::new(true),
    });
    let confirmer = bench.start_on(
        SETTINGS,
        bench.topic.subscribe("bet-confirmation").unwrap(),
        away.clone(),
    );
    let unknown = pending_bet(bench.clock.now(), DEADLINE);
    let unreadable = bench.place().await;
    bench.store.make_unreadable(unreadable);
    bench.publish(&b"{garbage"[..]).await;
    bench.publish(bet_placed(&unknown)).await;
    let good = bench.place().await;
    assert_eq!(bench.decided(good).await.status, BetStatus::Confirmed);
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(
        bench.topic.depth(),
        4,
        "nothing is committed while the dead letters have no place"
    );
    assert!(
        bench
            .metrics
            .errors
            .with_label_values(&["dead_letter"])
            .get()
            > 3
    );
    away.is_away.store(false, Ordering::SeqCst);
    confirmer.send(Drain).await.unwrap();
    assert_eq!((bench.topic.depth(), bench.dead.depth()), (0, 3));
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
        bench
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

/// A topic that is away until it is told.
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

#[actix_web::test]
async fn while_the_breaker_is_open_nobody_asks_and_when_it_closes_all_bets_are_decided() {
    let breaker = BreakerPolicy {
        failures: 5,
        pause: 2 * SECOND,
    };
    let bench = bench(breaker, |_, _| {
        Behaviour::Fail(SupplierError::Unreachable("refused".to_owned()))
    });
    let confirmer = bench.start();
    let mut bets = Vec::new();
    for _ in 0..8 {
        bets.push(bench.place().await);
    }
    tokio::time::sleep(4 * SECOND).await;
    let asked = bench.supplier.asked();
    // Eight may be under way when the fifth failure opens it; then one every two seconds.
    assert!((5..=10).contains(&asked), "{asked}");
    assert!(
        bench
            .guarded
            .problem()
            .unwrap()
            .contains("cannot be reached")
    );
    assert_eq!(
        bench.metrics.breaker.with_label_values(&["closed"]).get(),
        0
    );
    bench.supplier.behave(|_, _| confirmed());
    for bet in bets {
        let bet = bench.decided(bet).await;
        assert_eq!(bet.status, BetStatus::Confirmed);
        assert!(bench.took(&bet) < 7 * SECOND);
    }
    assert_eq!(
        (
            bench.guarded.problem(),
            bench.metrics.breaker.with_label_values(&["closed"]).get()
        ),
        (None, 1)
    );
    confirmer.send(Drain).await.unwrap();
    assert_eq!(bench.topic.depth(), 0);
}

mod moving;
