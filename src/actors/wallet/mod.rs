//! Wallets and the ledger.

pub(crate) mod ledger_auditor;
