//! Wallets and the ledger.

pub mod ledger_auditor;
