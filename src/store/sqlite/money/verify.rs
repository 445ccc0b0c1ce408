//! Verification of the whole ledger.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sqlite::SqliteConnection;

use crate::domain::timestamp::Timestamp;
use crate::store::ledger_checks;
use crate::store::money::Verification;
use crate::store::sqlite::error::Failure;

/// Checks every rule in one snapshot: in WAL mode a transaction sees the file as it was at its
/// first read, and writers do not wait.
pub(super) fn all(
    connection: &mut SqliteConnection,
    at: Timestamp,
    grace: Duration,
) -> Result<Verification, Failure> {
    let too_late = at.earlier_by(grace).micros().to_string();
    connection.transaction(|connection| {
        ledger_checks::run(&too_late, |sql| {
            sql_query(sql).load(connection).map_err(Failure::from)
        })
    })
}
