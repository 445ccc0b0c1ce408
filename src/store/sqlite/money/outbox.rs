//! The outbox.

use diesel::dsl::{count_star, min, sql};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Nullable, Text};
use diesel::sqlite::SqliteConnection;

use super::contradiction;
use crate::domain::bets::bet::BetId;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::{OutboxDepth, OutboxMessage, OutboxRow, OutboxStore, OutboxTopic};
use crate::store::rows::money::{DepthRow, OutboxRecordRow};
use crate::store::rows::{read_all, row_limit};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::schema::outbox;

impl OutboxStore for SqliteStore {
    fn take_outbox(
        &self,
        at: Timestamp,
        leased_until: Timestamp,
        limit: usize,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let statement =
            sql::<(BigInt, Text, Text, Text, Nullable<Text>)>("UPDATE outbox SET leased_until = ")
                .bind::<BigInt, _>(leased_until.micros())
                .sql(" WHERE id IN (SELECT id FROM outbox WHERE leased_until <= ")
                .bind::<BigInt, _>(at.micros())
                .sql(" ORDER BY id LIMIT ")
                .bind::<BigInt, _>(row_limit(limit))
                .sql(") RETURNING id, topic, key, payload, traceparent");
        let taken = self
            .connections
            .write(|connection| read_all(statement.load(connection)?, OutboxRecordRow::read));
        // The result of RETURNING has no defined order.
        taken.map(|mut rows: Vec<OutboxRow>| {
            rows.sort_unstable_by_key(|row| row.id);
            rows
        })
    }

    fn published(&self, rows: &[i64]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows = serde_json::to_string(rows).map_err(contradiction)?;
        self.connections.write(|connection| {
            sql_query("DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?))")
                .bind::<Text, _>(rows)
                .execute(connection)?;
            Ok(())
        })
    }

    fn outbox_depth(&self) -> Result<OutboxDepth, StoreError> {
        self.read(|connection| {
            let depth = outbox::table.select((count_star(), min(outbox::created_at)));
            Ok(depth.first::<DepthRow>(connection)?.read()?)
        })
    }
}

/// Adds a record to the outbox and returns its row number.
pub(super) fn add(
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
            outbox::traceparent.eq(notice.trace.map(|trace| trace.to_string())),
        ))
        .execute(connection)?;
    Ok(diesel::select(sql::<BigInt>("last_insert_rowid()")).get_result(connection)?)
}
