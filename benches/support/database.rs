//! PostgreSQL, as a bench looks into it.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::BigInt;

use super::engines::Folder;
use super::{Outcome, until_within};

/// How long bets may take until they are decided.
const DECISION_LIMIT: Duration = Duration::from_secs(60);
/// How often the database is asked: rarely enough not to be a load.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A row of a query for one number.
#[derive(QueryableByName)]
pub struct Number {
    #[diesel(sql_type = BigInt)]
    pub number: i64,
}

/// Connects to the database of a bench.
pub fn connect(folder: &Folder) -> Outcome<PgConnection> {
    let url = folder.sandbox().value("DATABASE_URL");
    Ok(PgConnection::establish(url.ok_or("no database")?)?)
}

/// The result of a query for one `number`.
pub fn number(database: &mut PgConnection, query: &str) -> Outcome<i64> {
    Ok(diesel::sql_query(query)
        .get_result::<Number>(database)?
        .number)
}

/// Waits until a query for a `number` has this result.
pub fn until_number(
    what: &str,
    limit: Duration,
    database: &mut PgConnection,
    (query, wanted): (&str, i64),
) -> Outcome<()> {
    until_within(limit, what, || {
        if number(database, query)? == wanted {
            return Ok(Some(()));
        }
        std::thread::sleep(POLL_INTERVAL);
        Ok(None)
    })
}

/// Waits until no bet is pending.
pub fn until_decided(database: &mut PgConnection) -> Outcome<()> {
    let pending = "SELECT count(*) AS number FROM bets WHERE status = 'PENDING_CONFIRMATION'";
    until_number(
        "every bet is decided",
        DECISION_LIMIT,
        database,
        (pending, 0),
    )
}
