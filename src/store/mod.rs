//! The store: the current state of every market, its history, and what could not be read.
//!
//! Calls block; actors make them on a thread for blocking work.

mod batch;
pub mod events;
mod ledger_checks;
pub mod money;
#[cfg(test)]
mod money_suite;
pub mod movements;
pub mod postgres;
pub mod sqlite;
#[cfg(test)]
mod suite;
pub mod user_turns;

use std::sync::Arc;

use events::{EventPage, EventQuery};

use crate::domain::dead_letter::DeadLetter;
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::{OddsUpdate, PositionedUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// Why the store did not do as it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, or has no connection free in time.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The database refused a statement.
    #[error("the database refused: {0}")]
    Refused(String),
    /// What the database holds cannot be read.
    #[error("the database holds what cannot be read: {0}")]
    Unreadable(String),
}

impl StoreError {
    /// Whether another transaction held a lock for longer than is waited. The text is the engines'
    /// own: of PostgreSQL's `lock_timeout` and of SQLite's `busy_timeout`.
    pub fn is_lock_timeout(&self) -> bool {
        matches!(self, StoreError::Unavailable(text) if text.contains("lock timeout") || text.contains("is locked"))
    }
}

/// What a batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchReport {
    /// Updates that are the current state of their market now, or were for a moment within the
    /// batch.
    pub applied: usize,
    /// Rows added to the history.
    pub recorded: usize,
}

/// Which rows of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The event.
    pub event_id: EventId,
    /// The market.
    pub market: MarketKey,
    /// From this moment on, including it.
    pub from: Option<Timestamp>,
    /// Up to this moment, without it.
    pub to: Option<Timestamp>,
    /// Behind this place: the last row of the page before.
    pub after: Option<HistoryCursor>,
    /// At most so many rows.
    pub limit: usize,
}

/// A place in the history of a market: rows are ordered by revision, then by the row's number.
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
    /// Its place.
    pub cursor: HistoryCursor,
    /// The update. Home and away team are not kept in the history, and empty here.
    pub update: OddsUpdate,
}

/// A dead letter with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDeadLetter {
    /// The row's number.
    pub id: i64,
    /// The dead letter.
    pub letter: DeadLetter,
}

/// How many rows were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// From the history.
    pub history: usize,
    /// From the dead letters.
    pub dead_letters: usize,
}

/// A store of odds.
pub trait Store: Send + Sync {
    /// Brings the tables to this version. Safe to call from many processes at once.
    fn migrate(&self) -> Result<(), StoreError>;

    /// Whether the database answers.
    fn ping(&self) -> Result<(), StoreError>;

    /// Applies updates to the current state and adds them to the history, in one transaction. An
    /// update that is older than its market's state changes only the history; one that is known
    /// changes nothing. Safe to repeat.
    fn write_updates(&self, updates: &[PositionedUpdate]) -> Result<BatchReport, StoreError>;

    /// The current state of an event's markets; none for an event that is not known.
    fn load_event(&self, event_id: &EventId) -> Result<Vec<Arc<MarketState>>, StoreError>;

    /// Events in the order of their ids.
    fn list_events(&self, query: &EventQuery) -> Result<EventPage, StoreError>;

    /// Rows of the history, ordered by their cursor.
    fn history(&self, query: &HistoryQuery) -> Result<Vec<HistoryEntry>, StoreError>;

    /// Keeps dead letters.
    fn write_dead_letters(&self, letters: &[DeadLetter]) -> Result<(), StoreError>;

    /// The newest dead letters, newest first.
    fn list_dead_letters(&self, limit: usize) -> Result<Vec<StoredDeadLetter>, StoreError>;

    /// Removes the rows of the history and the dead letters that came before these moments, a
    /// bounded number a call.
    fn prune(
        &self,
        history_before: Timestamp,
        dead_letters_before: Timestamp,
    ) -> Result<PruneReport, StoreError>;
}
