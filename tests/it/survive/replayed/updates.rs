//! The published records: updates of many events, markets, lines and sources, including late and
//! equal ones; and garbage.

use std::collections::{BTreeMap, BTreeSet};

use sports_bet_platform::domain::odds::update::OddsUpdate;

use super::state::{HistoryKey, MarketRow};
use crate::support::KeyAndPayload;

/// Market and line.
const MARKETS: [(&str, Option<&str>); 5] = [
    ("1x2", None),
    ("total_goals", Some("1.5")),
    ("total_goals", Some("2.5")),
    ("handicap", Some("-1")),
    ("btts", None),
];
/// 2025-11-09T21:07:45Z.
const BEGIN: i64 = 1_762_722_465;

/// The updates of one run, in the order in which they are published.
pub struct Scenario {
    updates: Vec<OddsUpdate>,
    pub events: Vec<String>,
}

impl Scenario {
    /// Deterministic: the random seed is fixed.
    pub fn new(events: usize, updates: usize) -> Scenario {
        let mut random = fastrand::Rng::with_seed(5);
        let events: Vec<_> = (0..events)
            .map(|number| format!("EVENT_{number:03}"))
            .collect();
        let mut made: Vec<OddsUpdate> = Vec::new();
        while made.len() < updates {
            let step = made.len() as i64;
            let event = random.choice(&events).unwrap();
            // Every seventh event has no `1x2`, so the original shows another of its markets.
            let has_main = events.iter().position(|one| one == event).unwrap() % 7 != 0;
            let (market, line) = MARKETS[random.usize(usize::from(!has_main)..MARKETS.len())];
            let source = if random.u8(..10) < 7 { "alpha" } else { "beta" };
            let earlier = made
                .iter()
                .rev()
                .find(|one| one.event_id.as_str() == event.as_str());
            let update = match (random.u8(..100), earlier) {
                // A duplicate.
                (0..4, Some(earlier)) => earlier.clone(),
                // The same revision from another source, or with another price.
                (4..7, Some(earlier)) => OddsUpdate {
                    source: "gamma".parse().unwrap(),
                    ..repriced(earlier, step)
                },
                (7..9, Some(earlier)) => repriced(earlier, step),
                // Late: with an earlier time.
                (9..20, _) => update(
                    event,
                    market,
                    line,
                    source,
                    random.i64(0..=step.max(1)) * 100,
                    step,
                    step,
                ),
                // A restarted supplier that counts from 1 again.
                (20..23, _) => update(event, market, line, source, step * 100, 1 + step % 3, step),
                // Several updates within one second differ only in their version.
                _ => update(event, market, line, source, step / 10 * 1_000, step, step),
            };
            made.push(update);
        }
        Scenario {
            updates: made,
            events,
        }
    }

    /// All updates, in order.
    pub fn records(&self) -> Vec<KeyAndPayload> {
        self.updates.iter().map(record).collect()
    }

    /// A different order that keeps the order within each event.
    pub fn shuffled(&self, seed: u64) -> Vec<KeyAndPayload> {
        self.in_another_order(seed)
            .iter()
            .map(|index| record(&self.updates[*index]))
            .collect()
    }

    /// A different order, with this many updates repeated anywhere after their first occurrence.
    pub fn duplicated(&self, seed: u64, count: usize) -> Vec<KeyAndPayload> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut all = self.shuffled(seed);
        for _ in 0..count {
            let original = random.usize(..all.len());
            let place = random.usize(original + 1..=all.len());
            all.insert(place, all[original].clone());
        }
        all
    }

    fn in_another_order(&self, seed: u64) -> Vec<usize> {
        let mut queues: BTreeMap<&str, std::collections::VecDeque<usize>> = BTreeMap::new();
        let mut turns = Vec::new();
        for (index, update) in self.updates.iter().enumerate() {
            queues
                .entry(update.event_id.as_str())
                .or_default()
                .push_back(index);
            turns.push(update.event_id.as_str());
        }
        fastrand::Rng::with_seed(seed).shuffle(&mut turns);
        turns
            .iter()
            .map(|event| queues.get_mut(event).unwrap().pop_front().unwrap())
            .collect()
    }

    /// One change per event, later than all others: after receiving it, a listener has received
    /// everything before it.
    pub fn marks(&self, round: i64) -> Vec<KeyAndPayload> {
        let mark = |event: &String| {
            update(
                event,
                "mark",
                None,
                "alpha",
                10_000_000 + round * 1_000,
                round,
                round,
            )
        };
        self.events
            .iter()
            .map(|event| record(&mark(event)))
            .collect()
    }

    /// The expected final state of each market: the first update of its latest revision.
    pub fn state(&self) -> BTreeSet<MarketRow> {
        let mut latest: BTreeMap<_, &OddsUpdate> = BTreeMap::new();
        for update in &self.updates {
            let held = latest
                .entry((&update.event_id, &update.market))
                .or_insert(update);
            if held.revision < update.revision {
                *held = update;
            }
        }
        latest.into_values().map(MarketRow::of).collect()
    }

    /// The expected history.
    pub fn history(&self) -> BTreeSet<HistoryKey> {
        let mut seen = BTreeSet::new();
        let first = self
            .updates
            .iter()
            .filter(|update| seen.insert(HistoryKey::unique(update)));
        first.map(HistoryKey::of).collect()
    }
}

fn record(update: &OddsUpdate) -> KeyAndPayload {
    (
        update.event_id.as_str().into(),
        update.to_json().into_bytes(),
    )
}

fn update(
    event: &str,
    market: &str,
    line: Option<&str>,
    source: &str,
    millis: i64,
    version: i64,
    price: i64,
) -> OddsUpdate {
    let micros = (BEGIN * 1_000 + millis) * 1_000;
    let at = sports_bet_platform::domain::timestamp::Timestamp::from_micros(micros).unwrap();
    let line = line.map_or(String::new(), |line| format!(r#""line":{line},"#));
    let price = 1_100 + price % 90_000;
    let ids = if market == "1x2" {
        ["home", "draw", "away"]
    } else {
        ["yes", "no", "void"]
    };
    let selections: Vec<_> = ids
        .iter()
        .enumerate()
        .map(|(place, id)| {
            let price = price + place as i64;
            format!(
                r#"{{"id":"{id}","name":"{id}","price":{}.{:03},"status":"active"}}"#,
                price / 1_000,
                price % 1_000
            )
        })
        .collect();
    let json = format!(
        r#"{{"event_id":"{event}","home_team":"Grêmio","away_team":"São Paulo","market":"{market}",{line}"selections":[{}],"status":"open","updated_at":"{at}","source":"{source}","version":{version}}}"#,
        selections.join(",")
    );
    OddsUpdate::from_json(json.as_bytes()).unwrap_or_else(|error| panic!("{error}: {json}"))
}

fn repriced(earlier: &OddsUpdate, step: i64) -> OddsUpdate {
    let market = earlier.market.name.as_str();
    let line = earlier.market.line.map(|line| line.to_string());
    let millis = earlier.revision.updated_at.micros() / 1_000 - BEGIN * 1_000;
    let version = earlier.revision.version;
    update(
        earlier.event_id.as_str(),
        market,
        line.as_deref(),
        &earlier.source.to_string(),
        millis,
        version,
        step,
    )
}

/// Unreadable records.
pub struct Garbage {
    /// Each record with its expected rejection reason.
    pub records: Vec<(KeyAndPayload, &'static str)>,
}

impl Garbage {
    /// This many distinct records, of every kind.
    pub fn among(count: usize) -> Garbage {
        let made = (0..count).map(|number| match number {
            // Written by the original's health check, verbatim.
            0 => (
                ("healthcheck".into(), r#"{"ping":"ok"}"#.into()),
                "malformed",
            ),
            1 => ((Vec::new(), Vec::new()), "malformed"),
            2 => (
                ("EVENT_002".into(), vec![0, 255, 254, 0, 13, 10]),
                "malformed",
            ),
            _ => {
                let event = format!("EVENT_{:03}", number % 10);
                let kind = number % 5;
                let good =
                    update(&event, "1x2", None, "alpha", 99_000_000, number as i64, 1).to_json();
                let (payload, reason) = match kind {
                    0 => (good[..good.len() / 2].to_owned(), "malformed"),
                    1 => (good.replace("1.101", "0.5"), "bad_price"),
                    2 => (good.replace("1.101", r#""dear""#), "bad_price"),
                    3 => (
                        good.replace(r#""id":"home""#, r#""id":"draw""#),
                        "duplicate_selection",
                    ),
                    _ => (good.replace("Gr\u{ea}mio", r"Gr\u0000mio"), "bad_name"),
                };
                ((event.into_bytes(), payload.into_bytes()), reason)
            }
        });
        Garbage {
            records: made.collect(),
        }
    }

    /// Inserts the garbage at random positions.
    pub fn scattered_into(&self, mut records: Vec<KeyAndPayload>) -> Vec<KeyAndPayload> {
        let mut random = fastrand::Rng::with_seed(7);
        for (record, _) in &self.records {
            records.insert(random.usize(..=records.len()), record.clone());
        }
        records
    }
}
