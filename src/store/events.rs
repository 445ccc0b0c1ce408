//! The list of events: filters, and pages of what passes them.
//!
//! A page is read in two steps, the same on every engine: ids of candidates from an index, then
//! what the markets of these say, filtered by the database. A filter that few events pass would
//! read the whole table for one page, so a page examines a bounded number of candidates. Then it
//! may hold fewer events than asked for and still have a next page.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use crate::domain::ids::EventId;
use crate::domain::odds::status::EventStatus;
use crate::domain::odds::update::read_sport;
use crate::domain::timestamp::Timestamp;

/// How many candidates a page examines at most. The largest page without a filter is smaller.
pub const MAX_EXAMINED: usize = 20_000;
/// The longest part of a name that is searched for, in characters.
pub const MAX_NAME_PART: usize = 64;

/// An event in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSummary {
    /// The event.
    pub event_id: EventId,
    /// Its home side, or title.
    pub home_team: String,
    /// Its away side.
    pub away_team: String,
    /// Its sport, if a supplier told it.
    pub sport: Option<String>,
    /// When it starts, if a supplier told it.
    pub start_time: Option<Timestamp>,
    /// Derived from its markets.
    pub status: EventStatus,
    /// How many of its markets are open.
    pub open_markets: u64,
}

/// Which events, in the order of their ids.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Only events behind this one.
    pub after: Option<EventId>,
    /// At most so many.
    pub limit: usize,
    /// Only events with such a status.
    pub status: StatusFilter,
    /// Only events that are in play, or only those that are not.
    pub in_play: Option<bool>,
    /// Only events of this sport.
    pub sport: Option<Sport>,
    /// Only events that start at this moment or later.
    pub from: Option<Timestamp>,
    /// Only events that start before this moment.
    pub to: Option<Timestamp>,
    /// Only events with this in the name of a side.
    pub name: Option<NamePart>,
}

/// Which statuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatusFilter {
    /// All but `ended`.
    #[default]
    NotEnded,
    /// All.
    All,
    /// One.
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
                .map_err(|_| "upcoming, live, ended or all is wanted"),
        }
    }
}

/// A sport to filter by, in the form that updates carry.
#[derive(Clone, Debug)]
pub struct Sport(Arc<str>);

impl FromStr for Sport {
    type Err = String;

    fn from_str(text: &str) -> Result<Sport, String> {
        let sport = read_sport(text).map_err(|error| error.to_string())?;
        sport
            .map(Sport)
            .ok_or_else(|| "the name of a sport is wanted".to_owned())
    }
}

/// A part of a name, compared without regard to case. The databases fold the case of some letters
/// only, each of others; so the pattern for them lists both cases of every letter.
#[derive(Clone, Debug)]
pub struct NamePart(String);

impl FromStr for NamePart {
    type Err = String;

    fn from_str(text: &str) -> Result<NamePart, String> {
        if text.chars().count() > MAX_NAME_PART || text.chars().any(char::is_control) {
            return Err(format!(
                "at most {MAX_NAME_PART} characters and no control characters are taken"
            ));
        }
        Ok(NamePart(text.to_owned()))
    }
}

impl NamePart {
    /// As it was given.
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

/// A letter in each case that is one letter again: `ß` has no such capital.
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
    /// Where the next page begins, if there may be one.
    pub next: Option<EventId>,
}

impl EventQuery {
    /// The statuses that pass.
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
        EventStatus::ALL
            .iter()
            .filter(|status| passes(**status))
            .map(|status| status.as_str())
            .collect()
    }

    /// Whether only events with a market that is not finished can pass: the database finds them by
    /// an index.
    pub(super) fn only_unfinished(&self) -> bool {
        !self.statuses().contains(&EventStatus::Ended.as_str())
    }

    /// The sport, empty for any.
    pub(super) fn sport_or_empty(&self) -> &str {
        self.sport.as_ref().map_or("", |Sport(sport)| sport)
    }

    /// Whether an event passes whose start nobody told.
    pub(super) fn takes_untimed(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }

    /// Reads a page. `candidates` gives the ids behind an event, at most so many; `read` gives
    /// those of a list that pass.
    pub(super) fn page<C, E>(
        &self,
        connection: &mut C,
        candidates: impl Fn(&mut C, Option<&EventId>, usize) -> Result<Vec<String>, E>,
        read: impl Fn(&mut C, &[String]) -> Result<Vec<EventSummary>, E>,
        id: impl Fn(&str) -> Result<EventId, E>,
    ) -> Result<EventPage, E> {
        let (mut page, mut after) = (EventPage::default(), self.after.clone());
        let (mut left, mut size) = (MAX_EXAMINED, self.limit);
        if self.limit == 0 || self.statuses().is_empty() {
            return Ok(page);
        }
        while left > 0 {
            size = size.min(left);
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
            left -= size;
            // Few passed: larger steps need fewer questions.
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
    fn long_part_of_name_is_refused() {
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

    /// The database has events 0 to 99,999, and every `nth` of them passes.
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
            "a next page without a full one"
        );
        assert_eq!(page(3, 90_000, 1_000), (1, None, 1_000));
    }
}
