//! The results that the supplier sends: settlements, rollbacks, cancellations, corrections, and
//! records that contradict each other, late and repeated.

use std::time::Duration;

use serde_json::{Value, json};
use sports_bet_platform::domain::timestamp::Timestamp;

use crate::support::SteadySupplier;

/// The selections of every market.
pub const SELECTIONS: [&str; 3] = ["home", "draw", "away"];

/// The number of records of which one may be repeated or contradicted.
const RECENT: usize = 12;

/// Makes records, and remembers those of each event.
pub struct ResultSource {
    events: usize,
    version: i64,
    sent: Vec<Value>,
}

fn percent(share: u32) -> bool {
    fastrand::u32(..100) < share
}

fn earlier(max: u64) -> Timestamp {
    Timestamp::now().earlier_by(Duration::from_millis(fastrand::u64(..max)))
}

fn other_than(selection: &Value) -> &'static str {
    let others: Vec<_> = SELECTIONS
        .iter()
        .filter(|other| *selection != **other)
        .collect();
    others[fastrand::usize(..others.len())]
}

impl ResultSource {
    /// Sends results of the first `events` events of a [`SteadySupplier`].
    pub fn of(events: usize) -> ResultSource {
        ResultSource {
            events,
            version: 0,
            sent: Vec::new(),
        }
    }

    /// A random record. One in ten was sent before, and one in ten contradicts one that was.
    pub fn next(&mut self) -> String {
        let recent = &self.sent[self.sent.len().saturating_sub(RECENT)..];
        let known = fastrand::choice(recent).cloned();
        match known {
            Some(known) if percent(10) => known.to_string(),
            Some(known) if percent(10) => self.contradict(known),
            _ => self.random(),
        }
    }

    /// Records that settle what contradicts itself in a market: the latest of their kinds.
    pub fn resolve(&mut self, event: &str) -> Vec<String> {
        let settlement =
            json!({"type": "settlement", "selections": won(fastrand::choice(SELECTIONS).unwrap())});
        [json!({"type": "rollback_cancel"}), settlement]
            .map(|record| self.complete(record, event, Timestamp::now()))
            .to_vec()
    }

    fn random(&mut self) -> String {
        let event = SteadySupplier::event(fastrand::usize(..self.events));
        let record = match fastrand::u32(..100) {
            0..60 => settlement(),
            60..75 => rollback(),
            75..90 => cancel(),
            _ => self.rollback_cancel(&event),
        };
        // Some overtake each other.
        let updated_at = if percent(20) {
            earlier(3_000)
        } else {
            Timestamp::now()
        };
        self.complete(record, &event, updated_at)
    }

    fn complete(&mut self, mut record: Value, event: &str, updated_at: Timestamp) -> String {
        self.version += 1;
        record["event_id"] = json!(event);
        record["market"] = json!("1x2");
        record["source"] = json!("test-supplier");
        record["updated_at"] = json!(updated_at.to_string());
        record["version"] = json!(self.version);
        let frame = record.to_string();
        self.sent.push(record);
        frame
    }

    /// The same revision with other contents.
    fn contradict(&self, mut record: Value) -> String {
        match record["type"].as_str().unwrap() {
            "settlement" => {
                let winner = other_than(&record["selections"][0]["id"]);
                record["selections"] = won(winner);
            }
            "rollback_settlement" => {
                let selection = other_than(&record["selections"][0]);
                record["selections"] = json!([selection]);
            }
            _ => record["until"] = json!(Timestamp::now().to_string()),
        }
        record.to_string()
    }

    /// Takes back a cancellation of the event, or the first half of one.
    fn rollback_cancel(&self, event: &str) -> Value {
        let cancels: Vec<_> = self
            .sent
            .iter()
            .filter(|record| record["type"] == "cancel" && record["event_id"] == event)
            .collect();
        let Some(cancel) = fastrand::choice(cancels) else {
            return cancel();
        };
        let mut record = json!({"type": "rollback_cancel"});
        let ends = ["from", "until"].map(|end| cancel[end].as_str());
        for (name, end) in ["from", "until"].into_iter().zip(ends) {
            if let Some(end) = end {
                record[name] = json!(end);
            }
        }
        if let ([Some(from), Some(until)], true) = (ends, percent(50)) {
            let micros = |text: &str| text.parse::<Timestamp>().unwrap().micros();
            let middle = Timestamp::from_micros(micros(from).midpoint(micros(until))).unwrap();
            record["until"] = json!(middle.to_string());
        }
        record
    }
}

/// One selection has won, and the others have lost.
fn won(winner: &str) -> Value {
    let mut selections = vec![json!({"id": winner, "result": "won"})];
    let losers = SELECTIONS.iter().filter(|id| **id != winner);
    selections.extend(losers.map(|id| json!({"id": id, "result": "lost"})));
    json!(selections)
}

fn settlement() -> Value {
    let winner = fastrand::choice(SELECTIONS).unwrap();
    let mut selections = won(winner);
    let all = selections.as_array_mut().unwrap();
    match fastrand::u32(..100) {
        0..55 => {}
        // Half of each stake is returned.
        55..65 => all
            .iter_mut()
            .for_each(|one| one["void_factor"] = json!(0.5)),
        65..72 => all
            .iter_mut()
            .for_each(|one| one["void_factor"] = json!(0.333)),
        72..82 => {
            all[1]["result"] = json!("won");
            all[0]["dead_heat"] = json!("1/2");
            all[1]["dead_heat"] = json!("1/2");
        }
        82..88 => all.iter_mut().for_each(|one| one["result"] = json!("void")),
        88..93 => all[2]["result"] = json!("undecided"),
        // It does not name the others.
        _ => all.truncate(1),
    }
    let mut record = json!({"type": "settlement", "selections": selections});
    if percent(10) {
        record["certainty"] = json!("scouted");
    }
    if percent(15) {
        record["bets_until"] = json!(earlier(5_000).to_string());
    }
    record
}

fn rollback() -> Value {
    let mut record = json!({"type": "rollback_settlement"});
    if percent(50) {
        record["selections"] = json!([fastrand::choice(SELECTIONS).unwrap()]);
    }
    record
}

/// Cancels bets that were placed within some seconds.
fn cancel() -> Value {
    let from = earlier(10_000);
    let until = from.later_by(Duration::from_millis(fastrand::u64(200..8_000)));
    let mut record = json!({"type": "cancel", "reason": "incorrect_odds"});
    match fastrand::u32(..100) {
        0..80 => {
            record["from"] = json!(from.to_string());
            record["until"] = json!(until.to_string());
        }
        80..90 => record["from"] = json!(from.to_string()),
        _ => record["until"] = json!(until.to_string()),
    }
    record
}
