//! Holding everything against everything else.

use std::time::Duration;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_query;

use super::super::error::Failure;
use crate::domain::timestamp::Timestamp;
use crate::store::ledger_checks;
use crate::store::money::Verification;

/// Holds every rule against one snapshot. Nobody waits for it, and it waits for nobody.
pub(super) fn all(connection: &mut PgConnection, at: Timestamp, grace: Duration) -> Result<Verification, Failure> {
    let too_late = format!("TIMESTAMPTZ '{}'", at.earlier_by(grace));
    connection
        .build_transaction()
        .repeatable_read()
        .read_only()
        .run(|connection| ledger_checks::run(&too_late, |sql| sql_query(sql).load(connection).map_err(Failure::from)))
}
