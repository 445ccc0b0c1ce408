//! Totals for reports.

use diesel::dsl::{count_star, sql};
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::{ReportStore, SettledTotals};
use crate::store::rows::read_all;
use crate::store::rows::settlements::{OutcomeTotalRow, TransferTotalRow};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::schema::{bet_settlements, ledger_transfers};

/// The kinds of transfers of settlements.
const KINDS: [&str; 6] = ["settle", "unsettle", "payout", "clawback", "owe", "recover"];

impl ReportStore for SqliteStore {
    fn settled_totals(&self, from: Timestamp, to: Timestamp) -> Result<SettledTotals, StoreError> {
        let (from, to) = (from.micros(), to.micros());
        self.read(|connection| {
            connection.transaction(|connection| {
                let outcomes = bet_settlements::table
                    .filter(bet_settlements::at.ge(from))
                    .filter(bet_settlements::at.lt(to))
                    .group_by(bet_settlements::outcome)
                    .order((
                        bet_settlements::outcome.is_null(),
                        bet_settlements::outcome.asc(),
                    ))
                    .select((
                        bet_settlements::outcome,
                        count_star(),
                        sql::<BigInt>("SUM(difference_cents / 1000000000)"),
                        sql::<BigInt>("SUM(difference_cents % 1000000000)"),
                    ))
                    .load(connection)?;
                let transfers = ledger_transfers::table
                    .filter(ledger_transfers::kind.eq_any(KINDS))
                    .filter(ledger_transfers::at.ge(from))
                    .filter(ledger_transfers::at.lt(to))
                    .group_by(ledger_transfers::kind)
                    .order(ledger_transfers::kind)
                    .select((
                        ledger_transfers::kind,
                        count_star(),
                        sql::<BigInt>("SUM(amount_cents / 1000000000)"),
                        sql::<BigInt>("SUM(amount_cents % 1000000000)"),
                    ))
                    .load(connection)?;
                Ok::<_, Failure>(SettledTotals {
                    outcomes: read_all::<_, _, StoreError>(outcomes, OutcomeTotalRow::read)?,
                    transfers: read_all::<_, _, StoreError>(transfers, TransferTotalRow::read)?,
                })
            })
        })
    }
}
