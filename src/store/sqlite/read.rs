//! Queries.

use std::sync::Arc;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use diesel::sqlite::SqliteConnection;

use super::StoreError;
use super::error::Failure;
use super::schema::{dead_letters, odds_current, odds_history};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::{OddsUpdate, Revision, read_selections};
use crate::domain::timestamp::Timestamp;
use crate::store::events::{EventPage, EventQuery, EventSummary, NamePart};
use crate::store::{HistoryCursor, HistoryEntry, HistoryQuery, StoredDeadLetter};

/// The columns that the current state and the history have in common.
struct Stored {
    event_id: String,
    home_team: String,
    away_team: String,
    market: String,
    line: String,
    status: String,
    in_play: bool,
    selections: String,
    source: String,
    version: i64,
    updated_at: i64,
}

impl Stored {
    /// The update, or an error that identifies the row.
    fn read(self) -> Result<OddsUpdate, StoreError> {
        let row = format!(
            "{} {} {} at {} v{}",
            self.event_id, self.market, self.line, self.updated_at, self.version
        );
        self.parse()
            .map_err(|error| StoreError::Unreadable(format!("row {row}: {error}")))
    }

    fn parse(self) -> Result<OddsUpdate, Box<dyn std::error::Error>> {
        let line = if self.line.is_empty() {
            None
        } else {
            Some(self.line.parse()?)
        };
        Ok(OddsUpdate {
            event_id: self.event_id.parse()?,
            home_team: self.home_team,
            away_team: self.away_team,
            sport: None,
            start_time: None,
            market: MarketKey {
                name: self.market.parse()?,
                line,
            },
            status: self.status.parse()?,
            in_play: self.in_play,
            selections: read_selections(&self.selections)?,
            revision: Revision {
                updated_at: super::time(self.updated_at)?,
                version: self.version,
            },
            source: self.source.parse()?,
        })
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = odds_current)]
struct CurrentRow {
    event_id: String,
    market: String,
    line: String,
    home_team: String,
    away_team: String,
    status: String,
    in_play: bool,
    selections: String,
    source: String,
    version: i64,
    updated_at: i64,
    seq: i64,
}

impl CurrentRow {
    fn read(self) -> Result<Arc<MarketState>, StoreError> {
        let CurrentRow {
            event_id,
            market,
            line,
            home_team,
            away_team,
            status,
            in_play,
            selections,
            ..
        } = self;
        let CurrentRow {
            source,
            version,
            updated_at,
            seq,
            ..
        } = self;
        let stored = Stored {
            event_id,
            home_team,
            away_team,
            market,
            line,
            status,
            in_play,
            selections,
            source,
            version,
            updated_at,
        };
        let seq = u64::try_from(seq).map_err(|_| super::unreadable("seq", seq))?;
        Ok(Arc::new(MarketState {
            update: stored.read()?,
            seq,
        }))
    }
}

/// The markets of an event, ordered by key.
pub(super) fn event(
    connection: &mut SqliteConnection,
    event_id: &EventId,
) -> Result<Vec<Arc<MarketState>>, Failure> {
    let rows = odds_current::table
        .filter(odds_current::event_id.eq(event_id.as_str()))
        .select(CurrentRow::as_select())
        .load(connection)?;
    let mut states = rows
        .into_iter()
        .map(CurrentRow::read)
        .collect::<Result<Vec<_>, _>>()?;
    states.sort_by(|one, other| one.update.market.cmp(&other.update.market));
    Ok(states)
}

const EVENT_IDS: &str = "
    SELECT DISTINCT event_id FROM odds_current WHERE event_id > ? ORDER BY event_id LIMIT ?";

const UNFINISHED_EVENT_IDS: &str = "
    SELECT DISTINCT event_id FROM odds_current INDEXED BY odds_current_unfinished
    WHERE event_id > ? AND status IN ('open', 'suspended') ORDER BY event_id LIMIT ?";

/// The events of a list that pass the filters. The team names come from the market that changed
/// last: in SQLite, a bare column beside `max()` comes from the row with the maximum. The sport and
/// the start time are the latest known ones.
const EVENTS: &str = "
    WITH summary AS (
        SELECT market.event_id, home_team, away_team, max(seq) AS seq, sum(status = 'open') AS open_markets,
            CASE WHEN sum(status IN ('open', 'suspended')) = 0 THEN 'ended'
                WHEN sum(in_play) > 0 THEN 'live' ELSE 'upcoming' END AS event_status
        FROM jsonb_each(?) AS wanted CROSS JOIN odds_current AS market ON market.event_id = wanted.value
        GROUP BY market.event_id
    ), event AS (
        SELECT summary.*,
            (SELECT sport FROM odds_current AS market WHERE market.event_id = summary.event_id AND sport IS NOT NULL
                ORDER BY market.seq DESC LIMIT 1) AS sport,
            (SELECT start_time FROM odds_current AS market
                WHERE market.event_id = summary.event_id AND start_time IS NOT NULL
                ORDER BY market.seq DESC LIMIT 1) AS start_time
        FROM summary
    )
    SELECT event_id, home_team, away_team, sport, start_time, event_status, open_markets FROM event
    WHERE event_status IN (SELECT value FROM jsonb_each(?)) AND ? IN ('', sport)
        AND coalesce(start_time >= ? AND start_time < ?, ?) AND home_team || char(10) || away_team GLOB ?
    ORDER BY event_id";

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = Text)]
    event_id: String,
}

#[derive(QueryableByName)]
struct EventRow {
    #[diesel(sql_type = Text)]
    event_id: String,
    #[diesel(sql_type = Text)]
    home_team: String,
    #[diesel(sql_type = Text)]
    away_team: String,
    #[diesel(sql_type = Nullable<Text>)]
    sport: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    start_time: Option<i64>,
    #[diesel(sql_type = Text)]
    event_status: String,
    #[diesel(sql_type = BigInt)]
    open_markets: i64,
}

impl EventRow {
    fn read(self) -> Result<EventSummary, Failure> {
        Ok(EventSummary {
            event_id: event_id(&self.event_id)?,
            home_team: self.home_team,
            away_team: self.away_team,
            sport: self.sport,
            start_time: self.start_time.map(super::time).transpose()?,
            status: self
                .event_status
                .parse()
                .map_err(|_| super::unreadable("status", &self.event_status))?,
            open_markets: u64::try_from(self.open_markets).unwrap_or(0),
        })
    }
}

fn event_id(text: &str) -> Result<EventId, Failure> {
    Ok(text
        .parse()
        .map_err(|_| super::unreadable("event_id", text))?)
}

/// A page of events.
pub(super) fn events(
    connection: &mut SqliteConnection,
    query: &EventQuery,
) -> Result<EventPage, Failure> {
    let statement = if query.only_unfinished() {
        UNFINISHED_EVENT_IDS
    } else {
        EVENT_IDS
    };
    let candidates = |connection: &mut SqliteConnection, after: Option<&EventId>, limit| {
        let ids = sql_query(statement)
            .bind::<Text, _>(after.map_or("", EventId::as_str))
            .bind::<BigInt, _>(rows_at_most(limit))
            .load::<IdRow>(connection)?;
        Ok(ids.into_iter().map(|row| row.event_id).collect())
    };
    let name = query
        .name
        .as_ref()
        .map_or_else(|| "*".to_owned(), NamePart::glob);
    let read = |connection: &mut SqliteConnection, ids: &[String]| {
        let rows = sql_query(EVENTS)
            .bind::<Text, _>(super::write::json(&ids)?)
            .bind::<Text, _>(super::write::json(&query.statuses())?)
            .bind::<Text, _>(query.sport_or_empty())
            .bind::<BigInt, _>(query.from.map_or(i64::MIN, Timestamp::micros))
            .bind::<BigInt, _>(query.to.map_or(i64::MAX, Timestamp::micros))
            .bind::<Bool, _>(query.takes_untimed())
            .bind::<Text, _>(&name)
            .load::<EventRow>(connection)?;
        rows.into_iter().map(EventRow::read).collect()
    };
    query.page(connection, candidates, read, event_id)
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = odds_history)]
struct HistoryRow {
    id: i64,
    event_id: String,
    market: String,
    line: String,
    status: String,
    in_play: bool,
    selections: String,
    source: String,
    version: i64,
    updated_at: i64,
}

impl HistoryRow {
    fn read(self) -> Result<HistoryEntry, StoreError> {
        let HistoryRow {
            id,
            event_id,
            market,
            line,
            status,
            in_play,
            selections,
            source,
            version,
            updated_at,
        } = self;
        let (home_team, away_team) = (String::new(), String::new());
        let stored = Stored {
            event_id,
            home_team,
            away_team,
            market,
            line,
            status,
            in_play,
            selections,
            source,
            version,
            updated_at,
        };
        let update = stored.read()?;
        Ok(HistoryEntry {
            cursor: HistoryCursor {
                revision: update.revision,
                row: id,
            },
            update,
        })
    }
}

/// A page of a market's history.
pub(super) fn history(
    connection: &mut SqliteConnection,
    query: &HistoryQuery,
) -> Result<Vec<HistoryEntry>, Failure> {
    let mut rows = odds_history::table
        .filter(odds_history::event_id.eq(query.event_id.as_str()))
        .filter(odds_history::market.eq(query.market.name.as_str()))
        .filter(odds_history::line.eq(super::line_text(query.market.line)))
        .order((
            odds_history::updated_at,
            odds_history::version,
            odds_history::id,
        ))
        .limit(rows_at_most(query.limit))
        .select(HistoryRow::as_select())
        .into_boxed();
    // A cursor after `from` is sufficient without `from`. Given both conditions, SQLite may start
    // each page at `from`.
    let place = query.after.map(|after| after.revision.updated_at);
    if let Some(from) = query
        .from
        .filter(|from| place.is_none_or(|place| place < *from))
    {
        rows = rows.filter(odds_history::updated_at.ge(from.micros()));
    }
    if let Some(to) = query.to {
        rows = rows.filter(odds_history::updated_at.lt(to.micros()));
    }
    if let Some(HistoryCursor { revision, row }) = query.after {
        let after_cursor = sql::<Bool>("(updated_at, version, id) > (")
            .bind::<BigInt, _>(revision.updated_at.micros())
            .sql(", ")
            .bind::<BigInt, _>(revision.version)
            .sql(", ")
            .bind::<BigInt, _>(row)
            .sql(")");
        rows = rows.filter(after_cursor);
    }
    Ok(rows
        .load(connection)?
        .into_iter()
        .map(HistoryRow::read)
        .collect::<Result<_, _>>()?)
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = dead_letters)]
struct DeadLetterRow {
    id: i64,
    received_at: i64,
    origin: String,
    reason: String,
    detail: String,
    raw: Vec<u8>,
}

/// The newest dead letters.
pub(super) fn dead_letters(
    connection: &mut SqliteConnection,
    limit: usize,
) -> Result<Vec<StoredDeadLetter>, Failure> {
    let rows = dead_letters::table
        .order((dead_letters::received_at.desc(), dead_letters::id.desc()))
        .limit(rows_at_most(limit))
        .select(DeadLetterRow::as_select())
        .load(connection)?;
    rows.into_iter()
        .map(
            |DeadLetterRow {
                 id,
                 received_at,
                 origin,
                 reason,
                 detail,
                 raw,
             }| {
                let letter = DeadLetter {
                    received_at: super::time(received_at)?,
                    origin,
                    reason,
                    detail,
                    raw: raw.into(),
                };
                Ok(StoredDeadLetter { id, letter })
            },
        )
        .collect()
}

pub(super) fn rows_at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
