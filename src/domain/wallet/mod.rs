//! Amounts and the ledger.

pub(crate) mod amount;
pub(crate) mod ledger;
