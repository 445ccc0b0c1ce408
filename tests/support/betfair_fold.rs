//! The expected states of a recorded Betfair stream, computed without any of the platform's code:
//! whole JSON values, prices as doubles, everything recomputed at each message. Slow and simple on
//! purpose.
//!
//! Included with `#[path]` by unit tests and by the integration tests.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

/// A market in the form a client receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The market's key.
    pub market: String,
    /// The two sides, or the title and an empty string.
    pub teams: (String, String),
    /// The platform's name of its status.
    pub status: String,
    /// Whether the event is under way.
    pub in_play: bool,
    /// Id, name, price in thousandths, status.
    pub selections: Vec<(String, String, Option<u64>, String)>,
}

/// The distinct states of each market in a recording, in order.
pub(crate) type History = BTreeMap<String, Vec<Seen>>;

#[derive(Default)]
struct FoldedMarket {
    definition: Value,
    back: HashMap<i64, HashMap<u64, f64>>,
    best: HashMap<i64, HashMap<u64, (u64, f64)>>,
    last: HashMap<i64, u64>,
}

/// Folds a recording with one message per line.
pub(crate) fn fold(recording: &str) -> History {
    let mut markets: HashMap<String, FoldedMarket> = HashMap::new();
    let mut history = History::new();
    for line in recording.lines() {
        let message: Value = serde_json::from_str(line).unwrap();
        for change in message["mc"].as_array().into_iter().flatten() {
            let id = change["id"].as_str().unwrap();
            let market = markets.entry(id.to_owned()).or_default();
            market.change(change);
            record(&mut history, id, market.seen(id));
        }
    }
    history
}

/// Folds several recordings with disjoint markets.
pub(crate) fn fold_all(recordings: &[&str]) -> History {
    recordings
        .iter()
        .flat_map(|recording| fold(recording))
        .collect()
}

/// The distinct states in a series of updates, from their JSON form.
pub(crate) fn history_of<'a>(updates: impl IntoIterator<Item = &'a str>) -> History {
    let mut history = History::new();
    for json in updates {
        let update: Value = serde_json::from_str(json).unwrap();
        record(
            &mut history,
            update["event_id"].as_str().unwrap(),
            seen_in(&update),
        );
    }
    history
}

/// The state in an update.
pub(crate) fn seen_in(update: &Value) -> Seen {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let selections = update["selections"].as_array().unwrap();
    let selection = |s: &Value| {
        (
            text(&s["id"]),
            text(&s["name"]),
            s["price"].as_f64().map(thousandths),
            text(&s["status"]),
        )
    };
    Seen {
        market: text(&update["market"]),
        teams: (text(&update["home_team"]), text(&update["away_team"])),
        status: text(&update["status"]),
        in_play: update["in_play"].as_bool().unwrap_or(false),
        selections: selections.iter().map(selection).collect(),
    }
}

fn record(history: &mut History, id: &str, seen: Seen) {
    let states = history.entry(id.to_owned()).or_default();
    if states.last() != Some(&seen) {
        states.push(seen);
    }
}

fn thousandths(price: f64) -> u64 {
    (price * 1_000.0).round() as u64
}

impl FoldedMarket {
    fn change(&mut self, change: &Value) {
        if change["img"] == Value::Bool(true) {
            *self = FoldedMarket {
                definition: self.definition.take(),
                ..FoldedMarket::default()
            };
        }
        if change["marketDefinition"].is_object() {
            self.definition = change["marketDefinition"].clone();
        }
        for runner in change["rc"].as_array().into_iter().flatten() {
            let id = runner["id"].as_i64().unwrap();
            for level in runner["atb"].as_array().into_iter().flatten() {
                let price = thousandths(level[0].as_f64().unwrap());
                self.back
                    .entry(id)
                    .or_default()
                    .insert(price, level[1].as_f64().unwrap());
            }
            for level in runner["batb"].as_array().into_iter().flatten() {
                let offer = (
                    thousandths(level[1].as_f64().unwrap()),
                    level[2].as_f64().unwrap(),
                );
                self.best
                    .entry(id)
                    .or_default()
                    .insert(level[0].as_u64().unwrap(), offer);
            }
            if let Some(price) = runner["ltp"].as_f64() {
                self.last.insert(id, thousandths(price));
            }
        }
    }

    fn price(&self, id: i64) -> Option<u64> {
        let back = self
            .back
            .get(&id)
            .into_iter()
            .flatten()
            .filter(|(_, size)| **size > 0.0)
            .map(|(price, _)| *price);
        let best = self
            .best
            .get(&id)
            .and_then(|levels| levels.get(&0))
            .filter(|(_, size)| *size > 0.0);
        back.max()
            .or(best.map(|(price, _)| *price))
            .or(self.last.get(&id).copied())
    }

    fn seen(&self, id: &str) -> Seen {
        let definition = &self.definition;
        let mut runners: Vec<&Value> = definition["runners"].as_array().unwrap().iter().collect();
        runners.sort_by_key(|runner| runner["sortPriority"].as_i64());
        let selections: Vec<_> = runners
            .iter()
            .map(|runner| self.selection(runner))
            .collect();
        let title = ["eventName", "name", "venue"]
            .iter()
            .find_map(|name| definition[name].as_str())
            .unwrap_or(id);
        let teams = title
            .split_once(" v ")
            .or(title.split_once(" vs "))
            .unwrap_or((title, ""));
        let all = |status: &str| selections.iter().all(|selection| selection.3 == status);
        let status = match definition["status"].as_str().unwrap() {
            "OPEN" => "open",
            "CLOSED" if selections.iter().any(|selection| selection.3 == "winner") => "settled",
            "CLOSED" if all("removed") => "cancelled",
            "CLOSED" => "closed",
            _ => "suspended",
        };
        Seen {
            market: definition["marketType"]
                .as_str()
                .unwrap_or("market")
                .to_lowercase(),
            teams: (teams.0.to_owned(), teams.1.to_owned()),
            status: status.to_owned(),
            in_play: definition["inPlay"] == Value::Bool(true),
            selections,
        }
    }

    fn selection(&self, runner: &Value) -> (String, String, Option<u64>, String) {
        let id = runner["id"].as_i64().unwrap();
        let status = match runner["status"].as_str().unwrap() {
            "ACTIVE" => "active",
            "WINNER" | "PLACED" => "winner",
            "LOSER" => "loser",
            _ => "removed",
        };
        let price = self.price(id).filter(|_| status != "removed");
        let name = runner["name"]
            .as_str()
            .map_or(id.to_string(), str::to_owned);
        (id.to_string(), name, price, status.to_owned())
    }
}
