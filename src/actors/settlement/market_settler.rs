//! Settles the bets of one market: pays each the difference between what the results say and what it
//! has had. It may stop anywhere: bets that are not settled by the market's generation stay due.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use log::{debug, info, warn};

use super::settings::SettlerSettings;
use crate::domain::bets::bet_events::{SettledBet, bet_settled};
use crate::domain::ids::SelectionId;
use crate::domain::settlement::market_results::MarketResults;
use crate::domain::settlement::plan::{Change, Plan};
use crate::domain::timestamp::Timestamp;
use crate::runtime::clock::Clock;
use crate::store::StoreError;
use crate::store::money::{
    BetState, DueBet, DueBets, ExaminedBet, FinishedMarket, MarketLease, OutboxRow, OutboxTopic,
    PositionScope, SettleBet, SettleCall, SettledNow, SettlementStore,
};
use crate::telemetry::metrics::SettlementMetrics;

/// Why a market waits for an operator: its payout is above the limit.
const MARKET_LIMIT: &str = "market_limit";
/// Why a bet waits for an operator: the user's balance would exceed 64 bits.
const BALANCE_TOO_HIGH: &str = "balance_too_high";

/// How an attempt at a market ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Every bet of the market is settled, or waits for an operator.
    Finished,
    /// Some bets are pending, were locked, or became due meanwhile. The market is tried again.
    Incomplete,
    /// Another record arrived, or another process has the market.
    Superseded,
}

/// Settles markets. Its calls block.
pub(crate) struct MarketSettler {
    store: Arc<dyn SettlementStore>,
    settings: SettlerSettings,
    rules_text: String,
    clock: Clock,
    metrics: SettlementMetrics,
}

/// One attempt at a market.
struct Run<'a> {
    settler: &'a MarketSettler,
    lease: &'a MarketLease,
    results: MarketResults,
    publish: &'a dyn Fn(Vec<OutboxRow>),
    /// Whether a bet has to be tried again.
    is_incomplete: bool,
}

/// What the due bets of a round will have been paid.
#[derive(Default)]
struct RoundPayout {
    cents: i128,
    /// Whether a bet gets another settlement.
    changes: bool,
}

impl RoundPayout {
    fn add(&mut self, plan: Plan) {
        self.cents += i128::from(plan.paid());
        self.changes |= matches!(plan, Plan::Settle(_));
    }
}

/// A bet with the change that it gets.
struct Due<'a> {
    bet: &'a DueBet,
    change: Change,
}

impl MarketSettler {
    /// Settles bets of `store`.
    pub(crate) fn new(
        store: Arc<dyn SettlementStore>,
        settings: SettlerSettings,
        clock: Clock,
        metrics: SettlementMetrics,
    ) -> MarketSettler {
        MarketSettler {
            rules_text: settings.rules_text(),
            store,
            settings,
            clock,
            metrics,
        }
    }

    /// Makes the markets due that were settled by other rules and have open bets.
    pub(crate) fn apply_rules(&self) -> Result<(), StoreError> {
        let markets = self.store.apply_rules(&self.rules_text, self.clock.now())?;
        if markets > 0 {
            info!(markets; "markets are settled again by the present rules: {}", self.rules_text);
        }
        Ok(())
    }

    /// Leases the market that has been waiting longest.
    pub(crate) fn lease(&self) -> Result<Option<MarketLease>, StoreError> {
        let now = self.clock.now();
        self.store
            .lease_due_market(now, now.later_by(self.settings.lease))
    }

    /// Settles the bets of a leased market, and passes the outbox rows of its settlements to
    /// `publish`. Stops between two pages if `is_stopping`.
    pub(crate) fn settle(
        &self,
        lease: &MarketLease,
        publish: &dyn Fn(Vec<OutboxRow>),
        is_stopping: &dyn Fn() -> bool,
    ) -> Result<Attempt, StoreError> {
        // Read before the due bets: a bet that is confirmed in between is due.
        let has_pending = self.store.has_pending_bets(&lease.market)?;
        let stored = self.store.market_results(&lease.market)?;
        if stored.generation != lease.generation {
            return Ok(Attempt::Superseded);
        }
        let mut run = Run {
            settler: self,
            lease,
            results: stored.results,
            publish,
            is_incomplete: has_pending,
        };
        if run.is_above_limit()? {
            return run.finish(Some(MARKET_LIMIT));
        }
        for state in [BetState::Open, BetState::Settled] {
            if !run.settle_bets(state, is_stopping)? {
                return Ok(Attempt::Superseded);
            }
        }
        if run.is_incomplete {
            return run.retry();
        }
        run.finish(None)
    }
}

impl Run<'_> {
    fn store(&self) -> &dyn SettlementStore {
        &*self.settler.store
    }

    fn plan(&self, bet: &DueBet) -> Plan {
        let bet = bet.on(&self.lease.market);
        Plan::of(&bet, &self.results, &self.settler.settings.rules)
    }

    /// Calls `work` with the due bets, page by page, until it returns false.
    fn for_each_page(
        &mut self,
        state: BetState,
        mut work: impl FnMut(&mut Self, &[DueBet]) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let due = DueBets {
            market: &self.lease.market,
            generation: self.lease.generation,
            state,
            after: None,
            limit: self.settler.settings.page,
        };
        let store = &*self.settler.store;
        due.for_each_page(store, |page| work(self, page))
    }

    /// Whether the payout of a round of bets is above the limit, and no operator has decided. Only
    /// rounds with a bet that changes count. A bet is due once per generation: those that are not due
    /// are summed up by the database.
    fn is_above_limit(&mut self) -> Result<bool, StoreError> {
        let settings = &self.settler.settings;
        if self.results.is_decided_by_operator(&settings.rules.sources) {
            return Ok(false);
        }
        let mut rounds: BTreeMap<Option<Timestamp>, RoundPayout> = BTreeMap::new();
        for state in [BetState::Open, BetState::Settled] {
            self.for_each_page(state, |run, page| {
                for bet in page {
                    let rules = &run.settler.settings.rules;
                    let round = run.results.round_of(bet.placed_at, rules);
                    rounds.entry(round).or_default().add(run.plan(bet));
                }
                Ok(true)
            })?;
        }
        let limit = i128::from(self.settler.settings.max_market.cents());
        for (round, payout) in rounds.into_iter().filter(|(_, payout)| payout.changes) {
            let lease = self.lease;
            let paid = self
                .store()
                .paid_by(&lease.market, lease.generation, round)?;
            let cents = payout.cents + paid;
            if cents > limit {
                warn!(
                    market = lease.market.to_string();
                    "market waits for an operator: its payout of {cents} cents is above SETTLEMENT_MAX_MARKET_CENTS"
                );
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Settles the due bets of one state; false if the lease ended.
    fn settle_bets(
        &mut self,
        state: BetState,
        is_stopping: &dyn Fn() -> bool,
    ) -> Result<bool, StoreError> {
        self.for_each_page(state, |run, page| {
            let now = run.settler.clock.now();
            let until = now.later_by(run.settler.settings.lease);
            if is_stopping() || !run.store().extend_lease(run.lease, until)? {
                return Ok(false);
            }
            run.settle_page(page)?;
            Ok(true)
        })
    }

    fn settle_page(&mut self, page: &[DueBet]) -> Result<(), StoreError> {
        let mut examined = Vec::new();
        let mut due = Vec::new();
        for bet in page {
            let held = match self.plan(bet) {
                Plan::Settle(change) => {
                    due.push(Due { bet, change });
                    continue;
                }
                Plan::Nothing { .. } => None,
                Plan::Hold(reason) => Some(reason.into()),
            };
            examined.push(examined_bet(bet, held));
        }
        if !examined.is_empty() {
            self.store()
                .mark_examined(&examined, self.lease.generation)?;
        }
        while !due.is_empty() {
            due = self.settle_round(due)?;
        }
        Ok(())
    }

    /// Settles one bet of each user, and returns the others.
    fn settle_round<'b>(&mut self, due: Vec<Due<'b>>) -> Result<Vec<Due<'b>>, StoreError> {
        let mut users = HashSet::new();
        let (round, rest): (Vec<_>, Vec<_>) = due
            .into_iter()
            .partition(|due| users.insert(due.bet.user_id.clone()));
        for batch in round.chunks(self.settler.settings.batch) {
            let call = self.call();
            let bets: Vec<_> = batch
                .iter()
                .map(|due| self.settlement(due, &call))
                .collect();
            let began = Instant::now();
            let answers = self.store().settle_bets(&bets, &call)?;
            let mut rows = Vec::new();
            for ((due, bet), answer) in batch.iter().zip(bets).zip(answers) {
                let answer = match answer {
                    Some(answer) => Some(answer),
                    None => self.settle_alone(&bet, &call)?,
                };
                rows.extend(self.record(due, bet, answer)?);
            }
            (self.publish)(rows);
            std::thread::sleep(began.elapsed() * self.settler.settings.pause_percent / 100);
        }
        Ok(rest)
    }

    fn call(&self) -> SettleCall {
        let now = self.settler.clock.now();
        SettleCall {
            generation: self.lease.generation,
            leased_until: now.later_by(self.settler.settings.outbox_lease),
            at: now,
        }
    }

    fn settlement(&self, due: &Due<'_>, call: &SettleCall) -> SettleBet {
        let Due { bet, change } = due;
        let record = SettledBet {
            bet_id: bet.id,
            user_id: &bet.user_id,
            outcome: change.becomes.map(|(outcome, _)| outcome),
            payout_cents: change.becomes.map_or(0, |(_, payout)| payout),
            difference_cents: change.difference,
            n: bet.settlements + 1,
        };
        SettleBet {
            bet_id: bet.id,
            settlements: bet.settlements,
            becomes: change.becomes,
            reason: change.reason,
            payload: bet_settled(&record, call.at),
        }
    }

    /// Settles a bet whose wallet was locked; `None` if it still is.
    fn settle_alone(
        &self,
        bet: &SettleBet,
        call: &SettleCall,
    ) -> Result<Option<SettledNow>, StoreError> {
        match self.store().settle_bet(bet, call) {
            Ok(settled) => Ok(Some(settled)),
            Err(error) if error.is_lock_timeout() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Counts a settlement, and returns its outbox row.
    fn record(
        &mut self,
        due: &Due<'_>,
        bet: SettleBet,
        answer: Option<SettledNow>,
    ) -> Result<Option<OutboxRow>, StoreError> {
        match answer {
            Some(SettledNow::Settled { outbox }) => {
                self.count(&due.change);
                Ok(Some(OutboxRow {
                    id: outbox,
                    topic: OutboxTopic::Settled,
                    key: bet.bet_id.to_string(),
                    payload: bet.payload,
                    trace: None,
                }))
            }
            Some(SettledNow::BalanceTooHigh) => {
                warn!(bet = bet.bet_id.to_string(); "bet waits for an operator: the balance would exceed the maximum");
                let examined = examined_bet(due.bet, Some(BALANCE_TOO_HIGH));
                self.store()
                    .mark_examined(&[examined], self.lease.generation)?;
                Ok(None)
            }
            Some(SettledNow::Changed) | None => {
                self.is_incomplete = true;
                Ok(None)
            }
        }
    }

    fn count(&self, change: &Change) {
        let metrics = &self.settler.metrics;
        let outcome = change.becomes.map_or("open", |(outcome, _)| outcome.into());
        metrics.bets.with_label_values(&[outcome]).inc();
        let cents = change.difference.unsigned_abs();
        if change.difference >= 0 {
            metrics.paid_cents.inc_by(cents);
        } else {
            metrics.taken_back_cents.inc_by(cents);
        }
    }

    fn finish(&self, held: Option<&'static str>) -> Result<Attempt, StoreError> {
        let finished = FinishedMarket {
            rules: &self.settler.rules_text,
            held,
            missing: self.missing()?,
        };
        if !self.store().finish_market(self.lease, &finished)? {
            // A bet became due meanwhile, or the lease ended.
            return self.retry();
        }
        debug!(market = self.lease.market.to_string(), generation = self.lease.generation; "market settled");
        Ok(Attempt::Finished)
    }

    /// Lets the market wait a moment before the next attempt.
    fn retry(&self) -> Result<Attempt, StoreError> {
        let again = self
            .settler
            .clock
            .now()
            .later_by(self.settler.settings.retry);
        let is_leased = self.store().extend_lease(self.lease, again)?;
        Ok(if is_leased {
            Attempt::Incomplete
        } else {
            Attempt::Superseded
        })
    }

    /// The number of open bets on selections that no record names.
    fn missing(&self) -> Result<u64, StoreError> {
        let open = self
            .store()
            .open_positions(PositionScope::Market(&self.lease.market))?;
        let open: BTreeMap<SelectionId, u64> = open
            .into_iter()
            .map(|position| (position.selection, position.bets))
            .collect();
        let missing = self
            .results
            .missing_selections(open.keys(), &self.settler.settings.rules);
        Ok(missing.into_iter().filter_map(|one| open.get(one)).sum())
    }
}

fn examined_bet(bet: &DueBet, held: Option<&'static str>) -> ExaminedBet {
    ExaminedBet {
        bet_id: bet.id,
        settlements: bet.settlements,
        held,
    }
}

#[cfg(test)]
mod tests;
