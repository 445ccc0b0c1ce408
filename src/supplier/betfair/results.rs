//! The results of a Betfair market, as far as its definition states them without doubt.
//!
//! A record is a function of the definition and of what was published before, so that several
//! processes that read the same stream publish the same records.

use std::collections::{BTreeMap, BTreeSet};

use super::definition::Definition;
use super::result_terms::{RunnerRemoval, RunnerResult};
use super::source;
use crate::domain::ids::{EventId, SelectionId};
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::Revision;
use crate::domain::settlement::record::{
    Certainty, DeadHeat, Outcome, RecordContent, ResultRecord, SelectionResult, Settlement,
    VoidFactor, Won,
};
use crate::domain::timestamp::Timestamp;
use crate::supplier::Refused;

/// The reason for a result that an operator has to give.
pub(crate) const AMBIGUOUS: &str = "ambiguous_result";

type Results = BTreeMap<SelectionId, Outcome>;

/// What was published about the results of a market.
#[derive(Debug, Default)]
pub(super) struct MarketResults {
    published: Results,
    last: Option<Revision>,
    /// The result of the closed market was published.
    is_settled: bool,
    /// Whether the market was in play or suspended before it was closed.
    was_stopped: Option<bool>,
    /// The last ambiguity, which is reported once.
    ambiguity: Option<String>,
}

/// The results that a frame adds.
#[derive(Debug, Default)]
pub(super) struct NewResults {
    /// The records.
    pub records: Vec<ResultRecord>,
    /// The results that an operator has to give.
    pub refused: Vec<Refused>,
}

impl NewResults {
    /// Adds those of another market.
    pub(super) fn extend(&mut self, other: NewResults) {
        self.records.extend(other.records);
        self.refused.extend(other.refused);
    }
}

impl MarketResults {
    /// Follows a definition that was published at this time.
    pub(super) fn apply(
        &mut self,
        market: &EventId,
        definition: &Definition,
        time: Timestamp,
    ) -> NewResults {
        let is_closed = definition.results.is_closed;
        if !is_closed {
            let is_suspended = definition.status == MarketStatus::Suspended;
            self.was_stopped = Some(definition.in_play || is_suspended);
        }
        match results_of(definition) {
            Ok(results) => {
                self.ambiguity = None;
                let records = self.publish(market, definition, results, time);
                self.is_settled = is_closed;
                NewResults {
                    records,
                    refused: Vec::new(),
                }
            }
            Err(ambiguity) => {
                // What was paid by an earlier result stays until an operator has decided.
                let is_untouched = !self.is_settled && definition.results.is_supported;
                let removals = removals_of(definition).ok().filter(|_| is_untouched);
                let records = removals
                    .map(|removals| self.publish(market, definition, removals, time))
                    .unwrap_or_default();
                NewResults {
                    records,
                    refused: self.report(market, ambiguity).into_iter().collect(),
                }
            }
        }
    }

    fn report(&mut self, market: &EventId, ambiguity: String) -> Option<Refused> {
        if self.ambiguity.as_ref() == Some(&ambiguity) {
            return None;
        }
        let detail = format!("market {market}: {ambiguity}; an operator has to settle it");
        self.ambiguity = Some(ambiguity);
        Some(Refused {
            reason: AMBIGUOUS,
            detail,
        })
    }

    /// The records from the published results to these.
    fn publish(
        &mut self,
        market: &EventId,
        definition: &Definition,
        results: Results,
        time: Timestamp,
    ) -> Vec<ResultRecord> {
        let taken_back: Vec<_> = self
            .published
            .keys()
            .filter(|selection| !results.contains_key(selection))
            .cloned()
            .collect();
        let is_changed = results
            .iter()
            .any(|(selection, outcome)| self.published.get(selection) != Some(outcome));
        let Some(source) = source().filter(|_| is_changed || !taken_back.is_empty()) else {
            return Vec::new();
        };
        let revision = self.next_revision(definition, time);
        let mut contents = Vec::new();
        if !taken_back.is_empty() {
            contents.push(RecordContent::RollbackSettlement {
                selections: Some(taken_back),
                bets_from: None,
            });
        }
        if is_changed {
            contents.push(RecordContent::Settlement(Settlement {
                selections: selection_results(&results),
                certainty: Certainty::Confirmed,
                bets_from: None,
                bets_until: self.bets_until(definition),
            }));
        }
        self.published = results;
        self.last = Some(revision);
        let record = |content| ResultRecord {
            event_id: market.clone(),
            market: definition.key.clone(),
            revision,
            source: source.clone(),
            content,
            note: None,
        };
        contents.into_iter().map(record).collect()
    }

    /// The time of the removal or of the settlement. Another result of a closed market, and whatever
    /// would come before what was published, has the time of its message.
    fn next_revision(&self, definition: &Definition, time: Timestamp) -> Revision {
        let version = definition.version.unwrap_or_default();
        let terms = &definition.results;
        let own = match terms.is_closed {
            true => terms.settled_time.filter(|_| !self.is_settled),
            false => definition
                .runners
                .iter()
                .filter_map(|one| one.result.removed_at())
                .max(),
        };
        let revision = |updated_at| Revision {
            updated_at,
            version,
        };
        let own = revision(own.unwrap_or(time));
        let Some(last) = self.last.filter(|last| *last >= own) else {
            return own;
        };
        let sent = revision(time);
        if sent > last {
            return sent;
        }
        Revision {
            version: last.version.saturating_add(1),
            ..last
        }
    }

    /// Betfair suspends a market before it closes it, so one that was never seen before was stopped.
    fn bets_until(&self, definition: &Definition) -> Option<Timestamp> {
        let terms = &definition.results;
        let is_stopped = definition.in_play || self.was_stopped.unwrap_or(true);
        terms.settled_time.filter(|_| terms.is_closed && is_stopped)
    }
}

impl RunnerResult {
    fn removed_at(&self) -> Option<Timestamp> {
        match self {
            RunnerResult::Removed(RunnerRemoval::Reducing(removal)) => Some(removal.removed_at),
            RunnerResult::Removed(RunnerRemoval::Plain { removed_at }) => *removed_at,
            _ => None,
        }
    }
}

fn selection_results(results: &Results) -> Vec<SelectionResult> {
    let results = results.iter();
    results
        .map(|(id, outcome)| SelectionResult {
            id: id.clone(),
            outcome: *outcome,
        })
        .collect()
}

/// The results that the definition states, or why an operator has to state them.
fn results_of(definition: &Definition) -> Result<Results, String> {
    let terms = &definition.results;
    if !terms.is_supported {
        return if terms.is_closed {
            Err("its bettingType is not ODDS, or it is each way".to_owned())
        } else {
            Ok(Results::new())
        };
    }
    let mut results = removals_of(definition)?;
    if !terms.is_closed {
        return Ok(results);
    }
    let of = |wanted| {
        let found = definition
            .runners
            .iter()
            .filter(move |one| one.result == wanted);
        found.map(|one| one.id.clone()).collect::<BTreeSet<_>>()
    };
    let unclear = of(RunnerResult::Placed)
        .into_iter()
        .chain(of(RunnerResult::Active))
        .next();
    if let Some(runner) = unclear {
        return Err(format!("runner {runner} has neither won nor lost"));
    }
    let [winners, losers, hidden] = [
        RunnerResult::Winner,
        RunnerResult::Loser,
        RunnerResult::Hidden,
    ]
    .map(of);
    results.extend(
        hidden
            .into_iter()
            .map(|id| (id, Outcome::Void { removal: None })),
    );
    if winners.is_empty() && losers.is_empty() {
        return Ok(results);
    }
    let won = won(terms.number_of_winners, winners.len())?;
    results.extend(winners.into_iter().map(|id| (id, Outcome::Won(won))));
    let lost = Outcome::Lost {
        void: VoidFactor::NONE,
    };
    results.extend(losers.into_iter().map(|id| (id, lost)));
    Ok(results)
}

/// How each of these winners has won.
fn won(number_of_winners: Option<usize>, winners: usize) -> Result<Won, String> {
    match (number_of_winners, winners) {
        (_, 0) => Err("it has losers and no winner".to_owned()),
        (None | Some(0), _) => Err("its numberOfWinners is not known".to_owned()),
        (Some(places), winners) if winners <= places => Ok(Won::WHOLE),
        (Some(1), winners) => u16::try_from(winners)
            .ok()
            .and_then(|tied| DeadHeat::new(1, tied))
            .map(Won::DeadHeat)
            .ok_or_else(|| format!("{winners} runners share the first place")),
        // Only those that share the last place are reduced, and Betfair does not name them.
        (Some(places), winners) => Err(format!("{winners} runners share {places} places")),
    }
}

/// The removed runners. One that is hidden may come back.
fn removals_of(definition: &Definition) -> Result<Results, String> {
    let mut removals = Results::new();
    for runner in &definition.runners {
        let RunnerResult::Removed(removal) = runner.result else {
            continue;
        };
        let removal = match removal {
            RunnerRemoval::Plain { .. } => None,
            RunnerRemoval::Reducing(removal) => Some(removal),
            RunnerRemoval::Unreadable => {
                let id = &runner.id;
                return Err(format!(
                    "adjustmentFactor or removalDate of runner {id} is not readable"
                ));
            }
        };
        removals.insert(runner.id.clone(), Outcome::Void { removal });
    }
    Ok(removals)
}
