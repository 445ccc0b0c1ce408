//! A look at the whole ledger, in one snapshot.

use std::time::Duration;

use diesel::pg::PgConnection;

use super::super::error::Failure;
use crate::domain::timestamp::Timestamp;
use crate::store::money::Verification;

pub(super) fn run(_: &mut PgConnection, _: Timestamp, _: Duration) -> Result<Verification, Failure> {
    Ok(Verification { checks: Vec::new() })
}
