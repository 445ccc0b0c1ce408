//! The results of a market as clients see them: what each source says now, whether it is paid or not.

use std::collections::BTreeMap;

use super::market_results::{MarketResults, RecordKey};
use super::record::{Certainty, Outcome, RecordContent, RecordKind, SelectionResult, Window};
use crate::domain::ids::{SelectionId, Source};
use crate::domain::timestamp::Timestamp;

/// Maximum number of rounds of a source that are shown: the present one, and the one before.
const SHOWN_ROUNDS: usize = 2;

/// What a source says about the bets of a round now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceResult {
    /// The source.
    pub source: Source,
    /// The start of the round, if the market has rounds.
    pub bets_from: Option<Timestamp>,
    /// When it said so last.
    pub updated_at: Timestamp,
    /// The least certainty of the results.
    pub certainty: Certainty,
    /// The results, by selection. None if it has taken them back.
    pub selections: Vec<SelectionResult>,
    /// Whether a revision was sent with different contents, so that nothing is paid by it.
    pub is_contradictory: bool,
}

/// A cancellation, or its rollback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancellation {
    /// The source.
    pub source: Source,
    /// Whether it takes a cancellation back.
    pub is_rollback: bool,
    /// When the bets were placed that it concerns.
    pub window: Window,
    /// Why bets are cancelled.
    pub reason: Option<String>,
    /// When it was said.
    pub updated_at: Timestamp,
}

/// What is known of a source and a round while its records are read, the latest first.
struct Reading {
    result: SourceResult,
    /// The latest word on each selection; `None` if it was taken back.
    latest: BTreeMap<SelectionId, Option<Outcome>>,
    /// All results before this record were taken back.
    is_rolled_back: bool,
}

impl MarketResults {
    /// What each source says now: by source, the latest round first.
    pub fn by_source(&self) -> Vec<SourceResult> {
        let mut sources: BTreeMap<&Source, BTreeMap<Option<Timestamp>, Reading>> = BTreeMap::new();
        for (key, contents) in self.latest_first() {
            for content in contents {
                let is_result = matches!(
                    content.kind(),
                    RecordKind::Settlement | RecordKind::RollbackSettlement
                );
                if is_result {
                    let rounds = sources.entry(&key.source).or_default();
                    let reading = rounds
                        .entry(content.bets_from())
                        .or_insert_with(|| Reading::of(key, content));
                    reading.result.is_contradictory |= contents.len() > 1;
                    reading.read(content);
                }
            }
        }
        let shown = sources
            .into_values()
            .flat_map(|rounds| rounds.into_values().rev().take(SHOWN_ROUNDS));
        shown.map(Reading::finish).collect()
    }

    /// The cancellations and their rollbacks, the latest first.
    pub fn cancellations(&self) -> Vec<Cancellation> {
        let records = self
            .latest_first()
            .flat_map(|(key, contents)| contents.iter().map(move |content| (key, content)));
        let cancellations = records.filter_map(|(key, content)| {
            let (window, reason) = match content {
                RecordContent::Cancel { window, reason } => (window, Some(reason)),
                RecordContent::RollbackCancel { window } => (window, None),
                _ => return None,
            };
            Some(Cancellation {
                source: key.source.clone(),
                is_rollback: reason.is_none(),
                window: *window,
                reason: reason.map(|reason| reason.as_str().to_owned()),
                updated_at: key.revision.updated_at,
            })
        });
        cancellations.collect()
    }
}

impl Reading {
    fn of(key: &RecordKey, content: &RecordContent) -> Reading {
        Reading {
            result: SourceResult {
                source: key.source.clone(),
                bets_from: content.bets_from(),
                updated_at: key.revision.updated_at,
                certainty: Certainty::Confirmed,
                selections: Vec::new(),
                is_contradictory: false,
            },
            latest: BTreeMap::new(),
            is_rolled_back: false,
        }
    }

    fn read(&mut self, content: &RecordContent) {
        match content {
            RecordContent::Settlement(settlement) if !self.is_rolled_back => {
                for result in &settlement.selections {
                    if !self.latest.contains_key(&result.id) {
                        self.latest.insert(result.id.clone(), Some(result.outcome));
                        self.result.certainty = self.result.certainty.min(settlement.certainty);
                    }
                }
            }
            RecordContent::RollbackSettlement {
                selections: None, ..
            } => self.is_rolled_back = true,
            RecordContent::RollbackSettlement {
                selections: Some(selections),
                ..
            } => {
                for id in selections {
                    self.latest.entry(id.clone()).or_insert(None);
                }
            }
            _ => {}
        }
    }

    fn finish(mut self) -> SourceResult {
        let results = self.latest.into_iter();
        let results = results.filter_map(|(id, outcome)| {
            outcome
                .filter(|outcome| *outcome != Outcome::Undecided)
                .map(|outcome| SelectionResult { id, outcome })
        });
        self.result.selections = results.collect();
        self.result
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use serde_json::json;

    use super::*;
    use crate::domain::settlement::testing::{at, by, home, record, results, settlement};

    fn shown(results: &MarketResults) -> Vec<String> {
        let sources = results.by_source();
        let sources = sources.iter().map(|result| {
            let selections: Vec<_> = result
                .selections
                .iter()
                .map(|one| serde_json::to_string(one).unwrap())
                .collect();
            format!("{}: {}", result.source, selections.join(","))
        });
        sources.collect()
    }

    #[test]
    fn each_source_has_its_latest_word() {
        let both = json!([{"id": "home", "result": "won"}, {"id": "away", "result": "lost"}]);
        let records = [
            settlement(1, 1, both),
            home(2, 2, "void"),
            by("native-2", home(1, 1, "lost")),
        ];
        assert_eq!(
            shown(&results(&records)),
            [
                r#"native-1: {"id":"away","result":"lost"},{"id":"home","result":"void"}"#,
                r#"native-2: {"id":"home","result":"lost"}"#,
            ]
        );
    }

    #[test]
    fn withdrawn_results_are_not_shown() {
        let both = json!([{"id": "home", "result": "won"}, {"id": "away", "result": "lost"}]);
        let first = settlement(1, 1, both);
        let of_home = record("rollback_settlement", 2, 2, json!({"selections": ["home"]}));
        assert_eq!(
            shown(&results(&[first.clone(), of_home])),
            [r#"native-1: {"id":"away","result":"lost"}"#]
        );
        let of_all = record("rollback_settlement", 2, 2, json!({}));
        assert_eq!(
            shown(&results(&[first.clone(), of_all.clone()])),
            ["native-1: "]
        );
        let again = home(3, 3, "won");
        assert_eq!(
            shown(&results(&[first, of_all, again])),
            [r#"native-1: {"id":"home","result":"won"}"#]
        );
    }

    #[test]
    fn cancellations_and_contradictions_are_shown() {
        let cancel = record(
            "cancel",
            1,
            1,
            json!({"until": at(9), "reason": "postponed"}),
        );
        let back = record("rollback_cancel", 2, 2, json!({}));
        let records = [cancel, back, home(3, 3, "won"), home(3, 3, "lost")];
        let results = results(&records);
        let cancellations = results.cancellations();
        let read: Vec<_> = cancellations
            .iter()
            .map(|one| (one.is_rollback, one.reason.as_deref()))
            .collect();
        assert_eq!(read, [(true, None), (false, Some("postponed"))]);
        assert!(results.by_source()[0].is_contradictory);
    }

    #[test]
    fn latest_rounds_are_shown() {
        let of_round = |start: i64, result: &str| {
            let selections = json!([{"id": "home", "result": result}]);
            let fields = json!({"selections": selections, "bets_from": at(start)});
            record("settlement", start, start, fields)
        };
        let records = [
            of_round(10, "won"),
            of_round(20, "lost"),
            of_round(30, "undecided"),
        ];
        let results = results(&records);
        let rounds: Vec<_> = results
            .by_source()
            .iter()
            .map(|one| (one.bets_from, one.selections.len()))
            .collect();
        assert_eq!(rounds, [(Some(at(30)), 0), (Some(at(20)), 1)]);
    }
}
