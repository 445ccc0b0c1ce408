//! Holds: an operator stops bets on everything, a source, an event, a market or a selection.
//!
//! A hold is stronger than any feed: what it covers is shown as suspended, and no bet on it is
//! accepted, until the hold is released or ends.

use std::fmt;

use strum::IntoStaticStr;

use crate::domain::ids::{EventId, MarketKey, SelectionId, Source};
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;

/// What a hold covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum HoldScope {
    /// Every market.
    All,
    /// The markets whose current state is from this source.
    Source(Source),
    /// The markets of an event.
    Event(EventId),
    /// One market.
    Market(EventId, MarketKey),
    /// One selection of a market.
    Selection(EventId, MarketKey, SelectionId),
}

/// A hold in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its number.
    pub id: i64,
    /// What it covers.
    pub scope: HoldScope,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
}

impl HoldScope {
    /// Its kind as text.
    pub fn kind(&self) -> &'static str {
        self.into()
    }

    /// Whether it covers this whole market, whose state is from this source.
    pub fn covers(&self, source: &Source, event_id: &EventId, market: &MarketKey) -> bool {
        match self {
            HoldScope::All => true,
            HoldScope::Source(held) => held == source,
            HoldScope::Event(held) => held == event_id,
            HoldScope::Market(event, held) => event == event_id && held == market,
            HoldScope::Selection(..) => false,
        }
    }

    /// The selection that it covers, if it covers one selection of this market.
    pub fn selection_in(&self, event_id: &EventId, market: &MarketKey) -> Option<&SelectionId> {
        match self {
            HoldScope::Selection(event, held, selection) if event == event_id && held == market => {
                Some(selection)
            }
            _ => None,
        }
    }

    /// Whether it covers the whole market of this update.
    pub fn covers_market(&self, update: &OddsUpdate) -> bool {
        self.covers(&update.source, &update.event_id, &update.market)
    }

    /// The selection that it covers, if it covers one selection of the market of this update.
    pub fn selection_of(&self, update: &OddsUpdate) -> Option<&SelectionId> {
        self.selection_in(&update.event_id, &update.market)
    }
}

impl fmt::Display for HoldScope {
    /// For operators: `event MATCH_001, market 1x2, line 2.5, selection over`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (event, market) = match self {
            HoldScope::All => return out.write_str("everything"),
            HoldScope::Source(source) => return write!(out, "source {source}"),
            HoldScope::Event(event) => return write!(out, "event {event}"),
            HoldScope::Market(event, market) | HoldScope::Selection(event, market, _) => {
                (event, market)
            }
        };
        write!(out, "event {event}, market {}", market.name)?;
        if let Some(line) = market.line {
            write!(out, ", line {line}")?;
        }
        match self {
            HoldScope::Selection(_, _, selection) => write!(out, ", selection {selection}"),
            _ => Ok(()),
        }
    }
}

impl Hold {
    /// Whether it has not ended at this time.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::MarketName;

    fn market(line: Option<&str>) -> MarketKey {
        MarketKey {
            name: MarketName::new("total_goals").unwrap(),
            line: line.map(|line| line.parse().unwrap()),
        }
    }

    #[test]
    fn scope_covers_what_it_names() {
        let source = |text| Source::new(text).unwrap();
        let event = |text| EventId::new(text).unwrap();
        let over = SelectionId::new("over").unwrap();
        let covered = |scope: HoldScope| {
            [
                scope.covers(&source("a"), &event("E"), &market(Some("2.5"))),
                scope.covers(&source("a"), &event("E"), &market(None)),
                scope.covers(&source("b"), &event("F"), &market(Some("2.5"))),
                scope
                    .selection_in(&event("E"), &market(Some("2.5")))
                    .is_some(),
            ]
        };
        let key = market(Some("2.5"));
        assert_eq!(covered(HoldScope::All), [true, true, true, false]);
        assert_eq!(
            covered(HoldScope::Source(source("a"))),
            [true, true, false, false]
        );
        assert_eq!(
            covered(HoldScope::Event(event("E"))),
            [true, true, false, false]
        );
        assert_eq!(
            covered(HoldScope::Market(event("E"), key.clone())),
            [true, false, false, false]
        );
        assert_eq!(
            covered(HoldScope::Selection(event("E"), key, over)),
            [false, false, false, true]
        );
    }

    #[test]
    fn scope_reads_as_text() {
        let event = EventId::new("E").unwrap();
        let over = SelectionId::new("over").unwrap();
        let texts = [
            HoldScope::All,
            HoldScope::Source(Source::new("a").unwrap()),
            HoldScope::Event(event.clone()),
            HoldScope::Market(event.clone(), market(None)),
            HoldScope::Selection(event, market(Some("2.5")), over),
        ]
        .map(|scope| format!("{}: {scope}", scope.kind()));
        assert_eq!(
            texts,
            [
                "all: everything",
                "source: source a",
                "event: event E",
                "market: event E, market total_goals",
                "selection: event E, market total_goals, line 2.5, selection over"
            ]
        );
    }

    #[test]
    fn hold_ends_at_its_time() {
        let at = |micros| Timestamp::from_micros(micros).unwrap();
        let hold = |until| Hold {
            id: 1,
            scope: HoldScope::All,
            until,
        };
        assert!(hold(None).is_in_force(at(5)));
        assert!(hold(Some(at(5))).is_in_force(at(4)));
        assert!(!hold(Some(at(5))).is_in_force(at(5)));
    }
}
