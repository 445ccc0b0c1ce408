//! Values of single columns.

use std::fmt::Display;
use std::str::FromStr;

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::Pg;
use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::{BigInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel::sqlite::Sqlite;
use uuid::Uuid;

use crate::domain::odds::price::{Line, Price};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::store::StoreError;

/// The epoch of PostgreSQL timestamps, 2000-01-01, in microseconds since 1970.
const PG_EPOCH: i64 = 946_684_800_000_000;

/// A time column: microseconds since 1970 in SQLite, `timestamptz` in PostgreSQL.
#[derive(Clone, Copy, Debug, FromSqlRow)]
pub(in crate::store) struct Time(pub(in crate::store) Timestamp);

impl FromSql<BigInt, Sqlite> for Time {
    fn from_sql(bytes: <Sqlite as Backend>::RawValue<'_>) -> deserialize::Result<Time> {
        let micros = <i64 as FromSql<BigInt, Sqlite>>::from_sql(bytes)?;
        time(Some(micros), micros)
    }
}

impl FromSql<Timestamptz, Pg> for Time {
    fn from_sql(bytes: <Pg as Backend>::RawValue<'_>) -> deserialize::Result<Time> {
        let PgTimestamp(stamp) = FromSql::<Timestamptz, Pg>::from_sql(bytes)?;
        time(stamp.checked_add(PG_EPOCH), stamp)
    }
}

fn time(micros: Option<i64>, stored: i64) -> deserialize::Result<Time> {
    let time = micros.and_then(Timestamp::from_micros);
    Ok(time.map(Time).ok_or_else(|| format!("time {stored}"))?)
}

/// Converts a time for a column of PostgreSQL.
pub(in crate::store) fn pg_time(time: Timestamp) -> PgTimestamp {
    // Years 0 to 9999 are far from the limits of the type.
    PgTimestamp(time.micros().saturating_sub(PG_EPOCH))
}

/// An id column: text in SQLite, `uuid` in PostgreSQL.
#[derive(Clone, Copy, Debug, FromSqlRow)]
pub(in crate::store) struct Id(pub(in crate::store) Uuid);

impl FromSql<Text, Sqlite> for Id {
    fn from_sql(bytes: <Sqlite as Backend>::RawValue<'_>) -> deserialize::Result<Id> {
        let text = <String as FromSql<Text, Sqlite>>::from_sql(bytes)?;
        Ok(Id(text.parse().map_err(|_| format!("id {text}"))?))
    }
}

impl FromSql<SqlUuid, Pg> for Id {
    fn from_sql(bytes: <Pg as Backend>::RawValue<'_>) -> deserialize::Result<Id> {
        FromSql::<SqlUuid, Pg>::from_sql(bytes).map(Id)
    }
}

/// An error about an invalid value in a column.
pub(in crate::store) fn unreadable(column: &str, value: impl Display) -> StoreError {
    StoreError::Unreadable(format!("{column} {value}"))
}

/// Parses a text column.
pub(in crate::store) fn parsed<T: FromStr>(column: &str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| unreadable(column, text))
}

/// Reads an amount.
pub(in crate::store) fn amount(column: &str, cents: i64) -> Result<Amount, StoreError> {
    Amount::new(cents).map_err(|_| unreadable(column, cents))
}

/// Reads a price.
pub(in crate::store) fn price(thousandths: i32) -> Result<Price, StoreError> {
    let price = u32::try_from(thousandths)
        .ok()
        .and_then(Price::from_thousandths);
    price.ok_or_else(|| unreadable("price_thousandths", thousandths))
}

/// Reads a count, a sequence number or another number that is never negative.
pub(in crate::store) fn unsigned(column: &str, number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| unreadable(column, number))
}

/// A count in its column. One that exceeds 63 bits becomes the maximum.
pub(in crate::store) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The text of a line in its column: the shortest decimal form, empty for no line.
pub(in crate::store) fn line_text(line: Option<Line>) -> String {
    line.map(|line| line.to_string()).unwrap_or_default()
}

/// Parses a line.
pub(in crate::store) fn line(text: &str) -> Result<Option<Line>, <Line as FromStr>::Err> {
    Some(text)
        .filter(|text| !text.is_empty())
        .map(str::parse)
        .transpose()
}

/// A value of `LIMIT`.
pub(in crate::store) fn row_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Reads every row, or fails at the first unreadable one.
pub(in crate::store) fn read_all<R, T, E: From<StoreError>>(
    rows: Vec<R>,
    read: impl FnMut(R) -> Result<T, StoreError>,
) -> Result<Vec<T>, E> {
    Ok(rows
        .into_iter()
        .map(read)
        .collect::<Result<_, StoreError>>()?)
}
