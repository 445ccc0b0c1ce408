//! Maintenance of the ledger.

use std::time::Duration;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Bool;
use diesel::sqlite::SqliteConnection;

use super::{Stop, contradiction, reservations};
use crate::domain::ids::{Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::ledger::{HoldResolution, ResolveHold};
use crate::store::failure::Failure;
use crate::store::money::{LedgerAudit, Verification, WalletError};
use crate::store::rows::money::ExpiredRow;
use crate::store::rows::{read_all, row_limit};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::schema;
use crate::store::{StoreError, ledger_checks};

impl LedgerAudit for SqliteStore {
    fn expire_reservations(
        &self,
        created_before: Timestamp,
        limit: usize,
        at: Timestamp,
    ) -> Result<usize, StoreError> {
        let due = self.read(|connection| due_reservations(connection, created_before, limit))?;
        let mut expired = 0;
        for (user_id, reference) in due {
            let is_expired = self
                .connections
                .write(|connection| expire(connection, &user_id, &reference, at))?;
            expired += usize::from(is_expired);
        }
        Ok(expired)
    }

    /// Checks every rule in one snapshot: in WAL mode a transaction sees the file as it was at its
    /// first read, and writers do not wait.
    fn verify(&self, at: Timestamp, grace: Duration) -> Result<Verification, StoreError> {
        let sql_time = |time: Timestamp| time.micros().to_string();
        self.read(|connection| {
            connection.transaction(|connection| {
                ledger_checks::run(at, grace, sql_time, |sql| {
                    sql_query(sql).load(connection).map_err(Failure::from)
                })
            })
        })
    }
}

/// Pending reservations that are due to expire, oldest first.
fn due_reservations(
    connection: &mut SqliteConnection,
    created_before: Timestamp,
    limit: usize,
) -> Result<Vec<(UserId, Reference)>, Failure> {
    use schema::reservations;
    let rows = reservations::table
        // A literal, because only then SQLite recognises that the partial index covers the
        // condition.
        .filter(sql::<Bool>("status = 'PENDING' AND bet_id IS NULL"))
        .filter(reservations::created_at.lt(created_before.micros()))
        .order(reservations::created_at)
        .limit(row_limit(limit))
        .select((reservations::user_id, reservations::reference))
        .load(connection)?;
    read_all(rows, ExpiredRow::read)
}

/// Expires a reservation. Returns whether this call did it, rather than a concurrent one.
fn expire(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    reference: &Reference,
    at: Timestamp,
) -> Result<bool, Failure> {
    match reservations::settle(
        connection,
        user_id,
        reference,
        HoldResolution::Expire,
        None,
        at,
    ) {
        Ok((_, settling)) => Ok(settling == ResolveHold::Now),
        Err(Stop::Refused(WalletError::AlreadySettled(_))) => Ok(false),
        Err(Stop::Refused(refusal)) => {
            Err(contradiction(format_args!("{reference} of {user_id}: {refusal}")).into())
        }
        Err(Stop::Failed(failure)) => Err(failure),
    }
}
