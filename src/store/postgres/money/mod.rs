//! Money in PostgreSQL. Each operation is a database function, so it takes one round trip. The
//! functions are defined in `migrations/postgres/*_money` and `*_money_faster`.

mod audit;
mod batch;
mod bets;
mod cancels;
mod decisions;
mod outbox;
mod reports;
mod results;
mod settlements;
mod wallets;

use crate::store::StoreError;
use crate::store::rows::unreadable;

/// A column that must not be NULL with this outcome.
fn required<T>(column: &str, value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| unreadable(column, "NULL"))
}
