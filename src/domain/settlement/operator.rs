//! The record of an operator's decision.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{
    CancelReason, Certainty, DeadHeat, Outcome, RecordContent, SelectionResult, Settlement, Window,
    Won,
};
use crate::domain::ids::SelectionId;
use crate::domain::timestamp::Timestamp;

/// What an operator decides about a market.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorDecision {
    /// The results of some selections. All others have lost.
    Result(NamedResults),
    /// All selections are void.
    Void,
    /// The results are taken back, and bets are open again.
    Rollback,
    /// Bets placed within the window are void.
    Cancel(Window),
    /// The cancellation of bets placed within the window is taken back.
    RollbackCancel(Window),
}

/// The results of selections that have not lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedResults {
    /// They have won.
    pub winners: Vec<SelectionId>,
    /// They share a place with others.
    pub dead_heats: Vec<(SelectionId, DeadHeat)>,
    /// Bets on them are void.
    pub voids: Vec<SelectionId>,
    /// Bets placed then or later are void.
    pub bets_until: Option<Timestamp>,
}

/// Why a decision cannot be written as a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDecision {
    /// The market has no such selection.
    #[error("the market has no selection `{selection}`; it has {}", list(.known))]
    UnknownSelection {
        /// The selection.
        selection: SelectionId,
        /// Those of the market.
        known: Vec<SelectionId>,
    },
    /// A selection has two results.
    #[error("selection `{0}` is named twice")]
    NamedTwice(SelectionId),
    /// No selection of the market is known.
    #[error("the market is not known: it has no prices, no results and no bets")]
    UnknownMarket,
}

fn list(ids: &[SelectionId]) -> String {
    let names: Vec<_> = ids.iter().map(|id| format!("`{id}`")).collect();
    names.join(", ")
}

impl OperatorDecision {
    /// The content of the record, for a market with these selections. A result concerns the round of
    /// bets that starts at `bets_from`; bets before the first round if there is none.
    pub fn content(
        &self,
        known: &BTreeSet<SelectionId>,
        bets_from: Option<Timestamp>,
    ) -> Result<RecordContent, BadDecision> {
        if known.is_empty() {
            return Err(BadDecision::UnknownMarket);
        }
        Ok(match self {
            OperatorDecision::Result(named) => {
                settlement(named.outcomes(known)?, bets_from, named.bets_until)
            }
            OperatorDecision::Void => {
                let void = Outcome::Void { removal: None };
                let all = known.iter().map(|id| (id.clone(), void));
                settlement(all.collect(), bets_from, None)
            }
            OperatorDecision::Rollback => RecordContent::RollbackSettlement {
                selections: None,
                bets_from,
            },
            OperatorDecision::Cancel(window) => RecordContent::Cancel {
                window: *window,
                reason: CancelReason::default(),
            },
            OperatorDecision::RollbackCancel(window) => {
                RecordContent::RollbackCancel { window: *window }
            }
        })
    }
}

impl NamedResults {
    fn outcomes(
        &self,
        known: &BTreeSet<SelectionId>,
    ) -> Result<BTreeMap<SelectionId, Outcome>, BadDecision> {
        let winners = self.winners.iter().map(|id| (id, Outcome::Won(Won::WHOLE)));
        let shared = self.dead_heats.iter();
        let shared = shared.map(|(id, share)| (id, Outcome::Won(Won::DeadHeat(*share))));
        let voids = self
            .voids
            .iter()
            .map(|id| (id, Outcome::Void { removal: None }));
        let mut outcomes = BTreeMap::new();
        for (id, outcome) in winners.chain(shared).chain(voids) {
            if !known.contains(id) {
                return Err(BadDecision::UnknownSelection {
                    selection: id.clone(),
                    known: known.iter().cloned().collect(),
                });
            }
            if outcomes.insert(id.clone(), outcome).is_some() {
                return Err(BadDecision::NamedTwice(id.clone()));
            }
        }
        let lost = Outcome::Lost {
            void: super::record::VoidFactor::NONE,
        };
        for id in known {
            outcomes.entry(id.clone()).or_insert(lost);
        }
        Ok(outcomes)
    }
}

fn settlement(
    outcomes: BTreeMap<SelectionId, Outcome>,
    bets_from: Option<Timestamp>,
    bets_until: Option<Timestamp>,
) -> RecordContent {
    let selections = outcomes
        .into_iter()
        .map(|(id, outcome)| SelectionResult { id, outcome });
    RecordContent::Settlement(Settlement {
        selections: selections.collect(),
        certainty: Certainty::Confirmed,
        bets_from,
        bets_until,
    })
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn ids(names: &[&str]) -> BTreeSet<SelectionId> {
        names
            .iter()
            .map(|name| SelectionId::new(name).unwrap())
            .collect()
    }

    fn id(name: &str) -> SelectionId {
        SelectionId::new(name).unwrap()
    }

    #[test]
    fn others_have_lost() {
        let decision = OperatorDecision::Result(NamedResults {
            winners: vec![id("home")],
            dead_heats: vec![(id("draw"), DeadHeat::new(1, 2).unwrap())],
            voids: vec![id("other")],
            bets_until: None,
        });
        let known = ids(&["home", "draw", "away", "other"]);
        let RecordContent::Settlement(settlement) = decision.content(&known, None).unwrap() else {
            panic!("no settlement");
        };
        let read: Vec<_> = settlement
            .selections
            .iter()
            .map(|result| (result.id.as_str(), result.outcome))
            .collect();
        let lost = Outcome::Lost {
            void: crate::domain::settlement::record::VoidFactor::NONE,
        };
        assert_eq!(
            read,
            [
                ("away", lost),
                (
                    "draw",
                    Outcome::Won(Won::DeadHeat(DeadHeat::new(1, 2).unwrap()))
                ),
                ("home", Outcome::Won(Won::WHOLE)),
                ("other", Outcome::Void { removal: None }),
            ]
        );
    }

    #[test]
    fn misspelt_selection_is_refused() {
        let result = |winners: &[&str]| {
            OperatorDecision::Result(NamedResults {
                winners: winners.iter().map(|name| id(name)).collect(),
                ..NamedResults::default()
            })
        };
        let known = ids(&["home", "away"]);
        let text = result(&["hom"])
            .content(&known, None)
            .unwrap_err()
            .to_string();
        assert_eq!(
            text,
            "the market has no selection `hom`; it has `away`, `home`"
        );
        assert_eq!(
            result(&["home", "home"]).content(&known, None),
            Err(BadDecision::NamedTwice(id("home")))
        );
        assert_eq!(
            OperatorDecision::Rollback.content(&ids(&[]), None),
            Err(BadDecision::UnknownMarket)
        );
    }
}
