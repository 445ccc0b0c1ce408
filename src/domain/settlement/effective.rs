//! The state of a leg: a function of the set of records of its market.

use std::collections::{BTreeMap, BTreeSet};

use strum::IntoStaticStr;

use super::market_results::{MarketResults, RecordKey};
use super::record::{
    Certainty, Outcome, RecordContent, RecordKind, Reduction, Removal, VoidFactor, Won,
};
use super::reductions::{ReductionRule, Reductions};
use super::trust::{TrustedSources, is_operator};
use crate::domain::ids::{MarketName, SelectionId, Source};
use crate::domain::odds::update::Revision;
use crate::domain::timestamp::Timestamp;

/// Which results are paid, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettlementRules {
    /// Whose results are paid.
    pub sources: TrustedSources,
    /// The least certainty of results that are paid.
    pub settle_on: Certainty,
    /// How bets are reduced when selections are removed.
    pub reductions: Reductions,
}

/// A leg of a bet.
#[derive(Clone, Copy, Debug)]
pub struct Leg<'a> {
    /// The market.
    pub market: &'a MarketName,
    /// The selection.
    pub selection: &'a SelectionId,
    /// When the bet was placed.
    pub placed_at: Timestamp,
}

/// The state of a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegState {
    /// The result is not known.
    Open,
    /// Void, because a cancellation covers the time of the bet.
    Cancelled,
    /// Void, because the result could be known when the bet was placed.
    LateBet,
    /// The result is known.
    Decided(Decision),
    /// An operator has to decide. No money is moved.
    Held(HeldReason),
}

/// The result of a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It has won, at the price after these reductions.
    Won {
        /// How it has won.
        won: Won,
        /// The reductions of selections that were removed after the bet, and how they are applied.
        reduced: Option<(ReductionRule, Vec<Reduction>)>,
    },
    /// It has lost.
    Lost {
        /// The part of the stake that is returned.
        void: VoidFactor,
    },
    /// The stake is returned.
    Void,
}

/// Why no money is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum HeldReason {
    /// The record that counts was sent with different contents.
    Conflict(Revision),
    /// Trusted sources disagree.
    Disagreement,
    /// The payout exceeds 64 bits, so it exceeds what any bet may win.
    PayoutTooHigh,
}

impl MarketResults {
    /// The state of a leg of a bet on this market.
    pub fn state_of(&self, leg: &Leg<'_>, rules: &SettlementRules) -> LegState {
        match self.is_cancelled(leg.placed_at, rules) {
            Err(reason) => return LegState::Held(reason),
            Ok(true) => return LegState::Cancelled,
            Ok(false) => {}
        }
        let round = self.round_of(leg.placed_at, rules);
        let result = match self.result_of(leg.selection, round, rules) {
            Err(reason) => return LegState::Held(reason),
            Ok(results) => agreed(&results, |result| result.at(leg.placed_at)),
        };
        match result {
            Err(reason) => LegState::Held(reason),
            Ok(None) => LegState::Open,
            Ok(Some(Timed::Late)) => LegState::LateBet,
            Ok(Some(Timed::InTime(outcome))) => self.decide(outcome, leg, round, rules),
        }
    }

    /// The start of the round of bets that a bet placed at this time belongs to: the latest
    /// `bets_from` of counting results that is not after it. Only results with the same `bets_from`
    /// concern the bet; `None`: only those without one.
    pub fn round_of(&self, placed_at: Timestamp, rules: &SettlementRules) -> Option<Timestamp> {
        let rounds = self.rounds(rules).into_iter().flatten();
        rounds.filter(|from| *from <= placed_at).max()
    }

    /// Those of these selections that no counting settlement of some round names although the market
    /// has a winner or a loser in it. Bets on them stay open.
    pub fn missing_selections<'a>(
        &self,
        selections: impl IntoIterator<Item = &'a SelectionId>,
        rules: &SettlementRules,
    ) -> Vec<&'a SelectionId> {
        let rounds = self.rounds(rules).into_iter();
        let settled_rounds: Vec<_> = rounds
            .filter_map(|round| self.named_if_settled(round, rules))
            .collect();
        let is_missing = |id: &&SelectionId| settled_rounds.iter().any(|named| !named.contains(id));
        selections.into_iter().filter(is_missing).collect()
    }

    /// The selections that counting settlements of a round name, if one of them has won or lost.
    fn named_if_settled(
        &self,
        round: Round,
        rules: &SettlementRules,
    ) -> Option<BTreeSet<&SelectionId>> {
        let named = self.named_in_settlements(round, rules, |_| true);
        let is_decided = |selection: &&SelectionId| {
            let results = self.result_of(selection, round, rules).unwrap_or_default();
            results.iter().any(CountingResult::is_decided)
        };
        named.iter().any(is_decided).then_some(named)
    }

    /// The rounds that counting results name.
    fn rounds(&self, rules: &SettlementRules) -> BTreeSet<Round> {
        let counting = self.counting(rules, |content| counts(content, rules));
        let contents = counting.flat_map(|(_, contents)| contents);
        let results = contents.filter(|content| counts(content, rules));
        results.map(RecordContent::bets_from).collect()
    }

    /// Whether the latest cancellation or rollback of one that covers the time is a cancellation.
    fn is_cancelled(
        &self,
        placed_at: Timestamp,
        rules: &SettlementRules,
    ) -> Result<bool, HeldReason> {
        let covers = |content: &RecordContent| match content {
            RecordContent::Cancel { window, .. } | RecordContent::RollbackCancel { window } => {
                window.contains(placed_at)
            }
            _ => false,
        };
        let mut covering = self.counting(rules, covers).peekable();
        let Some(latest) = covering.peek().map(|(key, _)| key.revision) else {
            return Ok(false);
        };
        let mut kinds = BTreeSet::new();
        for (key, contents) in covering.take_while(|(key, _)| key.revision == latest) {
            if contents.len() > 1 {
                return Err(HeldReason::Conflict(latest));
            }
            kinds.insert(key.kind);
        }
        match kinds.len() {
            1 => Ok(kinds.contains(&RecordKind::Cancel)),
            _ => Err(HeldReason::Disagreement),
        }
    }

    /// The results of a selection in a round by each trusted source that has one now. An operator's
    /// record ends what sources said until then.
    fn result_of(
        &self,
        selection: &SelectionId,
        round: Round,
        rules: &SettlementRules,
    ) -> Result<Vec<CountingResult>, HeldReason> {
        let concerns = |content: &RecordContent| {
            names(content, selection) && content.bets_from() == round && counts(content, rules)
        };
        let mut latest: BTreeMap<Author<'_>, Vec<_>> = BTreeMap::new();
        for (key, contents) in self.counting(rules, concerns) {
            let records = latest.entry(Author::of(&key.source)).or_default();
            if records
                .first()
                .is_none_or(|(first, _): &(&RecordKey, _)| first.revision == key.revision)
            {
                records.push((key, contents));
            }
        }
        let operator = latest
            .get(&Author::Operator)
            .and_then(|records| records.first());
        let overridden_until = operator.map(|(key, _)| key.revision.updated_at);
        let mut results = Vec::new();
        for (author, records) in latest {
            let Some((first, _)) = records.first() else {
                continue;
            };
            let is_overridden =
                author != Author::Operator && overridden_until >= Some(first.revision.updated_at);
            if is_overridden {
                continue;
            }
            let contents: BTreeSet<_> =
                records.iter().flat_map(|(_, contents)| *contents).collect();
            let mut contents = contents.into_iter();
            match (contents.next(), contents.next()) {
                (Some(content), None) => results.extend(CountingResult::of(content, selection)),
                _ => return Err(HeldReason::Conflict(first.revision)),
            }
        }
        Ok(results)
    }

    fn decide(
        &self,
        outcome: Outcome,
        leg: &Leg<'_>,
        round: Round,
        rules: &SettlementRules,
    ) -> LegState {
        let won = match outcome {
            Outcome::Undecided => return LegState::Open,
            Outcome::Void { .. } => return LegState::Decided(Decision::Void),
            Outcome::Lost { void } => return LegState::Decided(Decision::Lost { void }),
            Outcome::Won(won) => won,
        };
        let Some(rule) = rules.reductions.rule_for(leg.market) else {
            return LegState::Decided(Decision::Won { won, reduced: None });
        };
        match self.reductions_after(leg, round, rules) {
            Err(reason) => LegState::Held(reason),
            Ok(reductions) => LegState::Decided(Decision::Won {
                won,
                reduced: Some((rule, reductions)),
            }),
        }
    }

    /// The reductions of the other selections of the round that were removed after the bet was placed.
    fn reductions_after(
        &self,
        leg: &Leg<'_>,
        round: Round,
        rules: &SettlementRules,
    ) -> Result<Vec<Reduction>, HeldReason> {
        let mut reductions = Vec::new();
        let is_removed = |outcome: &Outcome| matches!(outcome, Outcome::Void { removal: Some(_) });
        for other in self.named_in_settlements(round, rules, is_removed) {
            if other == leg.selection {
                continue;
            }
            let results = self.result_of(other, round, rules)?;
            let removal = agreed(&results, |result| result.removal())?.flatten();
            let later = removal.filter(|removal| removal.removed_at > leg.placed_at);
            reductions.extend(later.map(|removal| removal.reduction));
        }
        Ok(reductions)
    }

    /// The selections that counting settlements of a round name with such a result.
    fn named_in_settlements(
        &self,
        round: Round,
        rules: &SettlementRules,
        filter: impl Fn(&Outcome) -> bool,
    ) -> BTreeSet<&SelectionId> {
        let counts =
            |content: &RecordContent| content.bets_from() == round && counts(content, rules);
        let counting = self.counting(rules, counts);
        let contents = counting.flat_map(|(_, contents)| contents);
        let settlements = contents.filter_map(|content| match content {
            RecordContent::Settlement(settlement) => Some(&settlement.selections),
            _ => None,
        });
        let results = settlements.flatten();
        results
            .filter(|result| filter(&result.outcome))
            .map(|result| &result.id)
            .collect()
    }

    /// The records of trusted sources with a content that passes the filter, the latest first.
    fn counting(
        &self,
        rules: &SettlementRules,
        filter: impl Fn(&RecordContent) -> bool,
    ) -> impl Iterator<Item = (&RecordKey, &BTreeSet<RecordContent>)> {
        self.latest_first().filter(move |(key, contents)| {
            rules.sources.trusts(&key.source) && contents.iter().any(&filter)
        })
    }
}

/// The `bets_from` of the results that concern a bet.
type Round = Option<Timestamp>;

/// Operators speak with one voice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Author<'a> {
    Operator,
    Source(&'a Source),
}

impl Author<'_> {
    fn of(source: &Source) -> Author<'_> {
        if is_operator(source) {
            Author::Operator
        } else {
            Author::Source(source)
        }
    }
}

/// The result of a selection by one author.
#[derive(Clone, Copy, Debug)]
struct CountingResult {
    outcome: Outcome,
    bets_until: Option<Timestamp>,
}

/// A result, for a bet placed at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timed {
    InTime(Outcome),
    Late,
}

impl CountingResult {
    /// `None` if the content takes the result back, or leaves it open.
    fn of(content: &RecordContent, selection: &SelectionId) -> Option<CountingResult> {
        let RecordContent::Settlement(settlement) = content else {
            return None;
        };
        let result = settlement
            .selections
            .iter()
            .find(|one| one.id == *selection)?;
        (result.outcome != Outcome::Undecided).then_some(CountingResult {
            outcome: result.outcome,
            bets_until: settlement.bets_until,
        })
    }

    fn at(&self, placed_at: Timestamp) -> Timed {
        match self.outcome {
            _ if self.bets_until.is_some_and(|until| until <= placed_at) => Timed::Late,
            // Sources that differ in the reduction only agree about a bet on the selection itself.
            Outcome::Void { .. } => Timed::InTime(Outcome::Void { removal: None }),
            outcome => Timed::InTime(outcome),
        }
    }

    fn removal(&self) -> Option<Removal> {
        match self.outcome {
            Outcome::Void { removal } => removal,
            _ => None,
        }
    }

    fn is_decided(&self) -> bool {
        matches!(self.outcome, Outcome::Won(_) | Outcome::Lost { .. })
    }
}

/// Whether a record of results concerns the selection.
fn names(content: &RecordContent, selection: &SelectionId) -> bool {
    match content {
        RecordContent::Settlement(settlement) => {
            settlement.selections.iter().any(|one| one.id == *selection)
        }
        RecordContent::RollbackSettlement { selections, .. } => selections
            .as_ref()
            .is_none_or(|selections| selections.contains(selection)),
        RecordContent::Cancel { .. } | RecordContent::RollbackCancel { .. } => false,
    }
}

/// A settlement that is not certain enough is left out as if it had not come.
fn counts(content: &RecordContent, rules: &SettlementRules) -> bool {
    match content {
        RecordContent::Settlement(settlement) => settlement.certainty >= rules.settle_on,
        _ => true,
    }
}

/// What all results agree on; `None` if there are none.
fn agreed<T: PartialEq>(
    results: &[CountingResult],
    value: impl Fn(&CountingResult) -> T,
) -> Result<Option<T>, HeldReason> {
    let mut values = results.iter().map(value);
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.all(|other| other == first) {
        Ok(Some(first))
    } else {
        Err(HeldReason::Disagreement)
    }
}
