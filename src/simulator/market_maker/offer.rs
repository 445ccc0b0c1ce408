//! The markets of a fixture, and their first prices.

use fastrand::Rng;

use super::{QuotedMarket, source};
use crate::config::settings::SimulatedMarket;
use crate::domain::ids::{MarketKey, MarketName, SelectionId};
use crate::domain::odds::price::Line;
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::odds::update::{OddsUpdate, Revision, Selection};
use crate::domain::timestamp::Timestamp;
use crate::simulator::catalogue::Fixture;
use crate::simulator::score::Question;
use crate::simulator::walk::{self, Situation, Truth, Walk};

/// The lines of total goals, in thousandths.
const GOAL_LINES: [i32; 3] = [1_500, 2_500, 3_500];

/// A market of one fixture before it has prices.
pub(super) struct Offer {
    question: Question,
    name: &'static str,
    line: Option<Line>,
    /// Id and name of each selection, in the order of the question's answers.
    selections: Vec<(&'static str, String)>,
}

pub(super) fn offers(kind: SimulatedMarket, fixture: &Fixture) -> Vec<Offer> {
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
            let lines = GOAL_LINES.into_iter().filter_map(Line::from_thousandths);
            lines
                .map(|line| Offer {
                    question: Question::MoreGoals(line),
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
pub(super) fn open(
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
    let probabilities = truth.probabilities(offer.question, Situation::BEFORE);
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
        source: source()?,
    };
    Some(QuotedMarket {
        event,
        question: offer.question,
        margin,
        reopens_in: None,
        records: 0,
        latest,
    })
}
