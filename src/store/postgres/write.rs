//! Writes: batches of updates, dead letters, and pruning.

use std::borrow::Cow;

use diesel::pg::PgConnection;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text, Timestamptz};

use super::StoreError;
use super::statement::statement;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::odds::update::{OddsUpdate, PositionedUpdate};
use crate::domain::timestamp::Timestamp;
use crate::store::batch::{Batch, Folded, Heads, PRUNE_LIMIT};
use crate::store::failure::Failure;
use crate::store::rows::odds::{EventHeadRow, MarketHeadRow};
use crate::store::rows::{line_text, pg_time};
use crate::store::{BatchReport, PruneReport};

/// A batch of more events takes a single lock for all: the lock table of the server has room for a
/// few thousand.
const MAX_LOCKS: usize = 1_000;

statement! {
    /// Locks each event until the end of the transaction. The locks are taken in the order of their
    /// numbers, so that two writers cannot deadlock. Advisory locks also cover events without a
    /// row, which `FOR UPDATE` would not. Before that, it takes a share of the lock that large
    /// batches take exclusively; its number is "oddsbatc" in ASCII.
    LockEvents<'a>:
    "SELECT pg_advisory_xact_lock_shared(8026650882615637091)::text
    UNION ALL
    SELECT pg_advisory_xact_lock(number)::text FROM (
        SELECT DISTINCT hashtextextended(event_id, 0) AS number FROM unnest(" { events: &'a [&'a str] as Array<Text> }
    ") AS wanted (event_id) ORDER BY number
    ) AS numbers"
}

statement! {
    /// Excludes all other writers until the end of the transaction.
    LockAll:
    "SELECT pg_advisory_xact_lock(8026650882615637091)"
}

statement! {
    /// The last sequence number of each event in the list, and its number of markets. `place`
    /// counts from 1.
    LastSeqs<'a> returns (BigInt, BigInt, BigInt):
    "SELECT wanted.place, last.seq, last.markets
    FROM unnest(" { events: &'a [&'a str] as Array<Text> } ") WITH ORDINALITY AS wanted (event_id, place)
    CROSS JOIN LATERAL (
        SELECT max(current.seq) AS seq, count(*) AS markets
        FROM odds_current AS current WHERE current.event_id = wanted.event_id
    ) AS last
    WHERE last.seq IS NOT NULL"
}

statement! {
    /// The revision of each market in the list.
    Revisions<'a> returns (BigInt, Timestamptz, BigInt):
    "SELECT wanted.place, current.updated_at, current.version
    FROM unnest(" { events: &'a [&'a str] as Array<Text> } ", " { markets: &'a [&'a str] as Array<Text> } ", "
        { lines: &'a [String] as Array<Text> } ") WITH ORDINALITY AS wanted (event_id, market, line, place)
    JOIN odds_current AS current USING (event_id, market, line)"
}

statement! {
    /// Writes the rows. The decision was made under the locks; the `WHERE` clause guarantees in
    /// addition that an older state never replaces a newer one, unless the time of the stored state
    /// is implausible. An update without a sport or a start time keeps the known ones.
    UpsertCurrent<'a>:
    "INSERT INTO odds_current (event_id, market, line, status, in_play, selections, source, version, updated_at,
        home_team, away_team, seq, sport, start_time)
    SELECT event_id, market, line, status, in_play, selections::jsonb, source, version, updated_at,
        home_team, away_team, seq, sport, start_time
    FROM unnest(" { event_id: &'a [&'a str] as Array<Text> } ", " { market: &'a [&'a str] as Array<Text> } ", "
        { line: &'a [&'a str] as Array<Text> } ", " { status: &'a [&'a str] as Array<Text> } ", "
        { in_play: &'a [bool] as Array<Bool> } ", " { selections: &'a [&'a str] as Array<Text> } ", "
        { source: &'a [&'a str] as Array<Text> } ", " { version: &'a [i64] as Array<BigInt> } ", "
        { updated_at: &'a [PgTimestamp] as Array<Timestamptz> } ", " { home_team: &'a [&'a str] as Array<Text> } ", "
        { away_team: &'a [&'a str] as Array<Text> } ", " { seq: &'a [i64] as Array<BigInt> } ", "
        { sport: &'a [Option<&'a str>] as Array<Nullable<Text>> } ", "
        { start_time: &'a [Option<PgTimestamp>] as Array<Nullable<Timestamptz>> }
    ") AS taken (event_id, market, line, status, in_play, selections, source, version, updated_at,
        home_team, away_team, seq, sport, start_time)
    ON CONFLICT (event_id, market, line) DO UPDATE SET
        status = excluded.status, in_play = excluded.in_play, selections = excluded.selections,
        source = excluded.source, version = excluded.version, updated_at = excluded.updated_at,
        home_team = excluded.home_team, away_team = excluded.away_team, seq = excluded.seq,
        sport = coalesce(excluded.sport, odds_current.sport),
        start_time = coalesce(excluded.start_time, odds_current.start_time)
    WHERE (excluded.updated_at, excluded.version) > (odds_current.updated_at, odds_current.version)
        OR odds_current.updated_at > " { latest: PgTimestamp as Timestamptz } ""
}

statement! {
    /// Gives stored states larger sequence numbers.
    RaiseSeqs<'a>:
    "UPDATE odds_current SET seq = raised.seq
    FROM unnest(" { event_id: &'a [&'a str] as Array<Text> } ", " { market: &'a [&'a str] as Array<Text> } ", "
        { line: &'a [&'a str] as Array<Text> } ", " { seq: &'a [i64] as Array<BigInt> }
    ") AS raised (event_id, market, line, seq)
    WHERE odds_current.event_id = raised.event_id AND odds_current.market = raised.market
        AND odds_current.line = raised.line AND odds_current.seq < raised.seq"
}

statement! {
    /// Appends the rows that are not stored yet, in the order of the batch.
    AppendHistory<'a>:
    "INSERT INTO odds_history (event_id, market, line, status, in_play, selections, source, version, updated_at,
        recorded_at)
    SELECT event_id, market, line, status, in_play, selections::jsonb, source, version, updated_at, "
        { now: PgTimestamp as Timestamptz }
    " FROM unnest(" { event_id: &'a [&'a str] as Array<Text> } ", " { market: &'a [&'a str] as Array<Text> } ", "
        { line: &'a [&'a str] as Array<Text> } ", " { status: &'a [&'a str] as Array<Text> } ", "
        { in_play: &'a [bool] as Array<Bool> } ", " { selections: &'a [&'a str] as Array<Text> } ", "
        { source: &'a [&'a str] as Array<Text> } ", " { version: &'a [i64] as Array<BigInt> } ", "
        { updated_at: &'a [PgTimestamp] as Array<Timestamptz> }
    ") AS taken (event_id, market, line, status, in_play, selections, source, version, updated_at)
    ON CONFLICT (event_id, market, line, updated_at, version, source) DO NOTHING"
}

statement! {
    /// Appends dead letters.
    AppendDeadLetters<'a>:
    "INSERT INTO dead_letters (received_at, origin, reason, detail, raw)
    SELECT * FROM unnest(" { received_at: &'a [PgTimestamp] as Array<Timestamptz> } ", "
        { origin: &'a [Cow<'a, str>] as Array<Text> } ", " { reason: &'a [Cow<'a, str>] as Array<Text> } ", "
        { detail: &'a [Cow<'a, str>] as Array<Text> } ", " { raw: &'a [&'a [u8]] as Array<Binary> } ")"
}

statement! {
    /// Removes the oldest rows of the history. Skips rows that another process is removing: two
    /// processes that wait for each other's rows could deadlock.
    PruneHistory:
    "DELETE FROM odds_history WHERE id = ANY (ARRAY(
        SELECT id FROM odds_history WHERE recorded_at < " { before: PgTimestamp as Timestamptz }
    " ORDER BY recorded_at, id LIMIT " { limit: i64 as BigInt } " FOR UPDATE SKIP LOCKED))"
}

statement! {
    /// Removes the oldest dead letters, in the same way.
    PruneDeadLetters:
    "DELETE FROM dead_letters WHERE id = ANY (ARRAY(
        SELECT id FROM dead_letters WHERE received_at < " { before: PgTimestamp as Timestamptz }
    " ORDER BY received_at, id LIMIT " { limit: i64 as BigInt } " FOR UPDATE SKIP LOCKED))"
}

/// The columns of a row that must be converted to text.
struct Texts {
    line: String,
    selections: String,
}

impl Texts {
    fn of(update: &OddsUpdate) -> Result<Texts, StoreError> {
        let selections = serde_json::to_string(&update.selections).map_err(|error| {
            StoreError::Refused(format!("cannot serialise selections as JSON: {error}"))
        })?;
        Ok(Texts {
            line: line_text(update.market.line),
            selections,
        })
    }
}

/// Rows as one statement takes them: one array per column.
#[derive(Default)]
struct Columns<'a> {
    event_id: Vec<&'a str>,
    market: Vec<&'a str>,
    line: Vec<&'a str>,
    status: Vec<&'a str>,
    in_play: Vec<bool>,
    selections: Vec<&'a str>,
    source: Vec<&'a str>,
    version: Vec<i64>,
    updated_at: Vec<PgTimestamp>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, update: &'a OddsUpdate, texts: &'a Texts) {
        self.event_id.push(update.event_id.as_str());
        self.market.push(update.market.name.as_str());
        self.line.push(&texts.line);
        self.status.push(update.status.as_str());
        self.in_play.push(update.in_play);
        self.selections.push(&texts.selections);
        self.source.push(update.source.as_str());
        self.version.push(update.revision.version);
        self.updated_at.push(pg_time(update.revision.updated_at));
    }
}

/// Writes a batch within a transaction. Any update replaces a state with a time after
/// `latest`.
pub(super) fn batch(
    connection: &mut PgConnection,
    batch: &Batch<'_>,
    now: Timestamp,
    latest: Timestamp,
) -> Result<BatchReport, Failure> {
    let updates = batch.updates();
    let events: Vec<_> = batch.events().iter().map(|event| event.as_str()).collect();
    if events.len() > MAX_LOCKS {
        LockAll {}.execute(connection)?;
    } else {
        LockEvents { events: &events }.execute(connection)?;
    }
    let folded = batch.fold(heads(connection, batch, &events, latest)?)?;
    let texts = updates
        .iter()
        .map(|one| Texts::of(&one.update))
        .collect::<Result<Vec<_>, _>>()?;
    if folded.applied > 0 {
        upsert(connection, updates, &texts, &folded, latest)?;
    }
    if !folded.raised.is_empty() {
        raise(connection, updates, &texts, &folded.raised)?;
    }
    let mut all = Columns::default();
    updates
        .iter()
        .zip(&texts)
        .for_each(|(one, texts)| all.push(&one.update, texts));
    let append = AppendHistory {
        now: pg_time(now),
        event_id: &all.event_id,
        market: &all.market,
        line: &all.line,
        status: &all.status,
        in_play: &all.in_play,
        selections: &all.selections,
        source: &all.source,
        version: &all.version,
        updated_at: &all.updated_at,
    };
    Ok(BatchReport {
        applied: folded.applied,
        recorded: append.execute(connection)?,
    })
}

fn heads(
    connection: &mut PgConnection,
    batch: &Batch<'_>,
    events: &[&str],
    latest: Timestamp,
) -> Result<Heads, Failure> {
    let mut heads = batch.no_heads();
    for row in (LastSeqs { events }).load::<EventHeadRow>(connection)? {
        row.read_into(&mut heads)?;
    }
    let mut market_events = Vec::new();
    let mut markets = Vec::new();
    let mut lines = Vec::new();
    for (event, market) in batch.markets() {
        market_events.push(event.as_str());
        markets.push(market.name.as_str());
        lines.push(line_text(market.line));
    }
    let revisions = Revisions {
        events: &market_events,
        markets: &markets,
        lines: &lines,
    };
    for row in revisions.load::<MarketHeadRow>(connection)? {
        row.read_into(&mut heads, latest);
    }
    Ok(heads)
}

fn raise(
    connection: &mut PgConnection,
    updates: &[PositionedUpdate],
    texts: &[Texts],
    raised: &[(usize, i64)],
) -> Result<usize, Failure> {
    let mut rows = Columns::default();
    for (index, _) in raised {
        rows.push(&updates[*index].update, &texts[*index]);
    }
    let seqs: Vec<_> = raised.iter().map(|(_, seq)| *seq).collect();
    let raise = RaiseSeqs {
        event_id: &rows.event_id,
        market: &rows.market,
        line: &rows.line,
        seq: &seqs,
    };
    Ok(raise.execute(connection)?)
}

fn upsert(
    connection: &mut PgConnection,
    updates: &[PositionedUpdate],
    texts: &[Texts],
    folded: &Folded<'_>,
    latest: Timestamp,
) -> Result<usize, Failure> {
    let mut rows = Columns::default();
    let mut home_team = Vec::new();
    let mut away_team = Vec::new();
    let mut seqs = Vec::new();
    let mut sport = Vec::new();
    let mut start_time = Vec::new();
    let states = folded.current.iter().zip(&folded.details);
    for ((PositionedUpdate { update, .. }, texts), (seq, details)) in
        updates.iter().zip(texts).zip(states)
    {
        if let Some(seq) = seq {
            rows.push(update, texts);
            home_team.push(update.home_team.as_str());
            away_team.push(update.away_team.as_str());
            seqs.push(*seq);
            sport.push(details.sport);
            start_time.push(details.start_time.map(pg_time));
        }
    }
    let upsert = UpsertCurrent {
        event_id: &rows.event_id,
        market: &rows.market,
        line: &rows.line,
        status: &rows.status,
        in_play: &rows.in_play,
        selections: &rows.selections,
        source: &rows.source,
        version: &rows.version,
        updated_at: &rows.updated_at,
        home_team: &home_team,
        away_team: &away_team,
        seq: &seqs,
        sport: &sport,
        start_time: &start_time,
        latest: pg_time(latest),
    };
    Ok(upsert.execute(connection)?)
}

/// Makes a text storable in PostgreSQL, which does not allow U+0000. An error text may repeat that
/// character from the faulty bytes, and a dead letter that can never be stored would block all
/// later ones. The raw bytes stay unchanged. Updates need no such conversion: the decoder rejects
/// control characters.
fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Stores dead letters.
pub(super) fn dead_letters(
    connection: &mut PgConnection,
    letters: &[DeadLetter],
) -> Result<(), Failure> {
    let texts = |field: fn(&DeadLetter) -> &str| {
        letters
            .iter()
            .map(|one| storable(field(one)))
            .collect::<Vec<_>>()
    };
    let append = AppendDeadLetters {
        received_at: &letters
            .iter()
            .map(|one| pg_time(one.received_at))
            .collect::<Vec<_>>(),
        origin: &texts(|one| &one.origin),
        // The column requires a reason. A producer that gives none must not block the letters of
        // others.
        reason: &texts(|one| {
            if one.reason.is_empty() {
                "unknown"
            } else {
                &one.reason
            }
        }),
        detail: &texts(|one| &one.detail),
        raw: &letters
            .iter()
            .map(|one| one.raw.as_ref())
            .collect::<Vec<_>>(),
    };
    append.execute(connection)?;
    Ok(())
}

/// Removes the oldest rows.
pub(super) fn prune(
    connection: &mut PgConnection,
    history_before: Timestamp,
    dead_letters_before: Timestamp,
) -> Result<PruneReport, Failure> {
    let limit = PRUNE_LIMIT as i64;
    Ok(PruneReport {
        history: PruneHistory {
            before: pg_time(history_before),
            limit,
        }
        .execute(connection)?,
        dead_letters: PruneDeadLetters {
            before: pg_time(dead_letters_before),
            limit,
        }
        .execute(connection)?,
    })
}
