//! Pending deliveries: outbox rows for the bus, and cancel requests for the supplier.

use diesel::dsl::{count_star, min, sql};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Integer, Text};
use diesel::sqlite::SqliteConnection;

use super::{StoreError, contradiction, count, optional, parsed};
use crate::domain::bets::bet::BetId;
use crate::domain::timestamp::Timestamp;
use crate::store::money::{Cancel, OutboxDepth, OutboxMessage, OutboxRow, OutboxTopic};
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::read::rows_at_most;
use crate::store::sqlite::schema::{outbox, supplier_cancels};
use crate::store::sqlite::{time, unreadable};

/// Adds a record to the outbox and returns its row number.
pub(super) fn put(
    connection: &mut SqliteConnection,
    topic: OutboxTopic,
    bet_id: BetId,
    notice: &OutboxMessage,
    at: Timestamp,
) -> Result<i64, Failure> {
    diesel::insert_into(outbox::table)
        .values((
            outbox::topic.eq(topic.as_str()),
            outbox::key.eq(bet_id.to_string()),
            outbox::payload.eq(&notice.payload),
            outbox::leased_until.eq(notice.leased_until.micros()),
            outbox::created_at.eq(at.micros()),
        ))
        .execute(connection)?;
    Ok(diesel::select(sql::<BigInt>("last_insert_rowid()")).get_result(connection)?)
}

const TAKE_OUTBOX: &str = "
    UPDATE outbox SET leased_until = ?
    WHERE id IN (SELECT id FROM outbox WHERE leased_until <= ? ORDER BY id LIMIT ?)
    RETURNING id, topic, key, payload";

#[derive(QueryableByName)]
struct TakenRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    topic: String,
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Text)]
    payload: String,
}

impl TakenRow {
    fn read(self) -> Result<OutboxRow, StoreError> {
        let topic = self.topic.parse();
        let topic = topic.map_err(|_| unreadable("topic", &self.topic))?;
        Ok(OutboxRow {
            id: self.id,
            topic,
            key: self.key,
            payload: self.payload,
        })
    }
}

/// Leases rows whose lease has expired.
pub(super) fn take_outbox(
    connection: &mut SqliteConnection,
    at: Timestamp,
    leased_until: Timestamp,
    limit: usize,
) -> Result<Vec<OutboxRow>, Failure> {
    let rows = sql_query(TAKE_OUTBOX)
        .bind::<BigInt, _>(leased_until.micros())
        .bind::<BigInt, _>(at.micros())
        .bind::<BigInt, _>(rows_at_most(limit))
        .load::<TakenRow>(connection)?;
    let mut rows = rows
        .into_iter()
        .map(TakenRow::read)
        .collect::<Result<Vec<_>, _>>()?;
    // The result of RETURNING has no defined order.
    rows.sort_unstable_by_key(|row| row.id);
    Ok(rows)
}

/// Removes rows whose records are on the bus.
pub(super) fn published(connection: &mut SqliteConnection, rows: &[i64]) -> Result<(), Failure> {
    let rows = serde_json::to_string(rows).map_err(contradiction)?;
    sql_query("DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?))")
        .bind::<Text, _>(rows)
        .execute(connection)?;
    Ok(())
}

/// The number of rows in the outbox, and the oldest time.
pub(super) fn outbox_depth(connection: &mut SqliteConnection) -> Result<OutboxDepth, Failure> {
    let (rows, oldest) = outbox::table
        .select((count_star(), min(outbox::created_at)))
        .first::<(i64, Option<i64>)>(connection)?;
    Ok(OutboxDepth {
        rows: count("outbox", rows)?,
        oldest: optional(oldest, time)?,
    })
}

/// Adds a cancel request for a bet, due at once.
pub(super) fn order_cancel(
    connection: &mut SqliteConnection,
    bet_id: BetId,
    at: Timestamp,
) -> Result<(), Failure> {
    diesel::insert_into(supplier_cancels::table)
        .values((
            supplier_cancels::bet_id.eq(bet_id.to_string()),
            supplier_cancels::next_attempt_at.eq(at.micros()),
            supplier_cancels::created_at.eq(at.micros()),
        ))
        .execute(connection)?;
    Ok(())
}

const TAKE_CANCELS: &str = "
    UPDATE supplier_cancels SET attempts = attempts + 1, next_attempt_at = ?
    WHERE bet_id IN (
        SELECT bet_id FROM supplier_cancels WHERE done_at IS NULL AND next_attempt_at <= ?
        ORDER BY next_attempt_at, bet_id LIMIT ?)
    RETURNING bet_id, attempts";

#[derive(QueryableByName)]
struct CancelRow {
    #[diesel(sql_type = Text)]
    bet_id: String,
    #[diesel(sql_type = Integer)]
    attempts: i32,
}

impl CancelRow {
    fn read(self) -> Result<Cancel, StoreError> {
        let attempts =
            u32::try_from(self.attempts).map_err(|_| unreadable("attempts", self.attempts))?;
        Ok(Cancel {
            bet_id: parsed("bet_id", &self.bet_id)?,
            attempts,
        })
    }
}

/// Takes the cancel requests that are due.
pub(super) fn take_cancels(
    connection: &mut SqliteConnection,
    at: Timestamp,
    next_attempt_at: Timestamp,
    limit: usize,
) -> Result<Vec<Cancel>, Failure> {
    let rows = sql_query(TAKE_CANCELS)
        .bind::<BigInt, _>(next_attempt_at.micros())
        .bind::<BigInt, _>(at.micros())
        .bind::<BigInt, _>(rows_at_most(limit))
        .load::<CancelRow>(connection)?;
    let mut rows = rows
        .into_iter()
        .map(CancelRow::read)
        .collect::<Result<Vec<_>, _>>()?;
    rows.sort_unstable_by_key(|cancel| cancel.bet_id);
    Ok(rows)
}

/// Records that the supplier has cancelled a bet.
pub(super) fn cancelled(
    connection: &mut SqliteConnection,
    bet_id: BetId,
    at: Timestamp,
) -> Result<(), Failure> {
    diesel::update(supplier_cancels::table.find(bet_id.to_string()))
        .filter(supplier_cancels::done_at.is_null())
        .set(supplier_cancels::done_at.eq(at.micros()))
        .execute(connection)?;
    Ok(())
}

/// Number of bets that are still to be cancelled at the supplier.
pub(super) fn open_cancels(connection: &mut SqliteConnection) -> Result<u64, Failure> {
    let open: i64 = supplier_cancels::table
        .filter(supplier_cancels::done_at.is_null())
        .count()
        .get_result(connection)?;
    Ok(count("supplier_cancels", open)?)
}
