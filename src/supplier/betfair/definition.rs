//! Converts a Betfair market definition to our terms.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::wire::{DefinitionVersion, MarketDefinition, RunnerDefinition};
use crate::domain::ids::{EventId, MarketKey, MarketName, SelectionId};
use crate::domain::json;
use crate::domain::odds::price::Line;
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::odds::update::{MAX_SELECTIONS, read_sport};
use crate::domain::timestamp::Timestamp;
use crate::supplier::Refused;

/// The reason for rejecting a market whose prices are the line of a spread, not odds.
pub const UNSUPPORTED: &str = "unsupported_betting_type";

/// A runner within its market: its id, and its handicap if it has one.
pub type RunnerKey = (i64, Option<Line>);

/// A market definition.
#[derive(Debug)]
pub struct Definition {
    /// Named after the `marketType`.
    pub key: MarketKey,
    /// The home side, or the whole title.
    pub home_team: String,
    /// The away side, or empty.
    pub away_team: String,
    /// The sport: a name if Betfair's id is known, else the id.
    pub sport: Option<Arc<str>>,
    /// The start time of the market, else of the event.
    pub start_time: Option<Timestamp>,
    /// The market status.
    pub status: MarketStatus,
    /// Orders definitions: the one with the highest version is valid.
    pub version: Option<i64>,
    /// Whether the event is in play.
    pub in_play: bool,
    /// The runners, in order.
    pub runners: Vec<Runner>,
}

/// A runner definition.
#[derive(Debug)]
pub struct Runner {
    /// The runner's key on the stream.
    pub key: RunnerKey,
    /// The selection id for clients: the runner's id, and with a handicap `id@handicap`.
    pub id: SelectionId,
    /// The runner's name, else its id.
    pub name: String,
    /// The runner's status.
    pub status: SelectionStatus,
}

impl Definition {
    /// Reads a definition. An unreadable part makes the whole definition unreadable. The exceptions
    /// are the sport and the start time: no bet depends on them, so an unreadable value counts as
    /// missing.
    pub fn read(market: &EventId, text: &RawValue) -> Result<Definition, Refused> {
        let wire: MarketDefinition<'_> = json::from_str(text.get()).map_err(|error| Refused {
            reason: "bad_definition",
            detail: format!("definition: {error}"),
        })?;
        if let Some(kind) = wire
            .betting_type
            .as_deref()
            .filter(|kind| matches!(*kind, "LINE" | "RANGE"))
        {
            return Err(Refused {
                reason: UNSUPPORTED,
                detail: format!("the prices of bettingType {kind} are not odds"),
            });
        }
        let runners = read_runners(&wire.runners)?;
        let (home_team, away_team) = sides(title(&wire, market));
        Ok(Definition {
            key: MarketKey {
                name: market_name(wire.market_type.as_deref())?,
                line: None,
            },
            home_team: home_team.to_owned(),
            away_team: away_team.to_owned(),
            sport: wire.event_type_id.and_then(sport),
            start_time: [wire.market_time, wire.open_date]
                .into_iter()
                .find_map(|text| start_time(text?)),
            status: market_status(&wire.status, &runners)?,
            version: wire.version,
            in_play: wire.in_play.unwrap_or(false),
            runners,
        })
    }
}

/// The version of a definition, even if the rest is unreadable.
pub fn read_version(text: &RawValue) -> Option<i64> {
    serde_json::from_str::<DefinitionVersion>(text.get())
        .ok()?
        .version
}

/// Parses a handicap; 0 means none.
pub fn read_handicap(text: Option<&RawValue>) -> Result<Option<Line>, Refused> {
    let line: Option<Line> = text
        .map(|text| text.get().parse())
        .transpose()
        .map_err(|error| Refused {
            reason: "bad_handicap",
            detail: format!("handicap: {error}"),
        })?;
    Ok(line.filter(|line| line.thousandths() != 0))
}

fn market_name(kind: Option<&str>) -> Result<MarketName, Refused> {
    let kind = kind
        .map(str::trim)
        .filter(|kind| !kind.is_empty())
        .unwrap_or("market");
    MarketName::new(&kind.to_lowercase()).map_err(|error| Refused {
        reason: "bad_definition",
        detail: format!("marketType: {error}"),
    })
}

/// The sport of an `eventTypeId`. The stream sends a string; a number is accepted as well.
fn sport(id: &RawValue) -> Option<Arc<str>> {
    let id = serde_json::from_str::<String>(id.get())
        .or_else(|_| serde_json::from_str(id.get()).map(number_text))
        .ok()?;
    let name = match id.trim() {
        "1" => "soccer",
        "2" => "tennis",
        "4" => "cricket",
        "7" => "horse racing",
        "4339" => "greyhound racing",
        "7522" => "basketball",
        other => other,
    };
    read_sport(name).ok().flatten()
}

fn number_text(number: u64) -> String {
    number.to_string()
}

fn start_time(text: &RawValue) -> Option<Timestamp> {
    serde_json::from_str(text.get()).ok()
}

fn title<'a>(wire: &'a MarketDefinition<'_>, market: &'a EventId) -> &'a str {
    [&wire.event_name, &wire.name, &wire.venue]
        .into_iter()
        .filter_map(|title| title.as_deref().map(str::trim))
        .find(|title| !title.is_empty())
        .unwrap_or(market.as_str())
}

/// The two sides of `Home v Away`; a title without two sides is the first side.
fn sides(title: &str) -> (&str, &str) {
    let split = [" v ", " vs "]
        .into_iter()
        .find_map(|between| title.split_once(between));
    match split.map(|(home, away)| (home.trim(), away.trim())) {
        Some((home, away)) if !home.is_empty() && !away.is_empty() => (home, away),
        _ => (title, ""),
    }
}

fn market_status(status: &str, runners: &[Runner]) -> Result<MarketStatus, Refused> {
    let any_won = runners
        .iter()
        .any(|runner| runner.status == SelectionStatus::Winner);
    let all_removed = runners
        .iter()
        .all(|runner| runner.status == SelectionStatus::Removed);
    match status {
        "OPEN" => Ok(MarketStatus::Open),
        "SUSPENDED" | "INACTIVE" => Ok(MarketStatus::Suspended),
        "CLOSED" if any_won => Ok(MarketStatus::Settled),
        "CLOSED" if all_removed => Ok(MarketStatus::Cancelled),
        "CLOSED" => Ok(MarketStatus::Closed),
        _ => Err(unknown_status("market", status)),
    }
}

fn read_runners(wire: &[RunnerDefinition<'_>]) -> Result<Vec<Runner>, Refused> {
    if wire.is_empty() {
        return Err(Refused {
            reason: "no_selections",
            detail: "the definition has no runners".to_owned(),
        });
    }
    if wire.len() > MAX_SELECTIONS {
        let detail = format!(
            "{} runners, at most {MAX_SELECTIONS} are accepted",
            wire.len()
        );
        return Err(Refused {
            reason: "too_many_selections",
            detail,
        });
    }
    let mut ordered: Vec<_> = wire.iter().collect();
    ordered.sort_by_key(|runner| runner.sort_priority.unwrap_or(i64::MAX));
    let runners = ordered
        .into_iter()
        .map(read_runner)
        .collect::<Result<Vec<_>, _>>()?;
    let mut seen = HashSet::with_capacity(runners.len());
    match runners.iter().find(|runner| !seen.insert(runner.key)) {
        Some(twice) => Err(Refused {
            reason: "duplicate_selection",
            detail: format!("duplicate runner {}", twice.id),
        }),
        None => Ok(runners),
    }
}

fn read_runner(wire: &RunnerDefinition<'_>) -> Result<Runner, Refused> {
    let handicap = read_handicap(wire.hc)?;
    let suffix = |mark| {
        handicap
            .map(|line| format!("{mark}{line}"))
            .unwrap_or_default()
    };
    let id = SelectionId::new(&format!("{}{}", wire.id, suffix("@"))).map_err(|error| Refused {
        reason: "bad_definition",
        detail: format!("runner: {error}"),
    })?;
    let name = wire
        .name
        .as_deref()
        .map(str::trim)
        .filter(|name| !name.is_empty());
    Ok(Runner {
        key: (wire.id, handicap),
        name: name.map_or_else(|| id.to_string(), |name| format!("{name}{}", suffix(" "))),
        id,
        status: runner_status(&wire.status)?,
    })
}

fn runner_status(status: &str) -> Result<SelectionStatus, Refused> {
    match status {
        "ACTIVE" => Ok(SelectionStatus::Active),
        "REMOVED" | "REMOVED_VACANT" | "HIDDEN" => Ok(SelectionStatus::Removed),
        "WINNER" | "PLACED" => Ok(SelectionStatus::Winner),
        "LOSER" => Ok(SelectionStatus::Loser),
        _ => Err(unknown_status("runner", status)),
    }
}

fn unknown_status(of: &str, status: &str) -> Refused {
    let status: String = status.chars().take(40).collect();
    Refused {
        reason: "unknown_status",
        detail: format!("`{status}` is not a {of} status"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Definition, Refused> {
        Definition::read(
            &EventId::new("1.5").unwrap(),
            &RawValue::from_string(json.to_owned()).unwrap(),
        )
    }

    fn status(market: &str, runners: &[&str]) -> &'static str {
        let runner = |(id, status)| format!(r#"{{"id":{id},"status":"{status}"}}"#);
        let runners: Vec<_> = runners.iter().enumerate().map(runner).collect();
        let json = format!(
            r#"{{"status":"{market}","runners":[{}]}}"#,
            runners.join(",")
        );
        read(&json).map_or_else(
            |fault| fault.reason,
            |definition| definition.status.as_str(),
        )
    }

    #[test]
    fn market_statuses_are_mapped() {
        assert_eq!(status("OPEN", &["ACTIVE"]), "open");
        assert_eq!(status("SUSPENDED", &["ACTIVE"]), "suspended");
        assert_eq!(status("INACTIVE", &["ACTIVE"]), "suspended");
        assert_eq!(status("CLOSED", &["REMOVED", "WINNER", "LOSER"]), "settled");
        assert_eq!(status("CLOSED", &["PLACED", "LOSER"]), "settled");
        assert_eq!(
            status("CLOSED", &["REMOVED", "REMOVED_VACANT", "HIDDEN"]),
            "cancelled"
        );
        assert_eq!(status("CLOSED", &["LOSER", "LOSER"]), "closed");
        assert_eq!(status("CLOSED", &["REMOVED", "ACTIVE"]), "closed");
        assert_eq!(status("ASLEEP", &["ACTIVE"]), "unknown_status");
        assert_eq!(status("OPEN", &["ASLEEP"]), "unknown_status");
        assert_eq!(status("OPEN", &[]), "no_selections");
    }

    #[test]
    fn sides_come_from_title() {
        assert_eq!(sides("Flamengo v Palmeiras"), ("Flamengo", "Palmeiras"));
        assert_eq!(sides("Jets vs Bills"), ("Jets", "Bills"));
        assert_eq!(sides("Ham 14th Jun"), ("Ham 14th Jun", ""));
        assert_eq!(sides(" v Bills"), (" v Bills", ""));
        let titled = |fields: &str| {
            read(&format!(
                r#"{{"status":"OPEN","runners":[{{"id":1,"status":"ACTIVE"}}]{fields}}}"#
            ))
            .unwrap()
            .home_team
        };
        assert_eq!(
            titled(r#","eventName":"Ham 14th Jun","name":"1m Hcap","venue":"Hamilton""#),
            "Ham 14th Jun"
        );
        assert_eq!(titled(r#","name":"1m Hcap","venue":"Hamilton""#), "1m Hcap");
        assert_eq!(titled(r#","eventName":" ","venue":"Hamilton""#), "Hamilton");
        assert_eq!(titled(""), "1.5");
    }

    #[test]
    fn runners_are_ordered_and_keyed_by_handicap() {
        let definition = read(
            r#"{"status":"OPEN","marketType":"ASIAN_HANDICAP","inPlay":true,"runners":[
                {"id":7,"hc":1.5,"status":"ACTIVE","sortPriority":3,"name":"Away"},
                {"id":5,"hc":-1.5,"status":"ACTIVE","sortPriority":2,"name":"Home"},
                {"id":5,"hc":0.0,"status":"REMOVED","sortPriority":1}]}"#,
        )
        .unwrap();
        let shown: Vec<_> = definition
            .runners
            .iter()
            .map(|runner| (runner.id.as_str(), runner.name.as_str()))
            .collect();
        assert_eq!(
            shown,
            [("5", "5"), ("5@-1.5", "Home -1.5"), ("7@1.5", "Away 1.5")]
        );
        assert_eq!(definition.key.to_string(), "asian_handicap");
        assert!(definition.in_play);
    }

    #[test]
    fn sport_and_start_come_from_definition() {
        let read_both = |fields: &str| {
            let definition = read(&format!(
                r#"{{"status":"OPEN","runners":[{{"id":1,"status":"ACTIVE"}}]{fields}}}"#
            ))
            .unwrap();
            let start = definition
                .start_time
                .map(|time| time.to_string())
                .unwrap_or_default();
            (
                definition.sport.as_deref().unwrap_or_default().to_owned(),
                start,
            )
        };
        let both = r#","eventTypeId":"7","marketTime":"2026-12-01T18:35:00.000Z","openDate":"2026-12-01T13:00:00.000Z""#;
        assert_eq!(
            read_both(both),
            ("horse racing".to_owned(), "2026-12-01T18:35:00Z".to_owned())
        );
        let sports = [
            ("1", "soccer"),
            ("2", "tennis"),
            ("4", "cricket"),
            ("4339", "greyhound racing"),
            ("7522", "basketball"),
        ];
        for (id, name) in sports
            .into_iter()
            .chain([("26420387", "26420387"), (" ", "")])
        {
            assert_eq!(read_both(&format!(r#","eventTypeId":"{id}""#)).0, name);
        }
        assert_eq!(
            read_both(r#","eventTypeId":1,"openDate":"2026-12-01T13:00:00.000Z""#).0,
            "soccer"
        );
        let open_date = r#","marketTime":"soon","openDate":"2026-12-01T13:00:00.000Z""#;
        assert_eq!(read_both(open_date).1, "2026-12-01T13:00:00Z");
        for nothing in [
            "",
            r#","eventTypeId":null,"marketTime":null"#,
            r#","eventTypeId":{},"marketTime":7"#,
        ] {
            assert_eq!(
                read_both(nothing),
                (String::new(), String::new()),
                "{nothing}"
            );
        }
    }

    #[test]
    fn rejection_names_its_reason() {
        let reason = |json| read(json).unwrap_err().reason;
        assert_eq!(reason(r#"{"runners":[]}"#), "bad_definition");
        assert_eq!(
            reason(r#"{"status":"OPEN","bettingType":"LINE","runners":[]}"#),
            UNSUPPORTED
        );
        let twice = r#"{"status":"OPEN","runners":[{"id":1,"status":"ACTIVE"},{"id":1,"status":"ACTIVE"}]}"#;
        assert_eq!(reason(twice), "duplicate_selection");
        assert_eq!(
            reason(r#"{"status":"OPEN","runners":[{"id":1,"hc":"x","status":"ACTIVE"}]}"#),
            "bad_handicap"
        );
    }
}
