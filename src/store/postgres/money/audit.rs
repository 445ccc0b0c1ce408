//! Maintenance of the ledger.

use std::collections::HashSet;
use std::time::Duration;

use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text, Timestamptz};

use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::ledger::HoldResolution;
use crate::store::failure::Failure;
use crate::store::money::{LedgerAudit, Verification, WalletError, WalletStore};
use crate::store::postgres::PgStore;
use crate::store::postgres::statement::statement;
use crate::store::rows::money::ExpiredRow;
use crate::store::rows::{pg_time, read_all, row_limit};
use crate::store::{StoreError, ledger_checks};

statement! {
    /// Pending reservations that are due to expire, oldest first.
    ToExpire returns (Text, Text):
    "SELECT user_id, reference FROM reservations
    WHERE status = 'PENDING' AND bet_id IS NULL AND created_at < " { before: PgTimestamp as Timestamptz }
    " ORDER BY created_at LIMIT " { limit: i64 as BigInt } ""
}

impl LedgerAudit for PgStore {
    fn expire_reservations(
        &self,
        created_before: Timestamp,
        limit: usize,
        at: Timestamp,
    ) -> Result<usize, StoreError> {
        let statement = ToExpire {
            before: pg_time(created_before),
            limit: row_limit(limit),
        };
        let due = self
            .money()?
            .run(|connection| read_all(statement.load(connection)?, ExpiredRow::read))?;
        let mut expired = 0;
        let mut locked = HashSet::new();
        for (user_id, reference) in due {
            // A wallet that is locked elsewhere must not delay the expiry of other users'
            // reservations.
            if locked.contains(&user_id) {
                continue;
            }
            match self.settle(&user_id, &reference, HoldResolution::Expire, at) {
                Ok(_) => expired += 1,
                Err(WalletError::Store(error)) if error.is_lock_timeout() => {
                    locked.insert(user_id);
                }
                Err(WalletError::Store(failure)) => return Err(failure),
                // One that was ended concurrently stays as it ended.
                Err(_) => {}
            }
        }
        Ok(expired)
    }

    /// Checks every rule without blocking writers or waiting for them.
    fn verify(&self, at: Timestamp, grace: Duration) -> Result<Verification, StoreError> {
        let sql_time = |time: Timestamp| {
            let micros = time.micros();
            format!("(TIMESTAMPTZ 'epoch' + INTERVAL '{micros} microseconds')")
        };
        self.readers()?.snapshot(|connection| {
            ledger_checks::run(at, grace, sql_time, |sql| {
                sql_query(sql).load(connection).map_err(Failure::from)
            })
        })
    }
}
