//! Verification of the whole ledger, in one snapshot.

use std::time::Duration;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_query;

use crate::domain::timestamp::Timestamp;
use crate::store::ledger_checks;
use crate::store::money::Verification;
use crate::store::postgres::error::Failure;

/// Checks every rule in the transaction's snapshot, without blocking writers or waiting for them.
pub(super) fn run(
    connection: &mut PgConnection,
    at: Timestamp,
    grace: Duration,
) -> Result<Verification, Failure> {
    let too_late = format!(
        "(TIMESTAMPTZ 'epoch' + INTERVAL '{} microseconds')",
        at.earlier_by(grace).micros()
    );
    ledger_checks::run(&too_late, |sql| {
        sql_query(sql).load(connection).map_err(Failure::from)
    })
}
