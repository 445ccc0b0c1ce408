//! What each bet is owed by the stored records, computed without the platform's code: of single bets
//! on one source, the latest cancellation that covers the time of the bet, otherwise the latest result
//! of the selection.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use sports_bet_platform::domain::timestamp::Timestamp;

use crate::support::Database;

/// A bet as the database has it.
#[derive(Clone, Debug, Deserialize)]
pub struct StoredBet {
    pub id: String,
    pub event_id: String,
    pub selection: String,
    pub stake_cents: i64,
    pub price_thousandths: i64,
    pub placed_at: i64,
    pub status: String,
    pub outcome: Option<String>,
    pub payout_cents: Option<i64>,
    pub settlements: i64,
    pub held: Option<String>,
}

/// The state of a bet that was confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed {
    Open,
    Settled(String, i64),
    Held,
}

/// A stored record.
struct Record {
    revision: (i64, i64),
    kind: String,
    content: Value,
}

/// The stored records of each event.
pub struct Records(BTreeMap<String, Vec<Record>>);

fn micros(time: &Value) -> Option<i64> {
    let text = time.as_str()?;
    Some(text.parse::<Timestamp>().unwrap().micros())
}

/// Every bet that was confirmed.
pub fn confirmed_bets(database: &Database) -> Vec<StoredBet> {
    let rows = database.texts(
        "SELECT row_to_json(bet)::TEXT AS text FROM (
            SELECT id, event_id, selection, stake_cents, price_thousandths, status, outcome, payout_cents,
                settlements, held, (extract(epoch FROM placed_at) * 1000000)::BIGINT AS placed_at
            FROM bets WHERE status IN ('CONFIRMED', 'SETTLED')) AS bet",
    );
    let bets = rows.iter().map(|row| serde_json::from_str(row).unwrap());
    bets.collect()
}

impl Records {
    pub fn stored(database: &Database) -> Records {
        let mut records: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for row in database.texts("SELECT record AS text FROM market_results") {
            let content: Value = serde_json::from_str(&row).unwrap();
            let record = Record {
                revision: (
                    micros(&content["updated_at"]).unwrap(),
                    content["version"].as_i64().unwrap(),
                ),
                kind: content["type"].as_str().unwrap().to_owned(),
                content,
            };
            let event = record.content["event_id"].as_str().unwrap().to_owned();
            records.entry(event).or_default().push(record);
        }
        Records(records)
    }

    /// What a bet is owed.
    pub fn owed(&self, bet: &StoredBet) -> Owed {
        let of_event = self.0.get(&bet.event_id).map_or(&[][..], Vec::as_slice);
        let covers = |record: &Record| {
            record.kind.ends_with("cancel")
                && micros(&record.content["from"]).is_none_or(|from| from <= bet.placed_at)
                && micros(&record.content["until"]).is_none_or(|until| bet.placed_at < until)
        };
        match latest(of_event, covers)[..] {
            [] => {}
            [record] if record.kind == "cancel" => {
                return Owed::Settled("void".to_owned(), bet.stake_cents);
            }
            [_] => {}
            _ => return Owed::Held,
        }
        let names = |record: &Record| {
            let selections = record.content["selections"].as_array();
            match record.kind.as_str() {
                "settlement" => {
                    record.content["certainty"] != "scouted"
                        && selections
                            .unwrap()
                            .iter()
                            .any(|one| one["id"] == bet.selection)
                }
                "rollback_settlement" => selections
                    .is_none_or(|selections| selections.iter().any(|id| *id == bet.selection)),
                _ => false,
            }
        };
        match latest(of_event, names)[..] {
            [] => Owed::Open,
            [record] if record.kind == "settlement" => settled(bet, &record.content),
            [_] => Owed::Open,
            _ => Owed::Held,
        }
    }
}

/// The latest record that passes the filter, with all contents of its revision.
fn latest(records: &[Record], filter: impl Fn(&Record) -> bool) -> Vec<&Record> {
    let passing = records.iter().filter(|record| filter(record));
    let Some(revision) = passing.map(|record| record.revision).max() else {
        return Vec::new();
    };
    let of_revision: Vec<_> = records
        .iter()
        .filter(|record| record.revision == revision)
        .collect();
    let kinds: BTreeSet<_> = of_revision.iter().map(|record| &record.kind).collect();
    assert_eq!(kinds.len(), 1, "each record has a version of its own");
    of_revision
}

fn settled(bet: &StoredBet, settlement: &Value) -> Owed {
    let selections = settlement["selections"].as_array().unwrap();
    let result = selections.iter().find(|one| one["id"] == bet.selection);
    let result = result.unwrap();
    if result["result"] == "undecided" {
        return Owed::Open;
    }
    if micros(&settlement["bets_until"]).is_some_and(|until| until <= bet.placed_at) {
        return Owed::Settled("void".to_owned(), bet.stake_cents);
    }
    let stake = i128::from(bet.stake_cents);
    let price = i128::from(bet.price_thousandths);
    // The only values that the test sends.
    let void: i128 = match result["void_factor"].as_f64() {
        None => 0,
        Some(0.5) => 500,
        Some(0.333) => 333,
        other => panic!("{other:?}"),
    };
    let part = |whole: &str, half: &str| match void {
        0 => whole.to_owned(),
        500 => half.to_owned(),
        _ => "partial".to_owned(),
    };
    let is_shared = result["dead_heat"] == "1/2";
    let (outcome, payout) = match result["result"].as_str().unwrap() {
        "won" if is_shared => ("dead_heat".to_owned(), stake * price / 2_000),
        "won" => (
            part("won", "half_won"),
            stake * (void * 1_000 + (1_000 - void) * price) / 1_000_000,
        ),
        "lost" => (part("lost", "half_lost"), stake * void / 1_000),
        "void" => ("void".to_owned(), stake),
        other => panic!("{other}"),
    };
    Owed::Settled(outcome, i64::try_from(payout).unwrap())
}
