//! Users' money.

pub mod ledger_auditor;
pub mod wallet_executor;
