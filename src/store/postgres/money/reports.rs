//! Totals for reports.

use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};

use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::money::{ReportStore, SettledTotals};
use crate::store::postgres::PgStore;
use crate::store::postgres::statement::statement;
use crate::store::rows::settlements::{OutcomeTotalRow, TransferTotalRow};
use crate::store::rows::{pg_time, read_all};

statement! {
    /// The settlements by outcome.
    Outcomes returns (Nullable<Text>, BigInt, BigInt, BigInt):
    "SELECT outcome, count(*), SUM(difference_cents / 1000000000)::BIGINT, SUM(difference_cents % 1000000000)::BIGINT
    FROM bet_settlements WHERE at >= " { from: PgTimestamp as Timestamptz } " AND at < "
        { to: PgTimestamp as Timestamptz } " GROUP BY outcome ORDER BY outcome NULLS LAST"
}

statement! {
    /// The transfers of settlements by kind.
    Transfers returns (Text, BigInt, BigInt, BigInt):
    "SELECT kind, count(*), SUM(amount_cents / 1000000000)::BIGINT, SUM(amount_cents % 1000000000)::BIGINT
    FROM ledger_transfers WHERE kind IN ('settle', 'unsettle', 'payout', 'clawback', 'owe', 'recover') AND at >= "
        { from: PgTimestamp as Timestamptz } " AND at < " { to: PgTimestamp as Timestamptz } " GROUP BY kind ORDER BY kind"
}

impl ReportStore for PgStore {
    fn settled_totals(&self, from: Timestamp, to: Timestamp) -> Result<SettledTotals, StoreError> {
        let (from, to) = (pg_time(from), pg_time(to));
        self.readers()?.snapshot(|connection| {
            let outcomes = (&Outcomes { from, to }).load(connection)?;
            let transfers = (&Transfers { from, to }).load(connection)?;
            Ok(SettledTotals {
                outcomes: read_all::<_, _, StoreError>(outcomes, OutcomeTotalRow::read)?,
                transfers: read_all::<_, _, StoreError>(transfers, TransferTotalRow::read)?,
            })
        })
    }
}
