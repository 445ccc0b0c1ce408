//! The market maker: selects the market that moves next and computes its new prices. Deterministic:
//! the time is passed in, and the random numbers are seeded.

use fastrand::Rng;

use super::catalogue::{self, Fixture};
use super::walk::{self, Question, Truth, Walk};
use crate::config::settings::SimulatedMarket;
use crate::domain::ids::{MarketKey, MarketName, SelectionId, Source};
use crate::domain::odds::price::Line;
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::odds::update::{OddsUpdate, Revision, Selection};
use crate::domain::timestamp::Timestamp;

/// The source name of the simulator's updates.
pub(crate) const SOURCE: &str = "supplier-simulator";

/// A market is suspended about once in this many of its updates.
const SUSPENDED_ONCE_IN: u32 = 80;
/// How many times the usual step prices move while a market is suspended.
const STEP_WHEN_REOPENED: f64 = 6.0;
/// The lines of total goals, in thousandths, with the log-odds of more goals in an average match.
const GOAL_LINES: [(i32, f64); 3] = [(1_500, 1.1), (2_500, 0.05), (3_500, -0.95)];

/// A market with the state that moves its prices.
struct QuotedMarket {
    event: usize,
    question: Question,
    margin: Walk,
    /// While the market is suspended: the number of updates until it reopens.
    reopens_in: Option<u32>,
    latest: OddsUpdate,
}

/// Generates the prices of all markets of all events, one update at a time.
pub(crate) struct MarketMaker {
    truths: Vec<Truth>,
    markets: Vec<QuotedMarket>,
    /// The markets that have not moved in this round yet; the last one is next.
    round: Vec<usize>,
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
            round: Vec::new(),
            random,
            clock: now,
        }
    }

    /// Moves the next market and returns its new state, or `None` if there are no markets.
    ///
    /// Each market moves once per round; the order is shuffled for each round.
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

    /// Moves the next market and returns its index.
    pub(crate) fn advance(&mut self, now: Timestamp) -> Option<usize> {
        if self.round.is_empty() {
            self.round.extend(0..self.markets.len());
            self.random.shuffle(&mut self.round);
        }
        let index = self.round.pop()?;
        self.clock = self.clock.max(now);
        let market = self.markets.get_mut(index)?;
        let truth = self.truths.get_mut(market.event)?;
        market.move_on(truth, &mut self.random, self.clock);
        Some(index)
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
    fn move_on(&mut self, truth: &mut Truth, random: &mut Rng, now: Timestamp) {
        self.latest.revision = Revision {
            updated_at: now,
            version: self.latest.revision.version.saturating_add(1),
        };
        match self.reopens_in {
            None if random.u32(0..SUSPENDED_ONCE_IN) == 0 => {
                self.latest.status = MarketStatus::Suspended;
                self.reopens_in = Some(random.u32(1..=3));
            }
            None => self.reprice(truth, random, 1.0),
            Some(0) => {
                self.latest.status = MarketStatus::Open;
                self.reopens_in = None;
                self.reprice(truth, random, STEP_WHEN_REOPENED);
            }
            Some(left) => self.reopens_in = Some(left - 1),
        }
    }

    fn reprice(&mut self, truth: &mut Truth, random: &mut Rng, times: f64) {
        truth.step(self.question, random, times);
        self.margin.step(random, 1.0);
        let probabilities = truth.probabilities(self.question);
        for (selection, probability) in self.latest.selections.iter_mut().zip(probabilities) {
            selection.price = Some(walk::price(probability, self.margin.at()));
        }
    }
}

/// A market of one fixture before it has prices.
struct Offer {
    question: Question,
    name: &'static str,
    line: Option<Line>,
    /// Id and name of each selection, in the order of the question's answers.
    selections: Vec<(&'static str, String)>,
}

fn offers(kind: SimulatedMarket, fixture: &Fixture) -> Vec<Offer> {
    let named = |id: &'static str, name: &str| (id, name.to_owned());
    match kind {
        SimulatedMarket::OneXTwo => vec![Offer {
            question: Question::Winner,
            name: "1x2",
            line: None,
            selections: vec![
                named("home", fixture.home_team),
                named("draw", "Draw"),
                named("away", fixture.away_team),
            ],
        }],
        SimulatedMarket::TotalGoals => {
            let lines = GOAL_LINES
                .iter()
                .filter_map(|(line, usual)| Some((Line::from_thousandths(*line)?, *usual)));
            lines
                .map(|(line, usual)| Offer {
                    question: Question::MoreGoals(usual),
                    name: "total_goals",
                    line: Some(line),
                    selections: vec![
                        ("over", format!("Over {line}")),
                        ("under", format!("Under {line}")),
                    ],
                })
                .collect()
        }
        SimulatedMarket::BothTeamsToScore => vec![Offer {
            question: Question::BothScore,
            name: "btts",
            line: None,
            selections: vec![named("yes", "Yes"), named("no", "No")],
        }],
    }
}

/// Sets the initial prices of an offer. `None` only for invalid names, and all names here are
/// valid.
fn open(
    event: usize,
    fixture: &Fixture,
    truth: &Truth,
    offer: Offer,
    random: &mut Rng,
    now: Timestamp,
) -> Option<QuotedMarket> {
    // Well within 1.03 to 1.10: rounding each price to thousandths changes the sum by less than
    // 0.002.
    let margin = Walk::new(1.05 + 0.03 * random.f64(), 0.012, 0.002);
    let selection = |((id, name), probability): ((&str, String), f64)| {
        let price = Some(walk::price(probability, margin.at()));
        Some(Selection {
            id: SelectionId::new(id).ok()?,
            name,
            price,
            status: SelectionStatus::Active,
        })
    };
    let probabilities = truth.probabilities(offer.question);
    let latest = OddsUpdate {
        event_id: fixture.event_id.clone(),
        home_team: fixture.home_team.to_owned(),
        away_team: fixture.away_team.to_owned(),
        sport: None,
        start_time: None,
        market: MarketKey {
            name: MarketName::new(offer.name).ok()?,
            line: offer.line,
        },
        status: MarketStatus::Open,
        in_play: false,
        selections: offer
            .selections
            .into_iter()
            .zip(probabilities)
            .map(selection)
            .collect::<Option<_>>()?,
        revision: Revision {
            updated_at: now,
            version: 1,
        },
        source: Source::new(SOURCE).ok()?,
    };
    Some(QuotedMarket {
        event,
        question: offer.question,
        margin,
        reopens_in: None,
        latest,
    })
}

#[cfg(test)]
mod tests;
