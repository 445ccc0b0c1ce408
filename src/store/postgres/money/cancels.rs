//! Cancel requests to the supplier.

use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

use crate::domain::bets::bet::BetId;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::money::{Cancel, CancelQueue};
use crate::store::postgres::PgStore;
use crate::store::postgres::statement::statement;
use crate::store::rows::money::CancelRow;
use crate::store::rows::{pg_time, read_all, row_limit, unsigned};

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

impl CancelQueue for PgStore {
    fn take_cancels(
        &self,
        at: Timestamp,
        next_attempt_at: Timestamp,
        limit: usize,
    ) -> Result<Vec<Cancel>, StoreError> {
        let statement = TakeCancels {
            now: pg_time(at),
            limit: row_limit(limit),
            next: pg_time(next_attempt_at),
        };
        self.money()?
            .run(|connection| read_all(statement.load(connection)?, CancelRow::read))
    }

    fn cancelled(&self, bet_id: BetId, at: Timestamp) -> Result<(), StoreError> {
        let statement = Cancelled {
            now: pg_time(at),
            bet: bet_id.0,
        };
        self.money()?.run(|connection| {
            statement.execute(connection)?;
            Ok(())
        })
    }

    fn open_cancels(&self) -> Result<u64, StoreError> {
        self.money()?.run(|connection| {
            let (open,) = OpenCancels {}.get_result::<(i64,)>(connection)?;
            Ok(unsigned("supplier_cancels", open)?)
        })
    }
}
