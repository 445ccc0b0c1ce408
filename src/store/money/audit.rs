//! Maintenance of the ledger: verification, and expiry of reservations.

use std::time::Duration;

use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;

/// The result of one rule of [`LedgerAudit::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// The rule.
    pub rule: &'static str,
    /// Number of rows that were checked.
    pub checked: u64,
    /// Number of rows that violate the rule.
    pub violations: u64,
    /// The first violations, one line each.
    pub examples: Vec<String>,
}

/// The result of verifying the whole ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verification {
    /// The result of each rule.
    pub checks: Vec<Check>,
}

impl Verification {
    /// The number of violations of all rules.
    pub(crate) fn violations(&self) -> u64 {
        self.checks.iter().map(|check| check.violations).sum()
    }
}

/// Maintains the ledger.
pub(crate) trait LedgerAudit: Send + Sync {
    /// Expires up to `limit` pending reservations made before a time, each in its own transaction,
    /// and returns how many. Never expires one that is held for a bet.
    fn expire_reservations(
        &self,
        created_before: Timestamp,
        limit: usize,
        at: Timestamp,
    ) -> Result<usize, StoreError>;

    /// Checks the ledger, the reservations and the bets for consistency, in one snapshot of the
    /// live database. A pending bet is a violation if its deadline passed more than `grace` before
    /// `at`, and a bet that is not settled by the latest results if its market was due an hour before
    /// that.
    fn verify(&self, at: Timestamp, grace: Duration) -> Result<Verification, StoreError>;
}
