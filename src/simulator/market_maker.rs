//! The market maker: selects the market that moves next, computes its new prices, and plays the
//! matches. Deterministic: the time is passed in, and the random numbers are seeded.

mod offer;
mod play;

use fastrand::Rng;

use self::offer::{offers, open};
pub(crate) use self::play::Change;
use self::play::Matches;
use super::catalogue;
use super::score::Question;
use super::walk::{self, Situation, Truth, Walk};
use crate::config::settings::SimulatedMarket;
use crate::domain::ids::Source;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::{OddsUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// The source name of the simulator's updates.
pub(crate) const SOURCE: &str = "supplier-simulator";

/// The source of the simulator's updates and results.
pub(crate) fn source() -> Option<Source> {
    Source::new(SOURCE).ok()
}

/// A market is suspended about once in this many of its updates.
const SUSPENDED_ONCE_IN: u32 = 80;
/// How many times the usual step prices move while a market is suspended.
const STEP_WHEN_REOPENED: f64 = 6.0;

/// A market with the state that moves its prices.
struct QuotedMarket {
    event: usize,
    question: Question,
    margin: Walk,
    /// While the market is suspended without a reason: the number of updates until it reopens.
    reopens_in: Option<u32>,
    /// The number of records of its results so far.
    records: i64,
    latest: OddsUpdate,
}

/// Generates the prices of all markets of all events, one update at a time.
pub(crate) struct MarketMaker {
    truths: Vec<Truth>,
    markets: Vec<QuotedMarket>,
    /// The markets that have not had their turn yet; the last one is next.
    turns: Vec<usize>,
    matches: Option<Matches>,
    random: Rng,
    clock: Timestamp,
}

impl MarketMaker {
    /// Opens these markets for the first `events` fixtures of the catalogue (at most
    /// [`catalogue::MAX_FIXTURES`]), each with version 1 as of `now`. Duplicate markets are
    /// ignored.
    pub(crate) fn new(
        events: usize,
        markets: &[SimulatedMarket],
        seed: u64,
        now: Timestamp,
    ) -> MarketMaker {
        let mut random = Rng::with_seed(seed);
        let mut kinds: Vec<SimulatedMarket> = Vec::new();
        for kind in markets {
            if !kinds.contains(kind) {
                kinds.push(*kind);
            }
        }
        let mut truths = Vec::new();
        let mut quoted = Vec::new();
        for (event, fixture) in catalogue::fixtures(events).iter().enumerate() {
            let truth = Truth::draw(&mut random);
            for offer in kinds.iter().flat_map(|kind| offers(*kind, fixture)) {
                quoted.extend(open(event, fixture, &truth, offer, &mut random, now));
            }
            truths.push(truth);
        }
        MarketMaker {
            truths,
            markets: quoted,
            turns: Vec::new(),
            matches: None,
            random,
            clock: now,
        }
    }

    /// Moves the next market and returns its new state, or `None` if no market is traded.
    ///
    /// Each traded market moves once, then each again; the order is shuffled each time.
    #[cfg(test)]
    pub(crate) fn next(&mut self, now: Timestamp) -> Option<OddsUpdate> {
        let index = self.advance(now)?;
        self.market(index).cloned()
    }

    /// The latest state of each market.
    pub(crate) fn current(&self) -> Vec<OddsUpdate> {
        self.markets
            .iter()
            .map(|market| market.latest.clone())
            .collect()
    }

    /// Moves the next market and returns its index; `None` if no market is traded.
    pub(crate) fn advance(&mut self, now: Timestamp) -> Option<usize> {
        self.clock = self.clock.max(now);
        let index = self.next_traded()?;
        let market = self.markets.get_mut(index)?;
        let truth = self.truths.get_mut(market.event)?;
        let situation = match &self.matches {
            Some(matches) => matches.situation(market.event, self.clock),
            None => Situation::BEFORE,
        };
        market.move_on(truth, situation, &mut self.random, self.clock);
        Some(index)
    }

    fn next_traded(&mut self) -> Option<usize> {
        for _ in 0..2 {
            while let Some(index) = self.turns.pop() {
                if self.markets.get(index).is_some_and(QuotedMarket::is_traded) {
                    return Some(index);
                }
            }
            self.turns.extend(0..self.markets.len());
            self.random.shuffle(&mut self.turns);
        }
        None
    }

    /// The latest state of the market with this index.
    pub(crate) fn market(&self, index: usize) -> Option<&OddsUpdate> {
        self.markets.get(index).map(|market| &market.latest)
    }

    /// The number of markets.
    pub(crate) fn len(&self) -> usize {
        self.markets.len()
    }

    /// Whether there are no markets.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.markets.is_empty()
    }
}

impl QuotedMarket {
    /// Whether its prices move: it is open, or suspended without a reason.
    fn is_traded(&self) -> bool {
        self.latest.status == MarketStatus::Open || self.reopens_in.is_some()
    }

    fn move_on(
        &mut self,
        truth: &mut Truth,
        situation: Situation,
        random: &mut Rng,
        now: Timestamp,
    ) {
        self.revise(now);
        match self.reopens_in {
            None if random.u32(0..SUSPENDED_ONCE_IN) == 0 => {
                self.latest.status = MarketStatus::Suspended;
                self.reopens_in = Some(random.u32(1..=3));
            }
            None => self.reprice(truth, situation, random, 1.0),
            Some(0) => {
                self.latest.status = MarketStatus::Open;
                self.reopens_in = None;
                self.reprice(truth, situation, random, STEP_WHEN_REOPENED);
            }
            Some(left) => self.reopens_in = Some(left - 1),
        }
    }

    /// Gives it the next version.
    fn revise(&mut self, now: Timestamp) {
        self.latest.revision = Revision {
            updated_at: now,
            version: self.latest.revision.version.saturating_add(1),
        };
    }

    fn reprice(&mut self, truth: &mut Truth, situation: Situation, random: &mut Rng, times: f64) {
        truth.step(random, times);
        self.margin.step(random, 1.0);
        self.set_prices(truth, situation);
    }

    fn set_prices(&mut self, truth: &Truth, situation: Situation) {
        let probabilities = truth.probabilities(self.question, situation);
        for (selection, probability) in self.latest.selections.iter_mut().zip(probabilities) {
            selection.price = Some(walk::price(probability, self.margin.at()));
        }
    }
}

#[cfg(test)]
mod tests;
