//! A small settler, records and bets for the checks of settlement.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::*;
use crate::domain::ids::EventMarket;
use crate::domain::settlement::effective::SettlementRules;
use crate::domain::settlement::market_results::{Inserted, MarketResults};
use crate::domain::settlement::plan::Plan;
use crate::domain::settlement::record::ResultRecord;
use crate::domain::settlement::testing as results;

/// Why a bet waits for an operator whose payout does not fit the balance.
pub(in crate::store) const BALANCE_TOO_HIGH: &str = "balance_too_high";

/// The market `1x2` of an event.
pub(in crate::store) fn market(event: &str) -> EventMarket {
    EventMarket {
        event_id: EventId::new(event).unwrap(),
        market: MarketKey {
            name: MarketName::new("1x2").unwrap(),
            line: None,
        },
    }
}

/// A record of the market `1x2` of an event.
pub(in crate::store) fn record(
    event: &str,
    kind: &str,
    version: i64,
    fields: Value,
) -> ResultRecord {
    let mut all = json!({"event_id": event});
    all.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    results::record(kind, 60, version, all)
}

/// A settlement of `home` alone.
pub(in crate::store) fn home(event: &str, version: i64, result: &str) -> ResultRecord {
    let selections = json!([{"id": "home", "result": result}]);
    record(
        event,
        "settlement",
        version,
        json!({"selections": selections}),
    )
}

/// Takes back the results of an event.
pub(in crate::store) fn rollback(event: &str, version: i64) -> ResultRecord {
    record(event, "rollback_settlement", version, json!({}))
}

pub(in crate::store) fn store_result(
    store: &dyn MoneyStore,
    record: ResultRecord,
    now: i64,
) -> Inserted {
    store.store_results(&[record], at(now)).unwrap().remove(0)
}

/// Places a bet on `home` of an event, and confirms it.
pub(in crate::store) fn confirmed_bet(
    store: &dyn MoneyStore,
    event: &str,
    (name, number, cents): (&str, u128, i64),
) -> BetId {
    placed_bet(store, event, (name, number, cents));
    decide(store, number, &confirmed());
    bet_id(number)
}

/// Places a bet on `home` of an event.
pub(in crate::store) fn placed_bet(
    store: &dyn MoneyStore,
    event: &str,
    (name, number, cents): (&str, u128, i64),
) {
    let bet = Bet {
        event_id: EventId::new(event).unwrap(),
        ..bet(name, bet_id(number), cents)
    };
    let answer = place_bet(store, &bet, None, &notice("{}")).unwrap();
    assert!(matches!(answer, BetAnswer::Placed { .. }), "{answer:?}");
}

pub(in crate::store) fn decide(store: &dyn MoneyStore, number: u128, outcome: &BetOutcome) {
    let decided = store
        .decide_bet(bet_id(number), outcome, &notice("{}"), at(1))
        .unwrap();
    assert!(matches!(decided, Decided::Now { .. }), "{decided:?}");
}

/// Leases the market that has been waiting longest, for a second.
pub(in crate::store) fn lease(store: &dyn MoneyStore, now: i64) -> Option<MarketLease> {
    store.lease_due_market(at(now), at(now + 1)).unwrap()
}

/// The due bets of a leased market.
pub(in crate::store) fn due(
    store: &dyn MoneyStore,
    lease: &MarketLease,
    state: BetState,
) -> Vec<DueBet> {
    let query = DueBets {
        market: &lease.market,
        generation: lease.generation,
        state,
        after: None,
        limit: 1_000,
    };
    store.due_bets(&query).unwrap()
}

pub(in crate::store) fn call(generation: u64, now: i64) -> SettleCall {
    SettleCall {
        generation,
        leased_until: at(now),
        at: at(now),
    }
}

/// The settlement that a plan asks for.
pub(in crate::store) fn settlement(bet: &DueBet, plan: &Plan) -> Option<SettleBet> {
    let Plan::Settle(change) = plan else {
        return None;
    };
    let payout = change.becomes.map_or(0, |(_, payout)| payout);
    Some(SettleBet {
        bet_id: bet.id,
        settlements: bet.settlements,
        becomes: change.becomes,
        reason: change.reason,
        payload:
            json!({"n": bet.settlements + 1, "payout": payout, "difference": change.difference})
                .to_string(),
    })
}

/// How an attempt at a market ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Attempt {
    Finished,
    /// Bets are pending, or were settled by somebody else.
    Incomplete,
    /// The lease ended.
    Superseded,
    /// The settler stopped after its number of pages, and left the lease as it was.
    Crashed,
}

/// Settles markets.
#[derive(Clone, Debug)]
pub(in crate::store) struct Settler {
    pub rules: SettlementRules,
    /// Bets of a page.
    pub page: usize,
    /// After so many pages it stops, with what it has done.
    pub pages: usize,
    /// Whether bets are settled one by one.
    pub is_single: bool,
    /// The longest pause between planning and settling a page.
    pub delay: Duration,
}

impl Default for Settler {
    fn default() -> Settler {
        Settler {
            rules: results::rules(),
            page: 3,
            pages: usize::MAX,
            is_single: false,
            delay: Duration::ZERO,
        }
    }
}

impl Settler {
    /// Settles the markets that are due, until none is left or one attempt fails to finish.
    pub(in crate::store) fn settle_due(&self, store: &dyn MoneyStore, now: i64) -> Option<Attempt> {
        store.reopen_markets(at(now), 1_000).unwrap();
        while let Some(lease) = lease(store, now) {
            let attempt = self.settle(store, &lease, now);
            if attempt != Attempt::Finished {
                return Some(attempt);
            }
        }
        None
    }

    /// Settles a leased market.
    pub(in crate::store) fn settle(
        &self,
        store: &dyn MoneyStore,
        lease: &MarketLease,
        now: i64,
    ) -> Attempt {
        let has_pending = store.has_pending_bets(&lease.market).unwrap();
        let stored = store.market_results(&lease.market).unwrap();
        if stored.generation != lease.generation {
            return Attempt::Superseded;
        }
        let mut is_complete = !has_pending;
        let mut pages = 0;
        for state in [BetState::Open, BetState::Settled] {
            let mut after = None;
            loop {
                let query = DueBets {
                    market: &lease.market,
                    generation: lease.generation,
                    state,
                    after,
                    limit: self.page,
                };
                let page = store.due_bets(&query).unwrap();
                let Some(last) = page.last() else { break };
                if pages == self.pages {
                    return Attempt::Crashed;
                }
                pages += 1;
                if !store.extend_lease(lease, at(now + 1)).unwrap() {
                    return Attempt::Superseded;
                }
                is_complete &= self.settle_page(store, &page, &stored.results, lease, now);
                after = Some(last.cursor());
            }
        }
        if !is_complete {
            return Attempt::Incomplete;
        }
        let finished = FinishedMarket {
            rules: "test",
            held: None,
            missing: 0,
        };
        match store.finish_market(lease, &finished).unwrap() {
            true => Attempt::Finished,
            false => Attempt::Superseded,
        }
    }

    fn plan(&self, bet: &DueBet, results: &MarketResults, lease: &MarketLease) -> Plan {
        Plan::of(&bet.on(&lease.market), results, &self.rules)
    }

    /// Whether somebody else settled none of the bets.
    fn settle_page(
        &self,
        store: &dyn MoneyStore,
        page: &[DueBet],
        results: &MarketResults,
        lease: &MarketLease,
        now: i64,
    ) -> bool {
        let call = call(lease.generation, now);
        let mut examined = Vec::new();
        let mut rest = Vec::new();
        let users: HashMap<_, _> = page.iter().map(|bet| (bet.id, &bet.user_id)).collect();
        for bet in page {
            let plan = self.plan(bet, results, lease);
            match settlement(bet, &plan) {
                Some(settlement) => rest.push(settlement),
                None => examined.push(ExaminedBet {
                    bet_id: bet.id,
                    settlements: bet.settlements,
                    held: match plan {
                        Plan::Hold(reason) => Some(reason.into()),
                        _ => None,
                    },
                }),
            }
        }
        std::thread::sleep(self.delay.mul_f64(fastrand::f64()));
        let mut is_complete = true;
        while !rest.is_empty() {
            let mut seen = HashSet::new();
            let (round, later): (Vec<_>, Vec<_>) = rest
                .into_iter()
                .partition(|bet: &SettleBet| seen.insert(users[&bet.bet_id]));
            rest = later;
            for (bet, settled) in round.iter().zip(self.answers(store, &round, &call)) {
                match settled {
                    SettledNow::Settled { .. } => {}
                    SettledNow::Changed => is_complete = false,
                    SettledNow::BalanceTooHigh => examined.push(ExaminedBet {
                        bet_id: bet.bet_id,
                        settlements: bet.settlements,
                        held: Some(BALANCE_TOO_HIGH),
                    }),
                }
            }
        }
        store.mark_examined(&examined, lease.generation).unwrap();
        is_complete
    }

    fn answers(
        &self,
        store: &dyn MoneyStore,
        round: &[SettleBet],
        call: &SettleCall,
    ) -> Vec<SettledNow> {
        let alone = |bet: &SettleBet| store.settle_bet(bet, call).unwrap();
        if self.is_single {
            return round.iter().map(alone).collect();
        }
        let answers = store.settle_bets(round, call).unwrap();
        assert_eq!(answers.len(), round.len());
        answers
            .into_iter()
            .zip(round)
            .map(|(answer, bet)| answer.unwrap_or_else(|| alone(bet)))
            .collect()
    }
}

/// Settles all that is due; every market must finish.
pub(in crate::store) fn settle_all(store: &dyn MoneyStore, now: i64) {
    assert_eq!(Settler::default().settle_due(store, now), None);
}

/// What a user owes.
pub(in crate::store) fn owed(store: &dyn MoneyStore, name: &str) -> i64 {
    store.wallet_and_debt(&user(name)).unwrap().unwrap().1
}

/// The sums of a user's transfers in the accounts stakes and payouts.
pub(in crate::store) fn house(store: &dyn MoneyStore, name: &str) -> (i64, i64) {
    use crate::domain::wallet::ledger::Account;
    let mut sums = (0, 0);
    for transfer in transfers(store, name) {
        let cents = transfer.amount.cents();
        for (account, cents) in [(transfer.credit, cents), (transfer.debit, -cents)] {
            match account {
                Account::Stakes => sums.0 += cents,
                Account::Payouts => sums.1 += cents,
                _ => {}
            }
        }
    }
    sums
}

/// All outbox rows about settlements so far, with their bets. Leases the rows.
pub(in crate::store) fn settlement_records(store: &dyn MoneyStore) -> Vec<(String, Value)> {
    let rows = store.take_outbox(at(900_000), at(0), 100_000).unwrap();
    rows.into_iter()
        .filter(|row| row.topic == OutboxTopic::Settled)
        .map(|row| (row.key, serde_json::from_str(&row.payload).unwrap()))
        .collect()
}
