//! The outbox.

use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz};

use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::money::{OutboxDepth, OutboxRow, OutboxStore};
use crate::store::postgres::PgStore;
use crate::store::postgres::statement::statement;
use crate::store::rows::money::{DepthRow, OutboxRecordRow};
use crate::store::rows::{pg_time, read_all, row_limit};

statement! {
    /// Takes rows whose lease has expired, skipping rows that another process is taking at the same
    /// time.
    TakeOutbox returns (BigInt, Text, Text, Text, Nullable<Text>):
    "WITH due AS (
        SELECT id FROM outbox WHERE leased_until <= " { now: PgTimestamp as Timestamptz }
    " ORDER BY id LIMIT " { limit: i64 as BigInt } " FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE outbox SET leased_until = " { leased_until: PgTimestamp as Timestamptz }
    " FROM due WHERE outbox.id = due.id RETURNING outbox.id, topic, key, payload, traceparent
    )
    SELECT id, topic, key, payload, traceparent FROM taken ORDER BY id"
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

impl OutboxStore for PgStore {
    fn take_outbox(
        &self,
        at: Timestamp,
        leased_until: Timestamp,
        limit: usize,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let statement = TakeOutbox {
            now: pg_time(at),
            limit: row_limit(limit),
            leased_until: pg_time(leased_until),
        };
        self.money()?
            .run(|connection| read_all(statement.load(connection)?, OutboxRecordRow::read))
    }

    fn published(&self, rows: &[i64]) -> Result<(), StoreError> {
        self.money()?.run(|connection| {
            Published { ids: rows }.execute(connection)?;
            Ok(())
        })
    }

    fn outbox_depth(&self) -> Result<OutboxDepth, StoreError> {
        self.money()?
            .run(|connection| Ok(Depth {}.get_result::<DepthRow>(connection)?.read()?))
    }
}
