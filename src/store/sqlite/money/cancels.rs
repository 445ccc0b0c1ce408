//! Cancel requests to the supplier.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text};
use diesel::sqlite::SqliteConnection;

use crate::domain::bets::bet::BetId;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::{Cancel, CancelQueue};
use crate::store::rows::money::CancelRow;
use crate::store::rows::{read_all, row_limit, unsigned};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::schema::supplier_cancels;

impl CancelQueue for SqliteStore {
    fn take_cancels(
        &self,
        at: Timestamp,
        next_attempt_at: Timestamp,
        limit: usize,
    ) -> Result<Vec<Cancel>, StoreError> {
        let statement = sql::<(Text, Integer)>(
            "UPDATE supplier_cancels SET attempts = attempts + 1, next_attempt_at = ",
        )
        .bind::<BigInt, _>(next_attempt_at.micros())
        .sql(
            " WHERE bet_id IN (
                SELECT bet_id FROM supplier_cancels WHERE done_at IS NULL AND next_attempt_at <= ",
        )
        .bind::<BigInt, _>(at.micros())
        .sql(" ORDER BY next_attempt_at, bet_id LIMIT ")
        .bind::<BigInt, _>(row_limit(limit))
        .sql(") RETURNING bet_id, attempts");
        let taken = self
            .connections
            .write(|connection| read_all(statement.load(connection)?, CancelRow::read));
        // The result of RETURNING has no defined order.
        taken.map(|mut cancels: Vec<Cancel>| {
            cancels.sort_unstable_by_key(|cancel| cancel.bet_id);
            cancels
        })
    }

    fn cancelled(&self, bet_id: BetId, at: Timestamp) -> Result<(), StoreError> {
        self.connections.write(|connection| {
            diesel::update(supplier_cancels::table.find(bet_id.to_string()))
                .filter(supplier_cancels::done_at.is_null())
                .set(supplier_cancels::done_at.eq(at.micros()))
                .execute(connection)?;
            Ok(())
        })
    }

    fn open_cancels(&self) -> Result<u64, StoreError> {
        self.read(|connection| {
            let open: i64 = supplier_cancels::table
                .filter(supplier_cancels::done_at.is_null())
                .count()
                .get_result(connection)?;
            Ok(unsigned("supplier_cancels", open)?)
        })
    }
}

/// Adds a cancel request for a bet, due at once.
pub(super) fn add(
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
