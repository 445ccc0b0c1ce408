//! Rows of markets, their history, events and dead letters.

use std::sync::Arc;
use std::time::Duration;

use diesel::sql_types::{BigInt, Nullable, Text};
use diesel::{Queryable, QueryableByName, Selectable};
use log::warn;

use super::{Time, line, parsed, unsigned};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::{OddsUpdate, Revision, read_selections};
use crate::domain::timestamp::Timestamp;
use crate::store::batch::Heads;
use crate::store::events::EventSummary;
use crate::store::sqlite::schema::{odds_current, odds_history};
use crate::store::{HistoryCursor, HistoryEntry, StoreError, StoredDeadLetter};
use crate::telemetry::log_limit::LogLimit;

/// The current state of a market.
#[derive(Queryable, Selectable)]
#[diesel(table_name = odds_current)]
pub(in crate::store) struct MarketRow {
    market: String,
    line: String,
    status: String,
    in_play: bool,
    selections: String,
    source: String,
    version: i64,
    updated_at: Time,
    home_team: String,
    away_team: String,
    seq: i64,
}

impl MarketRow {
    fn read(self, event_id: &EventId) -> Result<Arc<MarketState>, StoreError> {
        let columns = UpdateColumns {
            market: self.market,
            line: self.line,
            status: self.status,
            in_play: self.in_play,
            selections: self.selections,
            source: self.source,
            version: self.version,
            updated_at: self.updated_at,
        };
        let mut update = columns.read(event_id)?;
        update.home_team = self.home_team;
        update.away_team = self.away_team;
        let seq = unsigned("seq", self.seq)?;
        Ok(Arc::new(MarketState { update, seq }))
    }
}

/// Reads the markets of an event, ordered by key.
pub(in crate::store) fn read_markets<E: From<StoreError>>(
    rows: Vec<MarketRow>,
    event_id: &EventId,
) -> Result<Vec<Arc<MarketState>>, E> {
    let mut states: Vec<Arc<MarketState>> =
        super::read_all::<_, _, E>(rows, |row| row.read(event_id))?;
    states.sort_by(|one, other| one.update.market.cmp(&other.update.market));
    Ok(states)
}

/// Reads markets of any events, in the order of the rows. A row that cannot be read is skipped: no
/// book can load it either, so no bet is accepted on it.
pub(in crate::store) fn read_unfinished_markets(rows: Vec<(String, MarketRow)>) -> Vec<OddsUpdate> {
    static LOG: LogLimit = LogLimit::every(Duration::from_secs(60));
    let read = |(id, row): (String, MarketRow)| {
        let state = event_id(&id).and_then(|id| row.read(&id));
        let warn = |error: StoreError| {
            if let Some(repeated) = LOG.check("market") {
                warn!(event = id.as_str(), repeated; "skipping a market that cannot be read: {error}");
            }
        };
        state.map_err(warn).ok().map(|state| state.update.clone())
    };
    rows.into_iter().filter_map(read).collect()
}

/// An update in the history of a market.
#[derive(Queryable, Selectable)]
#[diesel(table_name = odds_history)]
pub(in crate::store) struct HistoryRow {
    id: i64,
    status: String,
    in_play: bool,
    selections: String,
    source: String,
    version: i64,
    updated_at: Time,
}

impl HistoryRow {
    pub(in crate::store) fn read(
        self,
        event_id: &EventId,
        market: &MarketKey,
    ) -> Result<HistoryEntry, StoreError> {
        let columns = UpdateColumns {
            market: market.name.to_string(),
            line: super::line_text(market.line),
            status: self.status,
            in_play: self.in_play,
            selections: self.selections,
            source: self.source,
            version: self.version,
            updated_at: self.updated_at,
        };
        let update = columns.read(event_id)?;
        Ok(HistoryEntry {
            cursor: HistoryCursor {
                revision: update.revision,
                row: self.id,
            },
            update,
        })
    }
}

/// The columns that the current state and the history have in common.
struct UpdateColumns {
    market: String,
    line: String,
    status: String,
    in_play: bool,
    selections: String,
    source: String,
    version: i64,
    updated_at: Time,
}

impl UpdateColumns {
    /// The update without team names, or an error that identifies the row. An invalid time fails
    /// earlier, with the name of its column.
    fn read(&self, event_id: &EventId) -> Result<OddsUpdate, StoreError> {
        self.parse(event_id).map_err(|error| {
            StoreError::Unreadable(format!(
                "row {event_id} {} {} at {} v{}: {error}",
                self.market,
                self.line,
                self.updated_at.0.micros(),
                self.version
            ))
        })
    }

    fn parse(&self, event_id: &EventId) -> Result<OddsUpdate, Box<dyn std::error::Error>> {
        Ok(OddsUpdate {
            event_id: event_id.clone(),
            home_team: String::new(),
            away_team: String::new(),
            sport: None,
            start_time: None,
            market: MarketKey {
                name: self.market.parse()?,
                line: line(&self.line)?,
            },
            status: self.status.parse()?,
            in_play: self.in_play,
            selections: read_selections(&self.selections)?,
            revision: Revision {
                updated_at: self.updated_at.0,
                version: self.version,
            },
            source: self.source.parse()?,
        })
    }
}

/// The id of an event.
#[derive(Queryable, QueryableByName)]
pub(in crate::store) struct EventIdRow {
    #[diesel(sql_type = Text)]
    pub(in crate::store) event_id: String,
}

/// An event in a list. SQLite reads it by column names.
#[derive(Queryable, QueryableByName)]
pub(in crate::store) struct EventRow {
    #[diesel(sql_type = Text)]
    event_id: String,
    #[diesel(sql_type = Text)]
    home_team: String,
    #[diesel(sql_type = Text)]
    away_team: String,
    #[diesel(sql_type = Nullable<Text>)]
    sport: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    start_time: Option<Time>,
    #[diesel(sql_type = Text)]
    event_status: String,
    #[diesel(sql_type = BigInt)]
    open_markets: i64,
}

impl EventRow {
    pub(in crate::store) fn read(self) -> Result<EventSummary, StoreError> {
        Ok(EventSummary {
            event_id: event_id(&self.event_id)?,
            home_team: self.home_team,
            away_team: self.away_team,
            sport: self.sport,
            start_time: self.start_time.map(|time| time.0),
            status: parsed("status", &self.event_status)?,
            open_markets: u64::try_from(self.open_markets).unwrap_or(0),
        })
    }
}

/// Parses the id of an event.
pub(in crate::store) fn event_id(text: &str) -> Result<EventId, StoreError> {
    parsed("event_id", text)
}

/// A dead letter.
#[derive(Queryable)]
pub(in crate::store) struct DeadLetterRow {
    id: i64,
    received_at: Time,
    origin: String,
    reason: String,
    detail: String,
    raw: Vec<u8>,
}

impl DeadLetterRow {
    pub(in crate::store) fn read(self) -> StoredDeadLetter {
        StoredDeadLetter {
            id: self.id,
            letter: DeadLetter {
                received_at: self.received_at.0,
                origin: self.origin,
                reason: self.reason,
                detail: self.detail,
                raw: self.raw.into(),
            },
        }
    }
}

/// The last sequence number of an event of a batch, and its number of markets.
#[derive(Queryable, QueryableByName)]
pub(in crate::store) struct EventHeadRow {
    /// The position of the event in the batch, from 1.
    #[diesel(sql_type = BigInt)]
    place: i64,
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = BigInt)]
    markets: i64,
}

impl EventHeadRow {
    pub(in crate::store) fn read_into(self, heads: &mut Heads) -> Result<(), StoreError> {
        if let Some(seq) = at(&mut heads.last_seqs, self.place) {
            *seq = unsigned("seq", self.seq)?;
        }
        if let Some(count) = at(&mut heads.market_counts, self.place) {
            *count = usize::try_from(self.markets).unwrap_or(usize::MAX);
        }
        Ok(())
    }
}

/// The revision of a market of a batch.
#[derive(Queryable, QueryableByName)]
pub(in crate::store) struct MarketHeadRow {
    /// The position of the market in the batch, from 1.
    #[diesel(sql_type = BigInt)]
    place: i64,
    #[diesel(sql_type = BigInt)]
    updated_at: Time,
    #[diesel(sql_type = BigInt)]
    version: i64,
}

impl MarketHeadRow {
    /// A state with a time after `latest` counts as none.
    pub(in crate::store) fn read_into(self, heads: &mut Heads, latest: Timestamp) {
        let revision = Revision {
            updated_at: self.updated_at.0,
            version: self.version,
        };
        if let Some(head) = at(&mut heads.revisions, self.place) {
            *head = Some(revision).filter(|revision| revision.updated_at <= latest);
        }
    }
}

/// The item at a place, which counts from 1.
fn at<T>(list: &mut [T], place: i64) -> Option<&mut T> {
    usize::try_from(place)
        .ok()?
        .checked_sub(1)
        .and_then(|index| list.get_mut(index))
}
