//! Holding everything against everything else.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sqlite::SqliteConnection;

use crate::domain::timestamp::Timestamp;
use crate::store::ledger_checks;
use crate::store::money::Verification;
use crate::store::sqlite::error::Failure;

/// Holds every rule against one snapshot: what a transaction reads first in a WAL file stays as it
/// is until its end, and writers do not wait.
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
