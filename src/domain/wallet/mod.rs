//! Amounts and the ledger.

pub mod amount;
pub mod ledger;
