//! The money store in SQLite. [`crate::domain::wallet::ledger`] makes the decisions; this module
//! reads and writes, each operation in one transaction that holds the write lock from the start.

mod audit;
mod bet_keys;
mod bets;
mod cancels;
mod decisions;
mod ledger;
mod outbox;
mod reports;
mod reservations;
mod results;
mod settled_bets;
mod settlements;
mod wallet_keys;
mod wallets;

use std::fmt::Display;

use diesel::sqlite::SqliteConnection;

use super::SqliteStore;
use crate::domain::wallet::ledger::{SettlementRefusal, TransferRefusal};
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::WalletError;

/// Why an operation ends early: it is rejected, with nothing written yet, or it failed.
enum Stop {
    Refused(WalletError),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Failed(error.into())
    }
}

impl From<diesel::result::Error> for Stop {
    fn from(error: diesel::result::Error) -> Stop {
        Stop::Failed(error.into())
    }
}

impl From<WalletError> for Stop {
    fn from(refusal: WalletError) -> Stop {
        Stop::Refused(refusal)
    }
}

impl From<TransferRefusal> for Stop {
    fn from(refusal: TransferRefusal) -> Stop {
        Stop::Refused(match refusal {
            TransferRefusal::InsufficientFunds => WalletError::InsufficientFunds,
            TransferRefusal::BalanceTooHigh => WalletError::BalanceTooHigh,
        })
    }
}

impl From<SettlementRefusal> for Stop {
    fn from(refusal: SettlementRefusal) -> Stop {
        Stop::Refused(match refusal {
            SettlementRefusal::AlreadySettled(status) => WalletError::AlreadySettled(status),
            SettlementRefusal::HeldByBet => WalletError::HeldByBet,
        })
    }
}

impl SqliteStore {
    /// Runs an operation that may be rejected.
    fn write_or_reject<T>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, Stop>,
    ) -> Result<T, WalletError> {
        self.connections
            .write(|connection| match work(connection) {
                Ok(done) => Ok(Ok(done)),
                Err(Stop::Refused(refusal)) => Ok(Err(refusal)),
                Err(Stop::Failed(failure)) => Err(failure),
            })?
    }
}

/// An inconsistency, because of which nothing is written.
fn contradiction(what: impl Display) -> StoreError {
    StoreError::Refused(what.to_string())
}
