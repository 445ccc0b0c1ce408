//! The list of events, with filters and pagination.
//!
//! A page is read in two steps on every engine: candidate ids from an index, then the summaries of
//! these candidates, filtered by the database. With a selective filter this could read the whole
//! table for one page, so a page examines a bounded number of candidates. A page may therefore hold
//! fewer events than its limit and still have a next page.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use strum::VariantArray;

use crate::domain::ids::EventId;
use crate::domain::odds::status::EventStatus;
use crate::domain::odds::update::read_sport;
use crate::domain::timestamp::Timestamp;

/// Maximum number of candidates that a page examines. The largest unfiltered page is smaller.
pub const MAX_EXAMINED: usize = 20_000;
/// Maximum length of the name filter, in characters.
pub const MAX_NAME_PART: usize = 64;

/// An event in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSummary {
    /// The event.
    pub event_id: EventId,
    /// The home team, or the title of the event.
    pub home_team: String,
    /// The away team.
    pub away_team: String,
    /// The sport, if a supplier sent it.
    pub sport: Option<String>,
    /// The start time, if a supplier sent it.
    pub start_time: Option<Timestamp>,
    /// Derived from the event's markets.
    pub status: EventStatus,
    /// Number of open markets.
    pub open_markets: u64,
}

/// Filters and page of a list of events, ordered by id.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Only events after this one.
    pub after: Option<EventId>,
    /// Maximum number of events.
    pub limit: usize,
    /// Only events with this status.
    pub status: StatusFilter,
    /// Only events that are in play, or only those that are not.
    pub in_play: Option<bool>,
    /// Only events of this sport.
    pub sport: Option<Sport>,
    /// Only events that start at or after this time.
    pub from: Option<Timestamp>,
    /// Only events that start before this time.
    pub to: Option<Timestamp>,
    /// Only events whose home or away team contains this text.
    pub name: Option<NamePart>,
}

/// A filter by status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatusFilter {
    /// All except `ended`.
    #[default]
    NotEnded,
    /// All.
    All,
    /// Only this one.
    Only(EventStatus),
}

impl FromStr for StatusFilter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<StatusFilter, &'static str> {
        match text {
            "all" => Ok(StatusFilter::All),
            one => one
                .parse()
                .map(StatusFilter::Only)
                .map_err(|_| "expected upcoming, live, ended or all"),
        }
    }
}

/// A sport to filter by, in the normalised form that updates carry.
#[derive(Clone, Debug)]
pub struct Sport(Arc<str>);

impl FromStr for Sport {
    type Err = String;

    fn from_str(text: &str) -> Result<Sport, String> {
        let sport = read_sport(text).map_err(|error| error.to_string())?;
        sport
            .map(Sport)
            .ok_or_else(|| "expected the name of a sport".to_owned())
    }
}

/// Part of a name, matched without regard to case. Each database folds the case of a different set
/// of letters, so the patterns list both cases of every letter explicitly.
#[derive(Clone, Debug)]
pub struct NamePart(String);

impl FromStr for NamePart {
    type Err = String;

    fn from_str(text: &str) -> Result<NamePart, String> {
        if text.chars().count() > MAX_NAME_PART || text.chars().any(char::is_control) {
            return Err(format!(
                "expected at most {MAX_NAME_PART} characters and no control characters"
            ));
        }
        Ok(NamePart(text.to_owned()))
    }
}

impl NamePart {
    /// The original text.
    #[cfg(test)]
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The pattern for SQLite's `GLOB`.
    pub(super) fn glob(&self) -> String {
        let plain = |letter| match letter {
            '*' | '?' | '[' => format!("[{letter}]"),
            other => other.to_string(),
        };
        format!("*{}*", self.pattern(plain))
    }

    /// The pattern for PostgreSQL's `~`.
    pub(super) fn regex(&self) -> String {
        self.pattern(|letter| {
            if letter.is_ascii() && !letter.is_ascii_alphanumeric() {
                format!("\\{letter}")
            } else {
                letter.to_string()
            }
        })
    }

    fn pattern(&self, plain: impl Fn(char) -> String) -> String {
        let one = |letter: char| {
            let cases = cases(letter);
            if cases.len() == 1 {
                plain(letter)
            } else {
                format!("[{}]", cases.into_iter().collect::<String>())
            }
        };
        self.0.chars().map(one).collect()
    }
}

/// The single-letter case variants of a letter. `ß` has no single-letter capital.
fn cases(letter: char) -> BTreeSet<char> {
    fn single(mut letters: impl Iterator<Item = char>) -> Option<char> {
        letters.next().filter(|_| letters.next().is_none())
    }
    [
        Some(letter),
        single(letter.to_lowercase()),
        single(letter.to_uppercase()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A page of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<EventSummary>,
    /// The cursor of the next page, if there may be one.
    pub next: Option<EventId>,
}

impl EventQuery {
    /// The statuses that pass the filters.
    pub(super) fn statuses(&self) -> Vec<&'static str> {
        let passes = |status: EventStatus| {
            let by_status = match self.status {
                StatusFilter::NotEnded => status != EventStatus::Ended,
                StatusFilter::All => true,
                StatusFilter::Only(wanted) => status == wanted,
            };
            by_status
                && self
                    .in_play
                    .is_none_or(|wanted| wanted == status.is_in_play())
        };
        EventStatus::VARIANTS
            .iter()
            .filter(|status| passes(**status))
            .map(|status| status.as_str())
            .collect()
    }

    /// Whether only events with an unfinished market can pass, which the database finds by an
    /// index.
    pub(super) fn only_unfinished(&self) -> bool {
        !self.statuses().contains(&EventStatus::Ended.as_str())
    }

    /// The sport, or an empty text for any sport.
    pub(super) fn sport_or_empty(&self) -> &str {
        self.sport.as_ref().map_or("", |Sport(sport)| sport)
    }

    /// Whether events without a known start time pass.
    pub(super) fn includes_untimed(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }

    /// Reads a page. `candidates` returns up to a number of ids after an event; `read` returns the
    /// events of a list of ids that pass the filters.
    pub(super) fn page<C, E>(
        &self,
        connection: &mut C,
        candidates: impl Fn(&mut C, Option<&EventId>, usize) -> Result<Vec<String>, E>,
        read: impl Fn(&mut C, &[String]) -> Result<Vec<EventSummary>, E>,
        id: impl Fn(&str) -> Result<EventId, E>,
    ) -> Result<EventPage, E> {
        let mut page = EventPage::default();
        let mut after = self.after.clone();
        let mut remaining = MAX_EXAMINED;
        let mut size = self.limit;
        if self.limit == 0 || self.statuses().is_empty() {
            return Ok(page);
        }
        while remaining > 0 {
            size = size.min(remaining);
            let ids = candidates(connection, after.as_ref(), size)?;
            page.events.extend(read(connection, &ids)?);
            if page.events.len() >= self.limit {
                page.events.truncate(self.limit);
                page.next = page.events.last().map(|event| event.event_id.clone());
                return Ok(page);
            }
            match ids.last() {
                Some(last) if ids.len() == size => after = Some(id(last)?),
                _ => return Ok(page),
            }
            remaining -= size;
            // Few candidates passed: larger steps need fewer queries.
            size = size.saturating_mul(8);
        }
        page.next = after;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_lists_both_cases() {
        let part: NamePart = "é*[1ß.".parse().unwrap();
        assert_eq!(part.glob(), "*[Éé][*][[]1ß.*");
        assert_eq!(part.regex(), r"[Éé]\*\[1ß\.");
    }

    #[test]
    fn long_name_part_is_rejected() {
        assert!("x".repeat(MAX_NAME_PART).parse::<NamePart>().is_ok());
        assert!("x".repeat(MAX_NAME_PART + 1).parse::<NamePart>().is_err());
        assert!("a\nb".parse::<NamePart>().is_err());
    }

    #[test]
    fn statuses_follow_both_filters() {
        let statuses = |status, in_play| {
            EventQuery {
                status,
                in_play,
                ..EventQuery::default()
            }
            .statuses()
        };
        assert_eq!(statuses(StatusFilter::NotEnded, None), ["upcoming", "live"]);
        assert_eq!(statuses(StatusFilter::NotEnded, Some(false)), ["upcoming"]);
        assert_eq!(
            statuses(StatusFilter::All, Some(false)),
            ["upcoming", "ended"]
        );
        assert_eq!(statuses("ended".parse().unwrap(), None), ["ended"]);
        assert_eq!(statuses("ended".parse().unwrap(), Some(true)), [""; 0]);
        assert!("Live".parse::<StatusFilter>().is_err());
    }

    /// The database has `events` events from 0 on, and every `nth` of them passes.
    fn page(limit: usize, nth: usize, events: usize) -> (usize, Option<String>, usize) {
        let query = EventQuery {
            limit,
            ..EventQuery::default()
        };
        let examined = std::cell::Cell::new(0);
        let name = |number: usize| format!("{number:05}");
        let candidates = |(): &mut (), after: Option<&EventId>, size: usize| {
            let first = after.map_or(0, |after| after.as_str().parse::<usize>().unwrap() + 1);
            let ids: Vec<_> = (first..events).take(size).map(name).collect();
            examined.set(examined.get() + ids.len());
            Ok::<_, ()>(ids)
        };
        let read = |(): &mut (), ids: &[String]| {
            let passes = |id: &&String| id.parse::<usize>().unwrap() % nth == 0;
            let event = |id: &String| EventSummary {
                event_id: EventId::new(id).unwrap(),
                home_team: String::new(),
                away_team: String::new(),
                sport: None,
                start_time: None,
                status: EventStatus::Live,
                open_markets: 0,
            };
            Ok(ids.iter().filter(passes).map(event).collect())
        };
        let page = query
            .page(
                &mut (),
                candidates,
                read,
                |id| Ok(EventId::new(id).unwrap()),
            )
            .unwrap();
        (
            page.events.len(),
            page.next.map(|next| next.to_string()),
            examined.get(),
        )
    }

    #[test]
    fn page_examines_bounded_number() {
        assert_eq!(
            page(4, 1, 100_000),
            (4, Some("00003".to_owned()), 4),
            "no more than needed"
        );
        assert_eq!(page(4, 1, 3), (3, None, 3));
        assert_eq!(page(2, 50, 100_000).1.as_deref(), Some("00050"));
        assert_eq!(
            page(3, 90_000, 100_000),
            (1, Some("19999".to_owned()), MAX_EXAMINED),
            "a partial page with a next page"
        );
        assert_eq!(page(3, 90_000, 1_000), (1, None, 1_000));
    }
}
