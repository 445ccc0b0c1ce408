//! Converts a Betfair market definition to our terms.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::result_terms::{ResultTerms, RunnerResult};
use super::wire::{DefinitionVersion, MarketDefinition, RunnerDefinition};
use crate::domain::ids::{EventId, MarketKey, MarketName, SelectionId};
use crate::domain::json;
use crate::domain::odds::price::Line;
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::odds::update::{MAX_SELECTIONS, read_sport};
use crate::domain::timestamp::Timestamp;
use crate::supplier::Refused;

/// The reason for rejecting a market whose prices are the line of a spread, not odds.
pub(crate) const UNSUPPORTED: &str = "unsupported_betting_type";

/// A runner within its market: its id, and its handicap if it has one.
pub(crate) type RunnerKey = (i64, Option<Line>);

/// A market definition.
#[derive(Debug)]
pub(crate) struct Definition {
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
    /// What the market says about its results.
    pub results: ResultTerms,
}

/// A runner definition.
#[derive(Debug)]
pub(crate) struct Runner {
    /// The runner's key on the stream.
    pub key: RunnerKey,
    /// The selection id for clients: the runner's id, and with a handicap `id@handicap`.
    pub id: SelectionId,
    /// The runner's name, else its id.
    pub name: String,
    /// The runner's status.
    pub status: SelectionStatus,
    /// What the definition says about its result.
    pub result: RunnerResult,
}

impl Definition {
    /// Reads a definition. An unreadable part makes the whole definition unreadable. The exceptions
    /// are the sport and the start time: no bet depends on them, so an unreadable value counts as
    /// missing.
    pub(crate) fn read(market: &EventId, text: &RawValue) -> Result<Definition, Refused> {
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
            results: ResultTerms::read(&wire),
        })
    }
}

/// The version of a definition, even if the rest is unreadable.
pub(crate) fn read_version(text: &RawValue) -> Option<i64> {
    serde_json::from_str::<DefinitionVersion>(text.get())
        .ok()?
        .version
}

/// Parses a handicap; 0 means none.
pub(crate) fn read_handicap(text: Option<&RawValue>) -> Result<Option<Line>, Refused> {
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
        result: RunnerResult::read(wire),
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
mod tests;
