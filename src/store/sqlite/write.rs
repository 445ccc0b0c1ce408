//! Writes: batches of updates, dead letters, and pruning.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::SqliteConnection;
use serde::Serialize;

use super::StoreError;
use super::schema::{dead_letters, odds_current};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::ids::{EventId, MarketName, Source};
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::{OddsUpdate, Selection};
use crate::domain::timestamp::Timestamp;
use crate::store::batch::{Batch, Details, Heads, PRUNE_LIMIT};
use crate::store::failure::Failure;
use crate::store::rows::line_text;
use crate::store::rows::odds::{EventHeadRow, MarketHeadRow};
use crate::store::{BatchReport, PruneReport};

/// The last sequence number of each event in the list, and its number of markets. `place` is the
/// event's position in the list, from 1.
const LAST_SEQS: &str = "
    SELECT wanted.key + 1 AS place, max(current.seq) AS seq, count(*) AS markets
    FROM jsonb_each(?) AS wanted CROSS JOIN odds_current AS current ON current.event_id = wanted.value
    GROUP BY wanted.key";

/// The revision of each market in the list of [event, market, line].
const REVISIONS: &str = "
    SELECT wanted.key + 1 AS place, current.updated_at, current.version
    FROM jsonb_each(?) AS wanted CROSS JOIN odds_current AS current
        ON current.event_id = wanted.value ->> 0
        AND current.market = wanted.value ->> 1
        AND current.line = wanted.value ->> 2";

/// Writes the rows that have a sequence number. The decision was made under the same lock; the
/// `WHERE` clause guarantees in addition that an older state never replaces a newer one, unless the
/// time of the stored state is implausible. An update without a sport or a start time keeps the
/// known ones.
pub(super) const UPSERT_CURRENT: &str = "
    INSERT INTO odds_current (event_id, market, line, status, in_play, selections, source, version, updated_at,
        home_team, away_team, seq, sport, start_time)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13
    FROM jsonb_each(?) WHERE value ->> 11 IS NOT NULL
    ON CONFLICT (event_id, market, line) DO UPDATE SET
        status = excluded.status, in_play = excluded.in_play, selections = excluded.selections,
        source = excluded.source, version = excluded.version, updated_at = excluded.updated_at,
        home_team = excluded.home_team, away_team = excluded.away_team, seq = excluded.seq,
        sport = coalesce(excluded.sport, sport), start_time = coalesce(excluded.start_time, start_time)
    WHERE (excluded.updated_at, excluded.version) > (odds_current.updated_at, odds_current.version)
        OR odds_current.updated_at > ?";

/// Appends the rows that are not stored yet, in the order of the batch. `WHERE true` lets SQLite
/// distinguish `ON CONFLICT` from the `ON` of a join.
const APPEND_HISTORY: &str = "
    INSERT INTO odds_history (event_id, market, line, status, in_play, selections, source, version, updated_at,
        recorded_at)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8, ?
    FROM jsonb_each(?) WHERE true
    ON CONFLICT (event_id, market, line, updated_at, version, source) DO NOTHING";

const PRUNE_HISTORY: &str = "
    DELETE FROM odds_history
    WHERE id IN (SELECT id FROM odds_history WHERE recorded_at < ? ORDER BY recorded_at, id LIMIT ?)";

const PRUNE_DEAD_LETTERS: &str = "
    DELETE FROM dead_letters
    WHERE id IN (SELECT id FROM dead_letters WHERE received_at < ? ORDER BY received_at, id LIMIT ?)";

/// A row of a batch. The batch is bound as one JSON text, with one statement per table, which is
/// many times faster than one statement per row. `jsonb_each` (SQLite 3.51, compiled in) takes half
/// the time of `json_each`, which serialises each row and parses it again.
#[derive(Serialize)]
struct Row<'a>(
    &'a EventId,
    &'a MarketName,
    String,
    MarketStatus,
    bool,
    &'a [Selection],
    &'a Source,
    i64,
    i64,
    &'a str,
    &'a str,
    Option<i64>,
    Option<&'a str>,
    Option<i64>,
);

impl<'a> Row<'a> {
    fn of(update: &'a OddsUpdate, seq: Option<i64>, details: Details<'a>) -> Row<'a> {
        Row(
            &update.event_id,
            &update.market.name,
            line_text(update.market.line),
            update.status,
            update.in_play,
            &update.selections,
            &update.source,
            update.revision.version,
            update.revision.updated_at.micros(),
            &update.home_team,
            &update.away_team,
            seq,
            details.sport,
            details.start_time.map(Timestamp::micros),
        )
    }
}

/// Writes a batch. Any update replaces a state with a time after `latest`.
pub(super) fn batch(
    connection: &mut SqliteConnection,
    batch: &Batch<'_>,
    now: Timestamp,
    latest: Timestamp,
) -> Result<BatchReport, Failure> {
    let updates = batch.updates();
    let folded = batch.fold(heads(connection, batch, latest)?)?;
    let states = folded.current.iter().zip(&folded.details);
    let rows = updates
        .iter()
        .zip(states)
        .map(|(one, (seq, details))| Row::of(&one.update, *seq, *details));
    let rows: Vec<_> = rows.collect();
    let rows = json(&rows)?;
    if folded.applied > 0 {
        let upsert = sql_query(UPSERT_CURRENT)
            .bind::<Text, _>(&rows)
            .bind::<BigInt, _>(latest.micros());
        upsert.execute(connection)?;
    }
    for (index, seq) in folded.raised {
        raise(connection, &updates[index].update, seq)?;
    }
    let append = sql_query(APPEND_HISTORY)
        .bind::<BigInt, _>(now.micros())
        .bind::<Text, _>(&rows);
    Ok(BatchReport {
        applied: folded.applied,
        recorded: append.execute(connection)?,
    })
}

/// Gives a stored state a larger sequence number, with one statement each: there are few.
fn raise(
    connection: &mut SqliteConnection,
    update: &OddsUpdate,
    seq: i64,
) -> Result<usize, Failure> {
    let market = odds_current::table.find((
        update.event_id.as_str(),
        update.market.name.as_str(),
        line_text(update.market.line),
    ));
    let raise = diesel::update(market.filter(odds_current::seq.lt(seq)));
    Ok(raise.set(odds_current::seq.eq(seq)).execute(connection)?)
}

fn heads(
    connection: &mut SqliteConnection,
    batch: &Batch<'_>,
    latest: Timestamp,
) -> Result<Heads, Failure> {
    let mut heads = batch.no_heads();
    let events = json(batch.events())?;
    for row in sql_query(LAST_SEQS)
        .bind::<Text, _>(events)
        .load::<EventHeadRow>(connection)?
    {
        row.read_into(&mut heads)?;
    }
    let markets: Vec<_> = batch
        .markets()
        .iter()
        .map(|(event, market)| (event, &market.name, line_text(market.line)))
        .collect();
    for row in sql_query(REVISIONS)
        .bind::<Text, _>(json(&markets)?)
        .load::<MarketHeadRow>(connection)?
    {
        row.read_into(&mut heads, latest);
    }
    Ok(heads)
}

pub(super) fn json(rows: &(impl Serialize + ?Sized)) -> Result<String, StoreError> {
    serde_json::to_string(rows).map_err(|error| {
        StoreError::Refused(format!("cannot serialise the batch as JSON: {error}"))
    })
}

#[derive(Insertable)]
#[diesel(table_name = dead_letters)]
struct NewDeadLetter<'a> {
    received_at: i64,
    origin: &'a str,
    reason: &'a str,
    detail: &'a str,
    raw: &'a [u8],
}

/// Stores dead letters with one statement each, since there are few.
pub(super) fn dead_letters(
    connection: &mut SqliteConnection,
    letters: &[DeadLetter],
) -> Result<(), Failure> {
    for DeadLetter {
        received_at,
        origin,
        reason,
        detail,
        raw,
    } in letters
    {
        diesel::insert_into(dead_letters::table)
            .values(NewDeadLetter {
                received_at: received_at.micros(),
                origin,
                reason,
                detail,
                raw,
            })
            .execute(connection)?;
    }
    Ok(())
}

/// Removes the oldest rows.
pub(super) fn prune(
    connection: &mut SqliteConnection,
    history_before: Timestamp,
    dead_letters_before: Timestamp,
) -> Result<PruneReport, Failure> {
    let mut remove = |sql: &str, before: Timestamp| {
        sql_query(sql)
            .bind::<BigInt, _>(before.micros())
            .bind::<BigInt, _>(PRUNE_LIMIT as i64)
            .execute(connection)
    };
    Ok(PruneReport {
        history: remove(PRUNE_HISTORY, history_before)?,
        dead_letters: remove(PRUNE_DEAD_LETTERS, dead_letters_before)?,
    })
}
