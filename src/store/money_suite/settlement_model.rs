//! Random records, bets and payments, with settlements that stop anywhere: in the end each bet is
//! settled as the set of records of its market says.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::concurrency::concurrently;
use super::settling::*;
use super::*;
use crate::domain::ids::EventMarket;
use crate::domain::odds::price::Price;
use crate::domain::settlement::effective::{Leg, SettlementRules};
use crate::domain::settlement::market_results::{Inserted, MarketResults};
use crate::domain::settlement::payout::Entitlement;
use crate::domain::settlement::record::ResultRecord;
use crate::domain::settlement::testing as results;
use crate::domain::settlement::testing::random::any_content;

const USERS: u8 = 2;
const MARKETS: u8 = 2;
const SOURCES: [&str; 4] = ["native-1", "native-2", "untrusted", "operator:ann"];

/// A random operation.
#[derive(Clone, Debug)]
enum Operation {
    Place {
        user: u8,
        market: u8,
        second: i64,
        stake: i64,
        price: u32,
    },
    /// Decides the first pending bet.
    Decide {
        is_confirmed: bool,
    },
    Deposit {
        user: u8,
        cents: i64,
    },
    Withdraw {
        user: u8,
        cents: i64,
    },
    /// A record, which may have the revision of another one.
    Record {
        market: u8,
        source: usize,
        version: i64,
        content: (&'static str, Value),
    },
    /// An earlier record again.
    Again(Index),
    /// A settler, which stops after some pages.
    Settle {
        page: usize,
        pages: usize,
        is_single: bool,
    },
    /// Until leases have expired.
    Pause,
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let pages = prop_oneof![2 => 0_usize..4, 1 => Just(usize::MAX)];
    let sources = prop_oneof![6 => Just(0_usize), 1 => 0..SOURCES.len()];
    prop_oneof![
        6 => (0..USERS, 0..MARKETS, 0_i64..30, 1_i64..900, 1_001_u32..6_000).prop_map(
            |(user, market, second, stake, price)| Operation::Place { user, market, second, stake, price }),
        6 => proptest::bool::weighted(0.8).prop_map(|is_confirmed| Operation::Decide { is_confirmed }),
        1 => (0..USERS, 1_i64..500).prop_map(|(user, cents)| Operation::Deposit { user, cents }),
        3 => (0..USERS, 1_i64..2_000).prop_map(|(user, cents)| Operation::Withdraw { user, cents }),
        6 => (0..MARKETS, sources, 1_i64..15, any_content()).prop_map(
            |(market, source, version, content)| Operation::Record { market, source, version, content }),
        1 => any::<Index>().prop_map(Operation::Again),
        6 => (1_usize..4, pages, any::<bool>()).prop_map(
            |(page, pages, is_single)| Operation::Settle { page, pages, is_single }),
        1 => Just(Operation::Pause),
    ]
}

/// What one case has done, and what the store has to show for it.
struct Case<'a> {
    store: &'a dyn MoneyStore,
    rules: SettlementRules,
    case: u64,
    now: i64,
    moves: u32,
    /// Deposits less withdrawals of each user.
    cash: BTreeMap<String, i64>,
    bets: Vec<Bet>,
    pending: Vec<BetId>,
    records: Vec<ResultRecord>,
    conflicts: u64,
    new: BTreeMap<EventId, u64>,
}

impl Case<'_> {
    fn new(store: &dyn MoneyStore, case: u64, now: i64) -> Case<'_> {
        let mut this = Case {
            store,
            rules: results::rules(),
            case,
            now,
            moves: 0,
            cash: BTreeMap::new(),
            bets: Vec::new(),
            pending: Vec::new(),
            records: Vec::new(),
            conflicts: 0,
            new: BTreeMap::new(),
        };
        for user in 0..USERS {
            this.deposit(user, 1_000);
        }
        this
    }

    fn user(&self, number: u8) -> String {
        format!("CASE_{}_{number}", self.case)
    }

    fn event(&self, number: u8) -> String {
        format!("CASE_{}_{number}", self.case)
    }

    fn movement(&mut self, user: u8, cents: i64) -> TransferRequest {
        self.moves += 1;
        order(&self.user(user), cents, &format!("m{}", self.moves))
    }

    fn deposit(&mut self, user: u8, cents: i64) {
        let order = self.movement(user, cents);
        self.store.deposit(&order).unwrap();
        *self.cash.entry(self.user(user)).or_default() += cents;
    }

    fn withdraw(&mut self, user: u8, cents: i64) {
        let order = self.movement(user, cents);
        match self.store.withdraw(&order) {
            Ok(_) => *self.cash.entry(self.user(user)).or_default() -= cents,
            Err(refused) => assert_eq!(refused, WalletError::InsufficientFunds),
        }
    }

    fn place(&mut self, user: u8, market: u8, bet: Bet) {
        let bet = Bet {
            user_id: self::user(&self.user(user)),
            event_id: EventId::new(&self.event(market)).unwrap(),
            decide_by: bet.placed_at,
            ..bet
        };
        if let BetAnswer::Placed { .. } = place_bet(self.store, &bet, None, &notice("{}")).unwrap()
        {
            self.pending.push(bet.id);
            self.bets.push(bet);
        }
    }

    fn receive(&mut self, record: ResultRecord) -> Result<(), TestCaseError> {
        let mut known = self.results(&record.event_id);
        let expected = known.insert(record.clone());
        let inserted = store_result(self.store, record.clone(), self.now);
        prop_assert_eq!(inserted, expected);
        self.conflicts += u64::from(inserted == Inserted::Conflict);
        let is_new = u64::from(inserted != Inserted::Known);
        *self.new.entry(record.event_id.clone()).or_default() += is_new;
        self.records.push(record);
        Ok(())
    }

    fn results(&self, event: &EventId) -> MarketResults {
        let of_event = self.records.iter().filter(|one| one.event_id == *event);
        results::results(of_event)
    }

    fn does(&mut self, operation: &Operation) -> Result<(), TestCaseError> {
        match operation.clone() {
            Operation::Place {
                user,
                market,
                second,
                stake,
                price,
            } => {
                let bet = Bet {
                    placed_at: results::at(second),
                    price: Price::from_thousandths(price).unwrap(),
                    ..bet("A", BetId::new(), stake)
                };
                self.place(user, market, bet);
            }
            Operation::Decide { is_confirmed } => self.decide(is_confirmed),
            Operation::Deposit { user, cents } => self.deposit(user, cents),
            Operation::Withdraw { user, cents } => self.withdraw(user, cents),
            Operation::Record {
                market,
                source,
                version,
                content: (kind, fields),
            } => {
                let record = record(&self.event(market), kind, version, fields);
                self.receive(results::by(SOURCES[source], record))?;
            }
            Operation::Again(index) if !self.records.is_empty() => {
                self.receive(self.records[index.index(self.records.len())].clone())?;
            }
            Operation::Again(_) => {}
            Operation::Settle {
                page,
                pages,
                is_single,
            } => {
                let settler = Settler {
                    rules: self.rules.clone(),
                    page,
                    pages,
                    is_single,
                    ..Settler::default()
                };
                settler.settle_due(self.store, self.now);
            }
            Operation::Pause => self.now += 2,
        }
        Ok(())
    }

    fn decide(&mut self, is_confirmed: bool) {
        if self.pending.is_empty() {
            return;
        }
        let id = self.pending.remove(0);
        let outcome = if is_confirmed {
            confirmed()
        } else {
            rejected()
        };
        self.store
            .decide_bet(id, &outcome, &notice("{}"), at(self.now))
            .unwrap();
    }

    /// No payout is above what was promised, and no rule is violated.
    fn check_meanwhile(&self) -> Result<(), TestCaseError> {
        let ids: Vec<_> = self.bets.iter().map(|bet| bet.id).collect();
        for bet in self.store.bets_by_id(&ids).unwrap().into_iter().flatten() {
            let paid = bet.settlement.map_or(0, |one| one.payout_cents);
            prop_assert!(i128::from(paid) <= promised(&bet), "{bet:?}");
        }
        let found = self.store.verify(at(0), Duration::ZERO).map_err(fail)?;
        let broken: Vec<_> = found
            .checks
            .iter()
            .filter(|one| one.violations > 0)
            .collect();
        prop_assert!(broken.is_empty(), "{broken:#?}");
        Ok(())
    }

    /// Decides and settles all that is left.
    fn finish(&mut self) {
        while !self.pending.is_empty() {
            self.decide(false);
        }
        for _ in 0..100 {
            self.now += 2;
            if Settler::default()
                .settle_due(self.store, self.now)
                .is_none()
            {
                return;
            }
        }
        panic!("a market stays due");
    }

    fn entitlement(&self, bet: &Bet) -> Entitlement {
        let leg = Leg {
            market: &bet.market.name,
            selection: &bet.selection,
            placed_at: bet.placed_at,
        };
        let state = self.results(&bet.event_id).state_of(&leg, &self.rules);
        state.entitlement(bet.stake, bet.price)
    }

    /// Each bet is as the records say, and so are the balances. Returns the number of held bets.
    fn check(&self) -> Result<u64, TestCaseError> {
        let mut expected = self.cash.clone();
        let mut house: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let mut held = 0;
        for placed in &self.bets {
            let bet = self.store.bet(placed.id).unwrap().unwrap();
            if bet.status == BetStatus::Rejected {
                continue;
            }
            let settled = bet.settlement.map(|one| (one.outcome, one.payout_cents));
            match self.entitlement(&bet) {
                Entitlement::Held(_) => held += 1,
                Entitlement::Open => prop_assert_eq!(settled, None, "{:?}", bet),
                Entitlement::Settled { payout, outcome } => {
                    prop_assert_eq!(settled, Some((outcome, payout)), "{:?}", bet);
                }
            }
            let stake = bet.stake.cents();
            let name = bet.user_id.to_string();
            let paid = settled.map_or(0, |(_, payout)| payout);
            *expected.get_mut(&name).unwrap() += paid - stake;
            let (stakes, payouts) = house.entry(name).or_default();
            match settled {
                None => *stakes += stake,
                Some(_) => *payouts += stake - paid,
            }
        }
        for (name, expected) in expected {
            let (available, reserved) = balances(self.store, &name);
            let owed = owed(self.store, &name);
            prop_assert!(available >= 0 && owed >= 0);
            prop_assert_eq!((available - owed, reserved), (expected, 0));
            let of_user = house.get(&name).copied().unwrap_or_default();
            prop_assert_eq!(settling::house(self.store, &name), of_user);
        }
        for (event, generation) in &self.new {
            let market = EventMarket {
                event_id: event.clone(),
                ..market("E")
            };
            let stored = self.store.market_results(&market).map_err(fail)?;
            prop_assert_eq!(
                (stored.generation, stored.results),
                (*generation, self.results(event))
            );
        }
        Ok(held)
    }
}

fn fail(error: impl std::fmt::Debug) -> TestCaseError {
    TestCaseError::fail(format!("{error:?}"))
}

/// The largest payout that a bet was promised.
fn promised(bet: &Bet) -> i128 {
    i128::from(bet.stake.cents()) * i128::from(bet.price.thousandths()) / 1_000
}

pub(crate) fn bets_are_settled_by_their_records(store: &dyn MoneyStore) {
    let case = Cell::new(0);
    let now = Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases: 40,
        failure_persistence: None,
        ..Config::default()
    });
    let operations = proptest::collection::vec(any_operation(), 1..40);
    let outcome = runner.run(&operations, |operations| {
        case.set(case.get() + 1);
        let before = store.settlement_backlog().map_err(fail)?;
        let mut case = Case::new(store, case.get(), now.get());
        let mut outcome = Ok(());
        for operation in &operations {
            outcome = case.does(operation).and_then(|()| case.check_meanwhile());
            if outcome.is_err() {
                break;
            }
        }
        // Also after a failure, because the next case must start without due markets.
        case.finish();
        now.set(case.now);
        outcome?;
        case.check_meanwhile()?;
        let held = case.check()?;
        let backlog = store.settlement_backlog().map_err(fail)?;
        prop_assert_eq!(backlog.held_bets - before.held_bets, held);
        prop_assert_eq!(backlog.conflicts - before.conflicts, case.conflicts);
        prop_assert_eq!(backlog.due_markets, 0);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Settlers that overtake each other, because leases expire at once, while records arrive, bets are
/// placed and decided, and users deposit and withdraw.
pub(crate) fn concurrent_settlers_settle_each_bet(store: &dyn MoneyStore) {
    const STEPS: usize = 60;
    const THREADS: usize = 6;
    let now = &AtomicI64::new(100);
    let seed = fastrand::u64(..);
    let done = concurrently(THREADS, |thread| {
        let mut random = fastrand::Rng::with_seed(seed + thread as u64);
        // Markets are shared, users are not.
        let mut case = Case::new(store, thread as u64, 0);
        for step in 0..STEPS {
            case.now = now.fetch_add(1, Ordering::SeqCst);
            work(&mut case, thread, &mut random);
            if step % 12 == 0 {
                assert_clean(store);
            }
        }
        while !case.pending.is_empty() {
            case.decide(random.bool());
        }
        (case.cash, case.bets, case.records)
    });
    let mut all = Case::new(store, THREADS as u64, now.load(Ordering::SeqCst));
    for (cash, bets, records) in done {
        all.cash.extend(cash);
        all.bets.extend(bets);
        all.records.extend(records);
    }
    all.finish();
    assert_clean(store);
    all.check()
        .unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    let events: BTreeSet<_> = all.records.iter().map(|one| &one.event_id).collect();
    for event in events {
        let market = EventMarket {
            event_id: event.clone(),
            ..market("E")
        };
        let stored = store.market_results(&market).unwrap();
        assert_eq!(stored.results, all.results(event), "seed {seed}");
    }
}

/// A step of a thread.
fn work(case: &mut Case<'_>, thread: usize, random: &mut fastrand::Rng) {
    let event = format!("SHARED_{}", random.u8(0..MARKETS));
    let user = random.u8(0..USERS);
    match (thread, random.u8(0..4)) {
        (0..=2, _) => {
            let settler = Settler {
                page: random.usize(1..20),
                pages: *random.choice(&[2, usize::MAX, usize::MAX]).unwrap(),
                is_single: random.bool(),
                // Slow ones are overtaken.
                delay: Duration::from_millis(*random.choice(&[0, 0, 30]).unwrap()),
                ..Settler::default()
            };
            settler.settle_due(case.store, case.now);
        }
        (3, _) => {
            // One source, whose revisions do not conflict.
            let result = random.choice(["won", "lost", "void"]).unwrap();
            let version = case.now;
            let record = match random.u8(0..8) {
                0..=2 => rollback(&event, version),
                3 => record(&event, "cancel", version, json!({"until": results::at(10)})),
                4 => record(&event, "rollback_cancel", version, json!({})),
                _ => home(&event, version, result),
            };
            store_result(case.store, record.clone(), case.now);
            case.records.push(record);
            std::thread::sleep(Duration::from_millis(random.u64(0..20)));
        }
        (_, 0) => case.deposit(user, random.i64(1..300)),
        (_, 1) => case.withdraw(user, random.i64(1..900)),
        (_, 2) => case.decide(random.u8(0..4) > 0),
        _ => {
            let bet = Bet {
                placed_at: results::at(random.i64(0..30)),
                event_id: EventId::new(&event).unwrap(),
                ..bet(&case.user(user), BetId::new(), random.i64(1..200))
            };
            let placed = place_bet(case.store, &bet, None, &notice("{}")).unwrap();
            if let BetAnswer::Placed { .. } = placed {
                case.pending.push(bet.id);
                case.bets.push(bet);
            }
        }
    }
}
