//! The difference between two restrictions: which markets are shown in another way.

use std::collections::{BTreeMap, BTreeSet};

use super::book::MarketState;
use super::hold::HoldScope;
use super::restrictions::Restrictions;
use crate::domain::ids::Source;

/// What changed between two restrictions. Changes that follow each other can be united.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestrictionChange {
    /// The sources that were lost (`true`) or are live again (`false`).
    pub sources: BTreeMap<Source, bool>,
    /// The sources that were reported as live for the first time: their markets below this sequence
    /// number were not trusted before.
    pub first_reports: BTreeMap<Source, u64>,
    /// The scopes of holds that were set, released or have ended.
    pub scopes: BTreeSet<HoldScope>,
}

impl RestrictionChange {
    /// What changed from `earlier` to `later`.
    pub fn between(earlier: &Restrictions, later: &Restrictions) -> RestrictionChange {
        let reported = earlier.sources.keys().chain(later.sources.keys());
        let sources = reported
            .filter(|source| earlier.is_lost(source) != later.is_lost(source))
            .map(|source| (source.clone(), later.is_lost(source)))
            .collect();
        let first_live = later.sources.keys().filter(|source| {
            later.unreported_from > 0
                && !earlier.sources.contains_key(source)
                && !later.is_lost(source)
        });
        let first_reports = first_live
            .map(|source| (source.clone(), later.unreported_from))
            .collect();
        let scopes = |restrictions: &Restrictions| -> BTreeSet<HoldScope> {
            let scopes = restrictions.holds.iter().map(|hold| hold.scope.clone());
            scopes.collect()
        };
        RestrictionChange {
            sources,
            first_reports,
            scopes: &scopes(earlier) ^ &scopes(later),
        }
    }

    /// Whether every market is shown as before.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.first_reports.is_empty() && self.scopes.is_empty()
    }

    /// Adds a later change. A source that is lost and live again stays part of the change, because
    /// the loss may have been shown.
    pub fn extend(&mut self, later: RestrictionChange) {
        self.sources.extend(later.sources);
        self.first_reports.extend(later.first_reports);
        self.scopes.extend(later.scopes);
    }

    /// Whether a market may be shown in another way.
    pub fn affects(&self, market: &MarketState) -> bool {
        let MarketState { update, seq } = market;
        if update.status.has_ended() {
            return false;
        }
        let first_report = self.first_reports.get(&update.source);
        self.sources.contains_key(&update.source)
            || first_report.is_some_and(|from| seq < from)
            || self
                .scopes
                .iter()
                .any(|scope| scope.covers_market(update) || scope.selection_of(update).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::EventId;
    use crate::domain::odds::hold::Hold;
    use crate::domain::odds::source_status::{SourceState, SourceStatus};
    use crate::domain::odds::update::testing::update;

    fn source() -> Source {
        update(1, 1, 1).source
    }

    fn market(event: u32, seq: u64) -> MarketState {
        let update = update(event, 1, 1);
        MarketState { update, seq }
    }

    fn reported(state: SourceState) -> Restrictions {
        let status = SourceStatus { state, at: None };
        Restrictions {
            sources: [(source(), status)].into(),
            ..Restrictions::default()
        }
    }

    fn held(ids: &[(i64, HoldScope)]) -> Restrictions {
        let holds = ids.iter().map(|(id, scope)| Hold {
            id: *id,
            scope: scope.clone(),
            until: None,
        });
        Restrictions {
            holds: holds.collect(),
            ..Restrictions::default()
        }
    }

    #[test]
    fn only_lost_and_live_again_differ() {
        use SourceState::{Live, Recovering, Stale};
        let unreported = Restrictions::default;
        for (earlier, later, expected) in [
            (unreported(), reported(Live), None),
            (unreported(), reported(Stale), Some(true)),
            (reported(Live), reported(Recovering), Some(true)),
            (reported(Stale), reported(Recovering), None),
            (reported(Recovering), reported(Live), Some(false)),
            (reported(Stale), unreported(), Some(false)),
        ] {
            let change = RestrictionChange::between(&earlier, &later);
            assert_eq!(change.sources.get(&source()).copied(), expected);
            assert_eq!(change.affects(&market(1, 1)), expected.is_some());
            assert_eq!(change.is_empty(), expected.is_none());
        }
    }

    /// A market that changed since this process started was trusted before the report.
    #[test]
    fn first_report_affects_earlier_markets() {
        let distrusting = Restrictions {
            unreported_from: 5,
            ..Restrictions::default()
        };
        let first = Restrictions {
            unreported_from: 5,
            ..reported(SourceState::Live)
        };
        let change = RestrictionChange::between(&distrusting, &first);
        assert!(!change.is_empty() && change.sources.is_empty());
        assert!(change.affects(&market(1, 4)) && !change.affects(&market(1, 5)));
        assert!(RestrictionChange::between(&first, &first).is_empty());
    }

    #[test]
    fn holds_differ_by_scope() {
        let event = HoldScope::Event(EventId::new("MATCH_001").unwrap());
        let one = held(&[(1, event.clone())]);
        let two = held(&[(1, event.clone()), (2, event.clone())]);
        assert!(RestrictionChange::between(&one, &two).is_empty());
        for change in [
            RestrictionChange::between(&Restrictions::default(), &one),
            RestrictionChange::between(&two, &Restrictions::default()),
        ] {
            assert_eq!(change.scopes, [event.clone()].into());
            assert!(change.affects(&market(1, 1)) && !change.affects(&market(2, 1)));
        }
    }

    /// A loss that ended before anybody was notified may have been shown all the same.
    #[test]
    fn united_changes_do_not_cancel_out() {
        let (live, stale) = (reported(SourceState::Live), reported(SourceState::Stale));
        let mut change = RestrictionChange::between(&live, &stale);
        change.extend(RestrictionChange::between(&stale, &live));
        assert_eq!(change.sources, [(source(), false)].into());
    }
}
