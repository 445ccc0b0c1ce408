//! Wallets and the ledger.

pub mod ledger_auditor;
pub mod wallet_executor;
