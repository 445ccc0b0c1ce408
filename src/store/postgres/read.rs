//! Queries.

use std::sync::Arc;

use diesel::pg::PgConnection;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text, Timestamptz};

use super::statement::statement;
use crate::domain::ids::{EventId, Source};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::{OddsUpdate, Revision};
use crate::store::events::{EventPage, EventQuery, NamePart};
use crate::store::failure::Failure;
use crate::store::rows::odds::{
    DeadLetterRow, EventIdRow, EventRow, HistoryRow, event_id, read_markets,
    read_unfinished_markets,
};
use crate::store::rows::{line_text, pg_time, read_all, row_limit};
use crate::store::{
    HistoryCursor, HistoryEntry, HistoryQuery, MarketsOfSourceQuery, StoredDeadLetter,
};

statement! {
    /// The markets of an event.
    EventMarkets<'a> returns (Text, Text, Text, Bool, Text, Text, BigInt, Timestamptz, Text, Text, BigInt):
    "SELECT market, line, status, in_play, selections::text, source, version, updated_at, home_team, away_team, seq
    FROM odds_current WHERE event_id = " { event_id: &'a str as Text } ""
}

statement! {
    /// The identity of the sequence numbers.
    StreamEpoch returns (Text): "SELECT epoch FROM stream_epoch"
}

statement! {
    /// Open or suspended markets of a source. The literal statuses are the condition of its index.
    UnfinishedMarkets<'a> returns (Text, (Text, Text, Text, Bool, Text, Text, BigInt, Timestamptz, Text, Text, BigInt)):
    "SELECT event_id, market, line, status, in_play, selections::text, source, version, updated_at,
        home_team, away_team, seq
    FROM odds_current
    WHERE status IN ('open', 'suspended') AND source = " { source: &'a str as Text } "
        AND status = " { status: &'a str as Text } " AND (event_id, market, line) > (" { event_id: &'a str as Text } ", " { market: &'a str as Text } ", "
        { line: &'a str as Text } ")
    ORDER BY event_id, market, line LIMIT " { limit: i64 as BigInt } ""
}

statement! {
    /// The sources of open and suspended markets, by steps within the index, as for [`EventIds`].
    UnfinishedSources returns (Text):
    "WITH RECURSIVE step (source) AS (
        SELECT min(source) FROM odds_current WHERE status IN ('open', 'suspended')
        UNION ALL
        SELECT (SELECT min(source) FROM odds_current
            WHERE status IN ('open', 'suspended') AND source > step.source)
        FROM step WHERE source IS NOT NULL
    )
    SELECT source FROM step WHERE source IS NOT NULL"
}

statement! {
    /// The ids of events. The query steps from one event to the next within the index of the key,
    /// because `DISTINCT` of PostgreSQL would read every market in the table.
    EventIds<'a> returns (Text):
    "WITH RECURSIVE page (event_id, place) AS (
        SELECT min(event_id), 1::bigint FROM odds_current WHERE event_id > " { after: &'a str as Text } "
        UNION ALL
        SELECT (SELECT min(event_id) FROM odds_current WHERE event_id > page.event_id), place + 1
        FROM page WHERE event_id IS NOT NULL AND place < " { limit: i64 as BigInt } "
    )
    SELECT event_id FROM page WHERE event_id IS NOT NULL ORDER BY place"
}

statement! {
    /// The ids of events with an unfinished market, read in the same way from their own index.
    UnfinishedEventIds<'a> returns (Text):
    "WITH RECURSIVE page (event_id, place) AS (
        SELECT min(event_id), 1::bigint FROM odds_current
        WHERE status IN ('open', 'suspended') AND event_id > " { after: &'a str as Text } "
        UNION ALL
        SELECT (
            SELECT min(event_id) FROM odds_current
            WHERE status IN ('open', 'suspended') AND event_id > page.event_id
        ), place + 1
        FROM page WHERE event_id IS NOT NULL AND place < " { limit: i64 as BigInt } "
    )
    SELECT event_id FROM page WHERE event_id IS NOT NULL ORDER BY place"
}

statement! {
    /// The events of a list that pass the filters. The team names come from the market that changed
    /// last; the sport and the start time are the latest known ones.
    Events<'a> returns (Text, Text, Text, Nullable<Text>, Nullable<Timestamptz>, Text, BigInt):
    "SELECT wanted.event_id, event.home_team, event.away_team, event.sport, event.start_time, event.status,
        event.open_markets
    FROM unnest(" { ids: &'a [String] as Array<Text> } ") WITH ORDINALITY AS wanted (event_id, place)
    CROSS JOIN LATERAL (
        SELECT (array_agg(home_team ORDER BY seq DESC))[1] AS home_team,
            (array_agg(away_team ORDER BY seq DESC))[1] AS away_team,
            (array_agg(sport ORDER BY seq DESC) FILTER (WHERE sport IS NOT NULL))[1] AS sport,
            (array_agg(start_time ORDER BY seq DESC) FILTER (WHERE start_time IS NOT NULL))[1] AS start_time,
            CASE WHEN NOT bool_or(status IN ('open', 'suspended')) THEN 'ended'
                WHEN bool_or(in_play) THEN 'live' ELSE 'upcoming' END AS status,
            count(*) FILTER (WHERE status = 'open') AS open_markets
        FROM odds_current AS market WHERE market.event_id = wanted.event_id
        HAVING count(*) > 0
    ) AS event
    WHERE event.status = ANY (" { statuses: &'a [&'a str] as Array<Text> } ")
        AND " { sport: &'a str as Text } " IN ('', event.sport)
        AND coalesce(event.start_time >= " { from: PgTimestamp as Timestamptz }
    " AND event.start_time < " { to: PgTimestamp as Timestamptz } ", " { untimed: bool as Bool } ")
        AND (event.home_team || E'\\n' || event.away_team) ~ " { name: &'a str as Text } "
    ORDER BY wanted.place"
}

statement! {
    /// A page of a market's history. Its start is one comparison of the columns that the index is
    /// ordered by, so that each page starts where the previous one ended.
    HistoryPage<'a> returns (BigInt, Text, Bool, Text, Text, BigInt, Timestamptz):
    "SELECT id, status, in_play, selections::text, source, version, updated_at
    FROM odds_history
    WHERE event_id = " { event_id: &'a str as Text } " AND market = " { market: &'a str as Text }
    " AND line = " { line: &'a str as Text } " AND (updated_at, version, id) > (" { time: PgTimestamp as Timestamptz }
    ", " { version: i64 as BigInt } ", " { row: i64 as BigInt } ") AND updated_at < " { to: PgTimestamp as Timestamptz }
    " ORDER BY updated_at, version, id LIMIT " { limit: i64 as BigInt } ""
}

statement! {
    /// The newest dead letters.
    NewestDeadLetters returns (BigInt, Timestamptz, Text, Text, Text, Binary):
    "SELECT id, received_at, origin, reason, detail, raw
    FROM dead_letters ORDER BY received_at DESC, id DESC LIMIT " { limit: i64 as BigInt } ""
}

/// Earlier and later than every time: PostgreSQL's `-infinity` and `infinity`.
const EARLIEST: PgTimestamp = PgTimestamp(i64::MIN);
const LATEST: PgTimestamp = PgTimestamp(i64::MAX);

/// The markets of an event, ordered by key.
pub(super) fn event(
    connection: &mut PgConnection,
    event_id: &EventId,
) -> Result<Vec<Arc<MarketState>>, Failure> {
    let statement = EventMarkets {
        event_id: event_id.as_str(),
    };
    read_markets(statement.load(connection)?, event_id)
}

/// The identity of the sequence numbers.
pub(super) fn stream_epoch(connection: &mut PgConnection) -> Result<String, Failure> {
    let (epoch,): (String,) = (&StreamEpoch {}).get_result(connection)?;
    Ok(epoch)
}

/// The sources of the open and suspended markets.
pub(super) fn sources_of_unfinished_markets(
    connection: &mut PgConnection,
) -> Result<Vec<Source>, Failure> {
    let rows: Vec<(String,)> = (UnfinishedSources {}).load(connection)?;
    let sources = rows.iter().filter_map(|(source,)| Source::new(source).ok());
    Ok(sources.collect())
}

/// A page of a source's open or suspended markets.
pub(super) fn unfinished_markets(
    connection: &mut PgConnection,
    query: &MarketsOfSourceQuery,
) -> Result<Vec<OddsUpdate>, Failure> {
    let (event_id, market, line) = query.after_texts();
    let page = UnfinishedMarkets {
        source: query.source.as_str(),
        status: query.status.as_str(),
        event_id,
        market,
        line: &line,
        limit: row_limit(query.limit),
    };
    Ok(read_unfinished_markets(page.load(connection)?))
}

/// A page of events.
pub(super) fn events(
    connection: &mut PgConnection,
    query: &EventQuery,
) -> Result<EventPage, Failure> {
    let candidates = |connection: &mut PgConnection, after: Option<&EventId>, limit| {
        let after = after.map_or("", EventId::as_str);
        let limit = row_limit(limit);
        let ids: Vec<EventIdRow> = if query.only_unfinished() {
            UnfinishedEventIds { after, limit }.load(connection)?
        } else {
            EventIds { after, limit }.load(connection)?
        };
        Ok(ids.into_iter().map(|row| row.event_id).collect())
    };
    let statuses = query.statuses();
    let name = query.name.as_ref().map(NamePart::regex).unwrap_or_default();
    let read = |connection: &mut PgConnection, ids: &[String]| {
        let events = Events {
            ids,
            statuses: &statuses,
            sport: query.sport_or_empty(),
            from: query.from.map_or(EARLIEST, pg_time),
            to: query.to.map_or(LATEST, pg_time),
            untimed: query.includes_untimed(),
            name: &name,
        };
        read_all(events.load(connection)?, EventRow::read)
    };
    query.page(connection, candidates, read, |id| Ok(event_id(id)?))
}

/// A page of a market's history.
pub(super) fn history(
    connection: &mut PgConnection,
    query: &HistoryQuery,
) -> Result<Vec<HistoryEntry>, Failure> {
    let line = line_text(query.market.line);
    // Row numbers are positive, so this sorts before all rows of its time.
    let from = query.from.map(|from| (pg_time(from), i64::MIN, i64::MIN));
    let after = query.after.map(|HistoryCursor { revision, row }| {
        let Revision {
            updated_at,
            version,
        } = revision;
        (pg_time(updated_at), version, row)
    });
    let (time, version, row) = from
        .into_iter()
        .chain(after)
        .max_by_key(|place| (place.0.0, place.1, place.2))
        .unwrap_or((EARLIEST, i64::MIN, i64::MIN));
    let page = HistoryPage {
        event_id: query.event_id.as_str(),
        market: query.market.name.as_str(),
        line: &line,
        time,
        version,
        row,
        to: query.to.map_or(LATEST, pg_time),
        limit: row_limit(query.limit),
    };
    read_all(page.load(connection)?, |row: HistoryRow| {
        row.read(&query.event_id, &query.market)
    })
}

/// The newest dead letters.
pub(super) fn dead_letters(
    connection: &mut PgConnection,
    limit: usize,
) -> Result<Vec<StoredDeadLetter>, Failure> {
    let statement = NewestDeadLetters {
        limit: row_limit(limit),
    };
    let rows = statement.load(connection)?;
    Ok(rows.into_iter().map(DeadLetterRow::read).collect())
}
