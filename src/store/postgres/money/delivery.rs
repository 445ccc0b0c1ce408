//! Pending deliveries: outbox rows for the bus, and cancel requests for the supplier.

use diesel::pg::PgConnection;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

use super::size;
use crate::domain::bets::bet::BetId;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::money::{Cancel, OutboxDepth, OutboxRow};
use crate::store::postgres::error::Failure;
use crate::store::postgres::statement::statement;
use crate::store::postgres::{stamp, time, unreadable};

statement! {
    /// Takes rows whose lease has expired, skipping rows that another process is taking at the same
    /// time.
    TakeOutbox returns (BigInt, Text, Text, Text):
    "WITH due AS (
        SELECT id FROM outbox WHERE leased_until <= " { now: PgTimestamp as Timestamptz }
    " ORDER BY id LIMIT " { limit: i64 as BigInt } " FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE outbox SET leased_until = " { leased_until: PgTimestamp as Timestamptz }
    " FROM due WHERE outbox.id = due.id RETURNING outbox.id, topic, key, payload
    )
    SELECT id, topic, key, payload FROM taken ORDER BY id"
}

statement! {
    /// Removes published rows.
    Published<'a>:
    "DELETE FROM outbox WHERE id = ANY (" { ids: &'a [i64] as Array<BigInt> } ")"
}

statement! {
    /// The number of rows in the outbox, and the oldest time.
    Depth returns (BigInt, Nullable<Timestamptz>):
    "SELECT count(*), min(created_at) FROM outbox"
}

statement! {
    /// Takes the cancel requests that are due.
    TakeCancels returns (SqlUuid, Integer):
    "WITH due AS (
        SELECT bet_id FROM supplier_cancels
        WHERE done_at IS NULL AND next_attempt_at <= " { now: PgTimestamp as Timestamptz }
    " ORDER BY next_attempt_at LIMIT " { limit: i64 as BigInt } " FOR UPDATE SKIP LOCKED
    )
    UPDATE supplier_cancels SET attempts = attempts + 1, next_attempt_at = " { next: PgTimestamp as Timestamptz }
    " FROM due WHERE supplier_cancels.bet_id = due.bet_id
    RETURNING supplier_cancels.bet_id, attempts"
}

statement! {
    /// Marks a cancel request as done.
    Cancelled:
    "UPDATE supplier_cancels SET done_at = " { now: PgTimestamp as Timestamptz }
    " WHERE done_at IS NULL AND bet_id = " { bet: Uuid as SqlUuid } ""
}

statement! {
    /// Cancel requests that are not done.
    OpenCancels returns (BigInt):
    "SELECT count(*) FROM supplier_cancels WHERE done_at IS NULL"
}

pub(super) fn take(
    connection: &mut PgConnection,
    at: Timestamp,
    leased_until: Timestamp,
    limit: usize,
) -> Result<Vec<OutboxRow>, Failure> {
    type Row = (i64, String, String, String);
    let statement = TakeOutbox {
        now: stamp(at),
        limit: size(limit),
        leased_until: stamp(leased_until),
    };
    let read = |(id, topic, key, payload): Row| {
        let topic = topic.parse().map_err(|_| unreadable("topic", topic))?;
        Ok::<_, StoreError>(OutboxRow {
            id,
            topic,
            key,
            payload,
        })
    };
    Ok(statement
        .load::<Row>(connection)?
        .into_iter()
        .map(read)
        .collect::<Result<_, _>>()?)
}

pub(super) fn published(connection: &mut PgConnection, rows: &[i64]) -> Result<(), Failure> {
    Published { ids: rows }.execute(connection)?;
    Ok(())
}

pub(super) fn depth(connection: &mut PgConnection) -> Result<OutboxDepth, Failure> {
    let (rows, oldest) = Depth {}.get_result::<(i64, Option<PgTimestamp>)>(connection)?;
    Ok(OutboxDepth {
        rows: rows.unsigned_abs(),
        oldest: oldest.map(time).transpose()?,
    })
}

pub(super) fn take_cancels(
    connection: &mut PgConnection,
    at: Timestamp,
    next_attempt_at: Timestamp,
    limit: usize,
) -> Result<Vec<Cancel>, Failure> {
    let statement = TakeCancels {
        now: stamp(at),
        limit: size(limit),
        next: stamp(next_attempt_at),
    };
    let rows = statement.load::<(Uuid, i32)>(connection)?;
    Ok(rows
        .into_iter()
        .map(|(bet, attempts)| Cancel {
            bet_id: BetId(bet),
            attempts: attempts.unsigned_abs(),
        })
        .collect())
}

pub(super) fn cancelled(
    connection: &mut PgConnection,
    bet_id: BetId,
    at: Timestamp,
) -> Result<(), Failure> {
    Cancelled {
        now: stamp(at),
        bet: bet_id.0,
    }
    .execute(connection)?;
    Ok(())
}

pub(super) fn open_cancels(connection: &mut PgConnection) -> Result<u64, Failure> {
    Ok(OpenCancels {}
        .get_result::<(i64,)>(connection)?
        .0
        .unsigned_abs())
}
