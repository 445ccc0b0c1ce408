//! Queries.

use std::sync::Arc;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Text};
use diesel::sqlite::SqliteConnection;

use super::schema::{dead_letters, odds_current, odds_history, stream_epoch};
use crate::domain::ids::{EventId, Source};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;
use crate::store::events::{EventPage, EventQuery, NamePart};
use crate::store::failure::Failure;
use crate::store::rows::odds::{
    DeadLetterRow, EventIdRow, EventRow, HistoryRow, MarketRow, event_id, read_markets,
    read_unfinished_markets,
};
use crate::store::rows::{line_text, read_all, row_limit};
use crate::store::{
    HistoryCursor, HistoryEntry, HistoryQuery, MarketsOfSourceQuery, StoredDeadLetter,
};

/// The markets of an event, ordered by key.
pub(super) fn event(
    connection: &mut SqliteConnection,
    event_id: &EventId,
) -> Result<Vec<Arc<MarketState>>, Failure> {
    let rows = odds_current::table
        .filter(odds_current::event_id.eq(event_id.as_str()))
        .select(MarketRow::as_select())
        .load(connection)?;
    read_markets(rows, event_id)
}

/// The identity of the sequence numbers.
pub(super) fn stream_epoch(connection: &mut SqliteConnection) -> Result<String, Failure> {
    Ok(stream_epoch::table
        .select(stream_epoch::epoch)
        .first(connection)?)
}

/// The condition of the partial indexes, literally: with bound statuses none of them is used.
const UNFINISHED: &str = "status IN ('open', 'suspended')";

/// The sources of the open and suspended markets.
pub(super) fn sources_of_unfinished_markets(
    connection: &mut SqliteConnection,
) -> Result<Vec<Source>, Failure> {
    let sources: Vec<String> = odds_current::table
        .filter(sql::<Bool>(UNFINISHED))
        .select(odds_current::source)
        .distinct()
        .load(connection)?;
    let sources = sources.iter().filter_map(|source| Source::new(source).ok());
    Ok(sources.collect())
}

/// A page of a source's open or suspended markets.
pub(super) fn unfinished_markets(
    connection: &mut SqliteConnection,
    query: &MarketsOfSourceQuery,
) -> Result<Vec<OddsUpdate>, Failure> {
    let (event_id, market, line) = query.after_texts();
    let after = sql::<Bool>("(event_id, market, line) > (")
        .bind::<Text, _>(event_id)
        .sql(", ")
        .bind::<Text, _>(market)
        .sql(", ")
        .bind::<Text, _>(line)
        .sql(")");
    let rows = odds_current::table
        .filter(sql::<Bool>(UNFINISHED))
        .filter(odds_current::source.eq(query.source.as_str()))
        .filter(odds_current::status.eq(query.status.as_str()))
        .filter(after)
        .order((
            odds_current::event_id,
            odds_current::market,
            odds_current::line,
        ))
        .limit(row_limit(query.limit))
        .select((odds_current::event_id, MarketRow::as_select()))
        .load(connection)?;
    Ok(read_unfinished_markets(rows))
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
            .bind::<BigInt, _>(row_limit(limit))
            .load::<EventIdRow>(connection)?;
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
            .bind::<Bool, _>(query.includes_untimed())
            .bind::<Text, _>(&name)
            .load(connection)?;
        read_all(rows, EventRow::read)
    };
    query.page(connection, candidates, read, |id| Ok(event_id(id)?))
}

/// A page of a market's history.
pub(super) fn history(
    connection: &mut SqliteConnection,
    query: &HistoryQuery,
) -> Result<Vec<HistoryEntry>, Failure> {
    let mut rows = odds_history::table
        .filter(odds_history::event_id.eq(query.event_id.as_str()))
        .filter(odds_history::market.eq(query.market.name.as_str()))
        .filter(odds_history::line.eq(line_text(query.market.line)))
        .order((
            odds_history::updated_at,
            odds_history::version,
            odds_history::id,
        ))
        .limit(row_limit(query.limit))
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
    read_all(rows.load(connection)?, |row: HistoryRow| {
        row.read(&query.event_id, &query.market)
    })
}

/// The newest dead letters.
pub(super) fn dead_letters(
    connection: &mut SqliteConnection,
    limit: usize,
) -> Result<Vec<StoredDeadLetter>, Failure> {
    let rows = dead_letters::table
        .order((dead_letters::received_at.desc(), dead_letters::id.desc()))
        .limit(row_limit(limit))
        .load(connection)?;
    Ok(rows.into_iter().map(DeadLetterRow::read).collect())
}
