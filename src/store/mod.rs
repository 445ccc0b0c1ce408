//! The store: the current state of every market, its history, and dead letters.
//!
//! Calls block, so actors run them on a thread pool for blocking work.

pub(crate) mod access;
#[cfg(test)]
mod access_suite;
mod batch;
pub(crate) mod blocking;
pub mod events;
mod failure;
pub(crate) mod holds;
mod ledger_checks;
pub(crate) mod money;
#[cfg(test)]
mod money_suite;
pub(crate) mod movements;
pub mod postgres;
pub(crate) mod request_batcher;
mod rows;
pub mod sqlite;
#[cfg(test)]
mod suite;
pub(crate) mod user_turns;

use std::sync::Arc;

use events::{EventPage, EventQuery};

use crate::domain::dead_letter::DeadLetter;
use crate::domain::ids::{EventId, MarketKey, Source};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::{OddsUpdate, PositionedUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// Why a store call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database is unreachable, or no connection became free in time.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The database rejected a statement.
    #[error("the database refused the request: {0}")]
    Refused(String),
    /// A stored value cannot be read.
    #[error("the database holds unreadable data: {0}")]
    Unreadable(String),
}

impl StoreError {
    /// Whether the call timed out on a lock that another transaction held. Matches the engines' own
    /// texts: of PostgreSQL's `lock_timeout` and SQLite's `busy_timeout`.
    pub fn is_lock_timeout(&self) -> bool {
        matches!(self, StoreError::Unavailable(text) if text.contains("lock timeout") || text.contains("is locked"))
    }
}

/// The result of writing a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchReport {
    /// Updates that became the current state of their market, including those that a later update
    /// of the batch replaced.
    pub applied: usize,
    /// Rows added to the history. Repeated updates add none.
    pub recorded: usize,
}

/// Selects rows of a market's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The event.
    pub event_id: EventId,
    /// The market.
    pub market: MarketKey,
    /// Start of the time range, inclusive.
    pub from: Option<Timestamp>,
    /// End of the time range, exclusive.
    pub to: Option<Timestamp>,
    /// Returns the rows after this cursor: the last row of the previous page.
    pub after: Option<HistoryCursor>,
    /// Maximum number of rows.
    pub limit: usize,
}

/// Selects the open or the suspended markets of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarketsOfSourceQuery {
    /// The source of their current state.
    pub source: Source,
    /// Open or suspended: other statuses are not indexed, and select nothing.
    pub status: MarketStatus,
    /// Returns the markets after this one: the last one of the previous page.
    pub after: Option<(EventId, MarketKey)>,
    /// Maximum number of markets.
    pub limit: usize,
}

impl MarketsOfSourceQuery {
    /// Event, market and line that the page comes after, as stored.
    fn after_texts(&self) -> (&str, &str, String) {
        match &self.after {
            Some((event, market)) => (
                event.as_str(),
                market.name.as_str(),
                rows::line_text(market.line),
            ),
            None => ("", "", String::new()),
        }
    }
}

/// A position in the history of a market. Rows are ordered by revision, then by row number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryCursor {
    /// The row's revision.
    pub revision: Revision,
    /// The row's number.
    pub row: i64,
}

/// A row of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Its position.
    pub cursor: HistoryCursor,
    /// The update. The history does not store team names, so they are empty here.
    pub update: OddsUpdate,
}

/// A dead letter with its row number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDeadLetter {
    /// The row's number.
    pub id: i64,
    /// The dead letter.
    pub letter: DeadLetter,
}

/// How many rows [`Store::prune`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// From the history.
    pub history: usize,
    /// From the dead letters.
    pub dead_letters: usize,
}

/// Stores markets, their history and dead letters.
pub trait Store: Send + Sync {
    /// Migrates the schema to this version. Safe to call from many processes at once.
    fn migrate(&self) -> Result<(), StoreError>;

    /// Checks that the database answers.
    fn ping(&self) -> Result<(), StoreError>;

    /// Identifies the sequence numbers of this database. It was created with the tables, and never
    /// changes.
    fn stream_epoch(&self) -> Result<String, StoreError>;

    /// Applies updates to the current state and adds them to the history, in one transaction. An
    /// update that is older than its market's state only adds to the history; a repeated one
    /// changes nothing. Safe to repeat.
    fn write_updates(&self, updates: &[PositionedUpdate]) -> Result<BatchReport, StoreError>;

    /// Stores states that a book has published, with their sequence numbers. A state that is older
    /// than its market's stored one only adds to the history, and the stored one then gets a number
    /// far after all of these: it is the later one. Safe to repeat.
    fn write_states(&self, states: &[Arc<MarketState>]) -> Result<BatchReport, StoreError>;

    /// The current state of an event's markets; empty for an unknown event.
    fn load_event(&self, event_id: &EventId) -> Result<Vec<Arc<MarketState>>, StoreError>;

    /// The current state of a source's open or suspended markets, ordered by event and market; an
    /// empty page is the last one.
    fn unfinished_markets(
        &self,
        query: &MarketsOfSourceQuery,
    ) -> Result<Vec<OddsUpdate>, StoreError>;

    /// The sources of the open and suspended markets.
    fn sources_of_unfinished_markets(&self) -> Result<Vec<Source>, StoreError>;

    /// Events, ordered by id.
    fn list_events(&self, query: &EventQuery) -> Result<EventPage, StoreError>;

    /// Rows of the history, ordered by their cursor.
    fn history(&self, query: &HistoryQuery) -> Result<Vec<HistoryEntry>, StoreError>;

    /// Stores dead letters.
    fn write_dead_letters(&self, letters: &[DeadLetter]) -> Result<(), StoreError>;

    /// The newest dead letters, newest first.
    fn list_dead_letters(&self, limit: usize) -> Result<Vec<StoredDeadLetter>, StoreError>;

    /// Removes history rows recorded, and dead letters received, before the given times. Each call
    /// removes a bounded number of rows.
    fn prune(
        &self,
        history_before: Timestamp,
        dead_letters_before: Timestamp,
    ) -> Result<PruneReport, StoreError>;
}
