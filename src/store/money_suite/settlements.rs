//! Checks of results and of the settlement of bets.

use pretty_assertions::assert_eq;
use serde_json::json;

use super::settling::*;
use super::*;
use crate::domain::bets::bet::{BetSettlement, BetStep};
use crate::domain::settlement::effective::Leg;
use crate::domain::settlement::market_results::{Inserted, MarketResults};
use crate::domain::settlement::payout::{Entitlement, SettledAs};
use crate::domain::settlement::plan::SettlementReason;
use crate::domain::settlement::record::ResultRecord;
use crate::domain::settlement::testing as results;
use crate::domain::settlement::testing::examples::{PLACED_AT, Step, examples, other_bet_wins};
use crate::domain::wallet::ledger::TransferKind;

/// An example that runs on the store, with names of its own.
struct Example<'a> {
    store: &'a dyn MoneyStore,
    name: String,
    /// Ids of its bets.
    bets: [u128; 2],
    records: Vec<ResultRecord>,
    now: i64,
}

impl Example<'_> {
    fn place(&self, number: usize, market: &str, stake: i64, price: &str) {
        let bet = Bet {
            event_id: EventId::new(&self.name).unwrap(),
            market: MarketKey {
                name: MarketName::new(market).unwrap(),
                line: None,
            },
            price: price.parse().unwrap(),
            placed_at: results::at(PLACED_AT),
            decide_by: results::at(PLACED_AT + 10),
            ..bet(&self.name, bet_id(self.bets[number]), stake)
        };
        let answer = place_bet(self.store, &bet, None, &notice("{}")).unwrap();
        assert!(matches!(answer, BetAnswer::Placed { .. }), "{answer:?}");
    }

    /// Delivers records three times, and settles after each delivery or after all.
    fn deliver(&mut self, records: &[ResultRecord], settles_each: bool) {
        for record in records.iter().chain(records).chain(records) {
            let record = ResultRecord {
                event_id: EventId::new(&self.name).unwrap(),
                ..record.clone()
            };
            self.store
                .store_results(&[record.clone(), record.clone()], at(self.now))
                .unwrap();
            self.records.push(record);
            if settles_each {
                self.settle();
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        self.now += 2;
        // Pending bets leave the market due.
        Settler::default().settle_due(self.store, self.now);
    }

    fn run(&mut self, steps: &[Step], order: fn(&mut [ResultRecord]), settles_each: bool) {
        self.place(0, "1x2", 1_000, "2.345");
        let mut records = Vec::new();
        for step in steps {
            if let Step::Result(record) = step {
                records.push(record.clone());
                continue;
            }
            order(&mut records);
            self.deliver(&std::mem::take(&mut records), settles_each);
            let order = |cents| super::order(&self.name, cents, "step");
            match step {
                Step::Confirm => decide(self.store, self.bets[0], &confirmed()),
                Step::Reject => decide(self.store, self.bets[0], &rejected()),
                Step::Deposit(cents) => drop(self.store.deposit(&order(*cents)).unwrap()),
                Step::Withdraw(cents) => drop(self.store.withdraw(&order(*cents)).unwrap()),
                Step::OtherBetWins(stake, price) => {
                    self.place(1, "other", *stake, price);
                    decide(self.store, self.bets[1], &confirmed());
                    self.deliver(&[other_bet_wins()], settles_each);
                }
                Step::Result(_) => {}
            }
            self.settle();
        }
        order(&mut records);
        self.deliver(&records, settles_each);
    }

    fn balances(&self) -> [i64; 5] {
        let (available, reserved) = balances(self.store, &self.name);
        let (stakes, payouts) = house(self.store, &self.name);
        let owed = owed(self.store, &self.name);
        [available, reserved, owed, stakes, payouts]
    }

    /// The first bet is as the set of records says, and so are its history and its outbox records.
    fn check_bet(&self, published: &[(String, serde_json::Value)]) {
        let bet = self.store.bet(bet_id(self.bets[0])).unwrap().unwrap();
        let mut results = MarketResults::default();
        let of_market = |one: &&ResultRecord| one.market == bet.market;
        for record in self.records.iter().filter(of_market) {
            results.insert(record.clone());
        }
        let leg = Leg {
            market: &bet.market.name,
            selection: &bet.selection,
            placed_at: bet.placed_at,
        };
        let state = results.state_of(&leg, &results::rules());
        let expected = match state.entitlement(bet.stake, bet.price) {
            Entitlement::Settled { payout, outcome } => Some((outcome, payout)),
            _ => None,
        };
        let steps = self.store.bet_history(bet.id).unwrap();
        let settled = bet.settlement.map(|one| (one.outcome, one.payout_cents));
        let steps: Vec<_> = steps
            .into_iter()
            .filter(|step| step.from.is_some_and(|from| from != BetStatus::Pending))
            .collect();
        let mine: Vec<_> = published
            .iter()
            .filter(|(key, _)| *key == bet.id.to_string())
            .map(|(_, payload)| payload)
            .collect();
        assert_eq!(mine.len(), steps.len(), "{}", self.name);
        let number = |index: usize, field: &str| mine[index][field].as_i64().unwrap();
        let mut paid = 0;
        for index in 0..mine.len() {
            assert_eq!(number(index, "n"), index as i64 + 1);
            paid += number(index, "difference");
            assert_eq!(number(index, "payout"), paid);
        }
        match bet.status {
            BetStatus::Confirmed | BetStatus::Settled => {
                assert_eq!(settled, expected, "{}", self.name);
                assert_eq!(bet.status == BetStatus::Settled, expected.is_some());
                assert_eq!(paid, expected.map_or(0, |(_, payout)| payout));
            }
            _ => assert_eq!((settled, steps.len()), (None, 0)),
        }
    }
}

pub(crate) fn ledger_examples_end_as_described(store: &dyn MoneyStore) {
    let orders: [fn(&mut [ResultRecord]); 3] = [
        |_| {},
        |records| records.reverse(),
        |records| records.rotate_left(records.len().min(1)),
    ];
    let mut now = 100;
    let mut run = Vec::new();
    for (index, (name, steps, expected)) in examples().into_iter().enumerate() {
        for (variant, order) in orders.into_iter().enumerate() {
            for settles_each in [false, true] {
                let number = ((index * 10 + variant) * 2 + usize::from(settles_each)) as u128 * 2;
                let mut example = Example {
                    store,
                    name: format!("{name}_{variant}_{settles_each}"),
                    bets: [number, number + 1],
                    records: Vec::new(),
                    now,
                };
                store
                    .deposit(&super::order(&example.name, 5_000, "d"))
                    .unwrap();
                example.run(&steps, order, settles_each);
                now = example.now;
                assert_eq!(example.balances(), expected, "{}", example.name);
                run.push(example);
            }
        }
    }
    let published = settlement_records(store);
    for example in run {
        example.check_bet(&published);
    }
}

/// The rows of one bet that wins, whose result is taken back, and that loses then.
pub(crate) fn settled_bet_has_all_its_records(store: &dyn MoneyStore) {
    store.deposit(&order("A", 5_000, "d")).unwrap();
    let id = confirmed_bet(store, "E", ("A", 1, 1_000));
    let placed = store.bet(id).unwrap().unwrap();
    store_result(store, home("E", 1, "won"), 10);
    settle_all(store, 11);
    let settlement = BetSettlement {
        outcome: SettledAs::Won,
        payout_cents: 1_528,
        settled_at: at(11),
    };
    let expected = Bet {
        status: BetStatus::Settled,
        settlement: Some(settlement),
        ..placed.clone()
    };
    assert_eq!(store.bet(id), Ok(Some(expected)));
    store_result(store, rollback("E", 2), 12);
    settle_all(store, 13);
    assert_eq!(store.bet(id), Ok(Some(placed)));
    store_result(store, home("E", 3, "lost"), 14);
    settle_all(store, 15);
    let step = |from, to, reason: &str, seconds| BetStep {
        from: Some(from),
        to,
        reason: Some(reason.to_owned()),
        at: at(seconds),
    };
    let (open, settled) = (BetStatus::Confirmed, BetStatus::Settled);
    assert_eq!(
        store.bet_history(id).unwrap()[2..],
        [
            step(open, settled, "won", 11),
            step(settled, open, "withdrawn", 13),
            step(open, settled, "lost", 15)
        ]
    );
    let moved: Vec<_> = transfers(store, "A")
        .into_iter()
        .skip(3)
        .map(|one| {
            (
                one.kind,
                one.amount.cents(),
                one.reference.to_string(),
                one.balance.available,
            )
        })
        .collect();
    let reference = |n: u8| format!("{id}#{n}");
    assert_eq!(
        moved,
        [
            (TransferKind::Settle, 1_000, reference(1), 4_000),
            (TransferKind::Payout, 1_528, reference(1), 5_528),
            (TransferKind::Unsettle, 1_000, reference(2), 5_528),
            (TransferKind::Clawback, 1_528, reference(2), 4_000),
            (TransferKind::Settle, 1_000, reference(3), 4_000),
        ]
    );
    let payload = |n, payout, difference| {
        let payload = json!({"n": n, "payout": payout, "difference": difference});
        (id.to_string(), payload)
    };
    assert_eq!(
        settlement_records(store),
        [
            payload(1, 1_528, 1_528),
            payload(2, 0, -1_528),
            payload(3, 0, 0)
        ]
    );
}

/// A bet may be void whatever the result of its selection.
pub(crate) fn history_says_why_a_bet_is_void(store: &dyn MoneyStore) {
    store.deposit(&order("A", 5_000, "d")).unwrap();
    let id = confirmed_bet(store, "E", ("A", 1, 1_000));
    let late = json!({"selections": [{"id": "home", "result": "won"}], "bets_until": at(0)});
    for (version, kind, fields) in [
        (1, "settlement", late),
        (2, "cancel", json!({})),
        (3, "rollback_cancel", json!({})),
    ] {
        store_result(store, record("E", kind, version, fields), 10);
        settle_all(store, 10 + version);
    }
    let history = store.bet_history(id).unwrap();
    let reasons: Vec<_> = history
        .iter()
        .filter_map(|step| step.reason.as_deref())
        .collect();
    // Void by the cancellation as by the time: nothing changes.
    assert_eq!(reasons, ["late_bet"]);
    store_result(store, home("E", 4, "won"), 10);
    settle_all(store, 20);
    store_result(store, record("E", "cancel", 5, json!({})), 10);
    settle_all(store, 21);
    let history = store.bet_history(id).unwrap();
    let reasons: Vec<_> = history
        .iter()
        .filter_map(|step| step.reason.as_deref())
        .collect();
    assert_eq!(reasons, ["late_bet", "won", "cancelled"]);
}

pub(crate) fn results_are_stored_once(store: &dyn MoneyStore) {
    let conflicting = home("B", 1, "lost");
    let batch = [
        home("B", 1, "won"),
        home("A", 1, "won"),
        home("B", 1, "won"),
        conflicting.clone(),
        rollback("B", 1),
        home("C", 1, "won"),
        conflicting.clone(),
    ];
    assert_eq!(store.store_results(&[], at(0)), Ok(vec![]));
    use Inserted::{Conflict, Known, New};
    assert_eq!(
        store.store_results(&batch, at(1)),
        Ok(vec![New, New, Known, Conflict, New, New, Known])
    );
    assert_eq!(store.store_results(&batch, at(2)), Ok(vec![Known; 7]));
    let other_source = results::by("native-2", home("B", 1, "lost"));
    assert_eq!(store_result(store, other_source.clone(), 3), New);
    let stored = |event: &str| store.market_results(&market(event)).unwrap();
    let known = results::results(&[
        batch[0].clone(),
        conflicting.clone(),
        batch[4].clone(),
        other_source.clone(),
    ]);
    assert_eq!((stored("B").results, stored("B").generation), (known, 4));
    assert_eq!(stored("A").generation, 1);
    assert_eq!(stored("Z"), StoredResults::default());
    // Another line and another market of the event are markets of their own.
    let line = record(
        "B",
        "settlement",
        1,
        json!({"market": "goals", "line": 2.5,
        "selections": [{"id": "over", "result": "won"}]}),
    );
    let ten = record(
        "B",
        "settlement",
        1,
        json!({"market": "goals", "line": 10,
        "selections": [{"id": "over", "result": "lost"}]}),
    );
    let lines = [line.clone(), ten.clone()];
    assert_eq!(store.store_results(&lines, at(4)), Ok(vec![New, New]));
    assert_eq!(stored("B").generation, 4);
    let of_event = |limit| -> Vec<_> {
        let stored = store.event_results(&EventId::new("B").unwrap(), limit);
        let stored = stored.unwrap().into_iter();
        stored.map(|one| (one.record, one.received_at)).collect()
    };
    let all = [
        (batch[0].clone(), at(1)),
        (conflicting, at(1)),
        (batch[4].clone(), at(1)),
        (other_source, at(3)),
        (ten, at(4)),
        (line, at(4)),
    ];
    assert_eq!(of_event(100), all);
    // The latest ones.
    assert_eq!(of_event(2), all[4..]);
    let backlog = store.settlement_backlog().unwrap();
    assert_eq!((backlog.conflicts, backlog.due_markets), (1, 5));
    assert_eq!(backlog.due_since, Some(at(1)));
}

/// Results and settlements cannot be changed.
pub(crate) fn records_stay<R: Raw>(store: &dyn MoneyStore, raw: &R) {
    store.deposit(&order("A", 5_000, "d")).unwrap();
    confirmed_bet(store, "E", ("A", 1, 1_000));
    store_result(store, home("E", 1, "won"), 1);
    settle_all(store, 2);
    for change in [
        "UPDATE market_results SET record = ''",
        "DELETE FROM market_results",
        "UPDATE bet_settlements SET payout_cents = 1",
        "DELETE FROM bet_settlements",
    ] {
        let refused = raw.run(change).unwrap_err();
        assert!(
            refused.contains("never changed or deleted"),
            "{change}: {refused}"
        );
    }
    raw.run("UPDATE wallets SET owed_cents = -1").unwrap_err();
    assert_clean(store);
}

pub(crate) fn due_bets_are_read_in_pages(store: &dyn MoneyStore) {
    for name in ["A", "B"] {
        store.deposit(&order(name, 5_000, "d")).unwrap();
    }
    for number in 1..=6 {
        let name = if number % 3 == 0 { "B" } else { "A" };
        confirmed_bet(store, "E", (name, number, 100));
    }
    placed_bet(store, "E", ("A", 7, 100));
    confirmed_bet(store, "F", ("A", 8, 100));
    store_result(store, rollback("E", 1), 1);
    let first = lease(store, 2).unwrap();
    let examined = |number| ExaminedBet {
        bet_id: bet_id(number),
        settlements: 0,
        held: None,
    };
    store.mark_examined(&[examined(1), examined(2)], 1).unwrap();
    store_result(store, rollback("E", 2), 3);
    let pages = |generation, state, limit| {
        let mut read = Vec::new();
        let mut after = None;
        loop {
            let query = DueBets {
                market: &first.market,
                generation,
                state,
                after,
                limit,
            };
            let page = store.due_bets(&query).unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { return read };
            after = Some(last.cursor());
            read.extend(
                page.iter()
                    .map(|bet| bet.id.0.as_u128() - bet_id(0).0.as_u128()),
            );
        }
    };
    for limit in [1, 2, 3, 100] {
        // Those that were never examined come first.
        assert_eq!(pages(2, BetState::Open, limit), [3, 4, 5, 6, 1, 2]);
        assert_eq!(pages(1, BetState::Open, limit), [3, 4, 5, 6]);
        assert_eq!(pages(2, BetState::Settled, limit), []);
    }
    store_result(store, home("E", 3, "won"), 4);
    decide(store, 7, &confirmed());
    settle_all(store, 5);
    for limit in [1, 4, 100] {
        assert_eq!(pages(3, BetState::Settled, limit), []);
        assert_eq!(pages(4, BetState::Settled, limit), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(pages(4, BetState::Open, limit), []);
    }
    let lease = MarketLease {
        generation: 4,
        ..first
    };
    let bets = due(store, &lease, BetState::Settled);
    assert_eq!(
        (
            bets[0].user_id.clone(),
            bets[0].settlements,
            bets[0].settled_by,
            bets[0].outcome
        ),
        (user("A"), 1, 3, Some(SettledAs::Won))
    );
    // The payouts of generation 3 and later.
    assert_eq!(store.paid_by(&lease.market, 3, None), Ok(7 * 152));
    assert_eq!(store.paid_by(&lease.market, 4, None), Ok(0));
}

/// One settlement, decided when the bet had had this many.
fn to_pay(number: u128, settlements: u32, payout: i64) -> SettleBet {
    SettleBet {
        bet_id: bet_id(number),
        settlements,
        becomes: Some((SettledAs::Won, payout)),
        reason: SettlementReason::Result,
        payload: "{}".to_owned(),
    }
}

pub(crate) fn batched_settlements_get_their_own_answers(store: &dyn MoneyStore) {
    assert_eq!(store.settle_bets(&[], &call(1, 1)), Ok(vec![]));
    for name in ["A", "B", "C", "D"] {
        store.deposit(&order(name, 5_000, "d")).unwrap();
    }
    store_result(store, home("E", 1, "won"), 1);
    confirmed_bet(store, "E", ("A", 1, 100));
    confirmed_bet(store, "E", ("A", 2, 100));
    placed_bet(store, "E", ("B", 3, 100));
    confirmed_bet(store, "E", ("C", 4, 100));
    placed_bet(store, "E", ("D", 5, 100));
    decide(store, 5, &rejected());
    let bets = [
        to_pay(1, 0, 200),
        to_pay(3, 0, 200),
        to_pay(4, 1, 200),
        to_pay(2, 0, 300),
        to_pay(5, 0, 200),
        to_pay(9, 0, 200),
    ];
    let answers = store.settle_bets(&bets, &call(1, 2)).unwrap();
    let changed = Some(SettledNow::Changed);
    let is_settled =
        |answer: Option<SettledNow>| matches!(answer, Some(SettledNow::Settled { .. }));
    assert!(is_settled(answers[0]), "{answers:?}");
    // Bet 4 is not at the number of settlements that the caller saw. The second bet of a user gets no
    // answer, or the one it would get alone.
    assert_eq!(
        [answers[1], answers[2], answers[4], answers[5]],
        [changed; 4]
    );
    let second = answers[3].unwrap_or_else(|| store.settle_bet(&bets[3], &call(1, 2)).unwrap());
    assert!(is_settled(Some(second)));
    assert_eq!(balances(store, "A"), (5_000 - 200 + 500, 0));
    for again in [
        to_pay(1, 0, 400),
        to_pay(1, 1, 400),
        to_pay(3, 0, 200),
        to_pay(9, 0, 1),
    ] {
        assert_eq!(
            store.settle_bet(&again, &call(1, 3)),
            Ok(SettledNow::Changed)
        );
    }
    assert_eq!(balances(store, "A"), (5_000 - 200 + 500, 0));
    decide(store, 3, &rejected());
    settle_all(store, 4);
}

pub(crate) fn payout_above_64_bits_is_not_paid(store: &dyn MoneyStore) {
    for name in ["A", "B"] {
        store.deposit(&order(name, 1_000, "d")).unwrap();
        let number = if name == "A" { 1 } else { 2 };
        confirmed_bet(store, "E", (name, number, 1_000));
    }
    let reserved = order("A", 5, "r");
    store.deposit(&order("A", i64::MAX - 1_000, "d2")).unwrap();
    store.reserve(&reserved).unwrap();
    store_result(store, home("E", 1, "won"), 1);
    let bets = [to_pay(1, 0, 1_001), to_pay(2, 0, 1_528)];
    assert_eq!(
        store.settle_bet(&bets[0], &call(1, 2)),
        Ok(SettledNow::BalanceTooHigh)
    );
    let answers = store.settle_bets(&bets, &call(1, 2)).unwrap();
    assert!(
        matches!(answers[0], None | Some(SettledNow::BalanceTooHigh)),
        "{answers:?}"
    );
    assert!(
        matches!(answers[1], Some(SettledNow::Settled { .. })),
        "{answers:?}"
    );
    assert_eq!(balances(store, "A"), (i64::MAX - 1_005, 5));
    // The settler marks the bet, and the market is finished.
    settle_all(store, 3);
    let backlog = store.settlement_backlog().unwrap();
    assert_eq!((backlog.held_bets, backlog.due_markets), (1, 0));
    assert_eq!(
        store.bet(bet_id(1)).unwrap().unwrap().status,
        BetStatus::Confirmed
    );
    // Up to the maximum it is paid.
    assert!(matches!(
        store.settle_bet(&to_pay(1, 0, 1_000), &call(2, 4)),
        Ok(SettledNow::Settled { .. })
    ));
    assert_eq!(balances(store, "A"), (i64::MAX - 5, 5));
    // The results have to have that generation.
    store_result(store, home("E", 2, "won"), 5);
    store.withdraw(&order("A", 1_000, "w")).unwrap();
    settle_all(store, 6);
    assert_eq!(store.settlement_backlog().unwrap().held_bets, 0);
}

pub(crate) fn open_bets_are_summed_up(store: &dyn MoneyStore) {
    store.deposit(&order("A", 5_000, "d")).unwrap();
    confirmed_bet(store, "E", ("A", 1, 100));
    confirmed_bet(store, "E", ("A", 2, 333));
    placed_bet(store, "E", ("A", 3, 100));
    confirmed_bet(store, "F", ("A", 4, 10));
    let away = Bet {
        event_id: EventId::new("E").unwrap(),
        selection: SelectionId::new("away").unwrap(),
        ..bet("A", bet_id(5), 7)
    };
    place_bet(store, &away, None, &notice("")).unwrap();
    decide(store, 5, &confirmed());
    let position = |event: &str, selection: &str, bets, stake_cents, payout_cents| OpenPosition {
        market: market(event),
        selection: SelectionId::new(selection).unwrap(),
        bets,
        stake_cents,
        payout_cents,
    };
    // Each bet pays whole cents: 152 and 508.
    let of_event = [
        position("E", "away", 1, 7, 10),
        position("E", "home", 2, 433, 152 + 508),
    ];
    let other = position("F", "home", 1, 10, 15);
    let all = [&of_event[..], &[other]].concat();
    let open = |scope| store.open_positions(scope).unwrap();
    assert_eq!(open(PositionScope::All), all);
    let event = EventId::new("E").unwrap();
    assert_eq!(open(PositionScope::Event(&event)), of_event);
    for (event, expected) in [("E", &of_event[..]), ("G", &[])] {
        let market = market(event);
        let open = store.open_positions(PositionScope::Market(&market));
        assert_eq!(open.unwrap(), expected);
    }
    store_result(store, home("E", 1, "won"), 1);
    decide(store, 3, &rejected());
    settle_all(store, 2);
    assert_eq!(open(PositionScope::Event(&event)), of_event[..1]);
}

pub(crate) fn bets_are_filtered_by_outcome(store: &dyn MoneyStore) {
    store.deposit(&order("A", 5_000, "d")).unwrap();
    for (number, event, result) in [(1, "E", "won"), (2, "F", "lost"), (3, "G", "won")] {
        confirmed_bet(store, event, ("A", number, 100));
        store_result(store, home(event, 1, result), 1);
    }
    confirmed_bet(store, "H", ("A", 4, 100));
    settle_all(store, 2);
    let bets = |status, outcome, before| -> Vec<_> {
        let page = Page { before, limit: 2 };
        let found = store.bets(&user("A"), BetFilter { status, outcome }, page);
        found.unwrap().into_iter().map(|bet| bet.id).collect()
    };
    assert_eq!(
        bets(None, Some(SettledAs::Won), None),
        [bet_id(3), bet_id(1)]
    );
    assert_eq!(
        bets(None, Some(SettledAs::Won), Some(bet_id(3))),
        [bet_id(1)]
    );
    assert_eq!(
        bets(Some(BetStatus::Settled), Some(SettledAs::Lost), None),
        [bet_id(2)]
    );
    assert_eq!(
        bets(Some(BetStatus::Confirmed), Some(SettledAs::Lost), None),
        []
    );
    assert_eq!(bets(None, Some(SettledAs::Void), None), []);
    assert_eq!(
        bets(Some(BetStatus::Settled), None, None),
        [bet_id(3), bet_id(2)]
    );
    assert_eq!(bets(None, None, None), [bet_id(4), bet_id(3)]);
}
