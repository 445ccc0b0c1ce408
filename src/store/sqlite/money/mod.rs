//! The money store in SQLite. [`crate::domain::wallet::ledger`] makes the decisions; this module
//! reads and writes, each operation in one transaction that holds the write lock from the start.

mod bets;
mod delivery;
mod keys;
mod requests;
mod reservations;
mod verify;
mod wallet;

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use diesel::sqlite::SqliteConnection;
use uuid::Uuid;

use super::error::Failure;
use super::{SqliteStore, StoreError};
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, BetRefusal, BetStatus, BetStep};
use crate::domain::ids::{Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::domain::wallet::ledger::{
    HoldResolution, ReservationStatus, SettlementRefusal, TransferRefusal,
};
use crate::store::money::{
    BetAnswer, BetPlacement, Cancel, DecideBet, Decided, MoneyStore, OutboxDepth, OutboxMessage,
    OutboxRow, Page, RequestKey, Reservation, Transfer, TransferRequest, Verification, Wallet,
    WalletError,
};
use crate::store::movements::{Moved, Movement};

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

impl MoneyStore for SqliteStore {
    fn wallet(&self, user_id: &UserId) -> Result<Option<Wallet>, StoreError> {
        self.read(|connection| wallet::of(connection, user_id))
    }

    fn deposit(&self, order: &TransferRequest) -> Result<Wallet, WalletError> {
        self.write_or_reject(|connection| wallet::deposit(connection, order))
    }

    fn withdraw(&self, order: &TransferRequest) -> Result<Wallet, WalletError> {
        self.write_or_reject(|connection| wallet::withdraw(connection, order))
    }

    fn reserve(&self, order: &TransferRequest) -> Result<Reservation, WalletError> {
        self.write_or_reject(|connection| reservations::reserve(connection, order))
    }

    fn settle(
        &self,
        user_id: &UserId,
        reference: &Reference,
        settlement: HoldResolution,
        at: Timestamp,
    ) -> Result<Reservation, WalletError> {
        let settled = self.write_or_reject(|connection| {
            reservations::settle(connection, user_id, reference, settlement, None, at)
        });
        settled.map(|(reservation, _)| reservation)
    }

    fn apply_once(&self, movement: &Movement, key: &RequestKey) -> Result<Moved, WalletError> {
        self.connections
            .write(|connection| requests::apply_once(connection, movement, key))?
    }

    fn expire_reservations(
        &self,
        made_before: Timestamp,
        limit: usize,
        at: Timestamp,
    ) -> Result<usize, StoreError> {
        let mut expired = 0;
        for (user_id, reference) in
            self.read(|connection| reservations::to_expire(connection, made_before, limit))?
        {
            if self
                .connections
                .write(|connection| reservations::expire(connection, &user_id, &reference, at))?
            {
                expired += 1;
            }
        }
        Ok(expired)
    }

    fn transfers(&self, user_id: &UserId, page: Page<i64>) -> Result<Vec<Transfer>, StoreError> {
        self.read(|connection| wallet::transfers(connection, user_id, page))
    }

    fn reservations(
        &self,
        user_id: &UserId,
        status: Option<ReservationStatus>,
        page: Page<Uuid>,
    ) -> Result<Vec<Reservation>, StoreError> {
        self.read(|connection| reservations::of(connection, user_id, status, page))
    }

    fn place_bet(
        &self,
        bet: &Bet,
        key: Option<&RequestKey>,
        notice: &OutboxMessage,
    ) -> Result<BetAnswer, StoreError> {
        self.connections
            .write(|connection| bets::place(connection, bet, key, notice))
    }

    fn place_bets(&self, slips: &[BetPlacement]) -> Result<Vec<Option<BetAnswer>>, StoreError> {
        self.connections.write(|connection| {
            let place = |slip: &BetPlacement| {
                bets::place(connection, &slip.bet, slip.key.as_ref(), &slip.notice).map(Some)
            };
            slips.iter().map(place).collect()
        })
    }

    fn refuse_bet(
        &self,
        user_id: &UserId,
        key: &RequestKey,
        refusal: &BetRefusal,
        at: Timestamp,
    ) -> Result<BetAnswer, StoreError> {
        self.connections
            .write(|connection| keys::refuse(connection, user_id, key, refusal, at))
    }

    fn first_answer(
        &self,
        user_id: &UserId,
        key: &RequestKey,
    ) -> Result<Option<BetAnswer>, StoreError> {
        self.read(|connection| keys::first_answer(connection, user_id, key))
    }

    fn decide_bet(
        &self,
        bet_id: BetId,
        verdict: &BetOutcome,
        notice: &OutboxMessage,
        at: Timestamp,
    ) -> Result<Decided, StoreError> {
        self.connections
            .write(|connection| bets::decide(connection, bet_id, verdict, notice, at))
    }

    fn decide_bets(&self, decisions: &[DecideBet]) -> Result<Vec<Option<Decided>>, StoreError> {
        self.connections.write(|connection| {
            let decide = |DecideBet {
                              bet_id,
                              verdict,
                              notice,
                              at,
                          }: &DecideBet| {
                bets::decide(connection, *bet_id, verdict, notice, *at).map(Some)
            };
            decisions.iter().map(decide).collect()
        })
    }

    fn bet(&self, bet_id: BetId) -> Result<Option<Bet>, StoreError> {
        self.read(|connection| bets::one(connection, bet_id))
    }

    fn bets_by_id(&self, bet_ids: &[BetId]) -> Result<Vec<Option<Bet>>, StoreError> {
        self.read(|connection| {
            bet_ids
                .iter()
                .map(|bet_id| bets::one(connection, *bet_id))
                .collect()
        })
    }

    fn bet_history(&self, bet_id: BetId) -> Result<Vec<BetStep>, StoreError> {
        self.read(|connection| bets::history(connection, bet_id))
    }

    fn bets(
        &self,
        user_id: &UserId,
        status: Option<BetStatus>,
        page: Page<BetId>,
    ) -> Result<Vec<Bet>, StoreError> {
        self.read(|connection| bets::of(connection, user_id, status, page))
    }

    fn overdue_bets(&self, at: Timestamp, limit: usize) -> Result<Vec<Bet>, StoreError> {
        self.read(|connection| bets::overdue(connection, at, limit))
    }

    fn take_outbox(
        &self,
        at: Timestamp,
        leased_until: Timestamp,
        limit: usize,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        self.connections
            .write(|connection| delivery::take_outbox(connection, at, leased_until, limit))
    }

    fn published(&self, rows: &[i64]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.connections
            .write(|connection| delivery::published(connection, rows))
    }

    fn outbox_depth(&self) -> Result<OutboxDepth, StoreError> {
        self.read(delivery::outbox_depth)
    }

    fn take_cancels(
        &self,
        at: Timestamp,
        next_attempt_at: Timestamp,
        limit: usize,
    ) -> Result<Vec<Cancel>, StoreError> {
        self.connections
            .write(|connection| delivery::take_cancels(connection, at, next_attempt_at, limit))
    }

    fn cancelled(&self, bet_id: BetId, at: Timestamp) -> Result<(), StoreError> {
        self.connections
            .write(|connection| delivery::cancelled(connection, bet_id, at))
    }

    fn open_cancels(&self) -> Result<u64, StoreError> {
        self.read(delivery::open_cancels)
    }

    fn verify(&self, at: Timestamp, grace: Duration) -> Result<Verification, StoreError> {
        self.read(|connection| verify::all(connection, at, grace))
    }
}

/// Parses a text column.
fn parsed<T: FromStr>(column: &str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| super::unreadable(column, text))
}

/// Reads a nullable column.
fn optional<F, T>(
    value: Option<F>,
    read: impl FnOnce(F) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    value.map(read).transpose()
}

/// Reads an amount from its column.
fn amount(column: &str, cents: i64) -> Result<Amount, StoreError> {
    Amount::new(cents).map_err(|_| super::unreadable(column, cents))
}

/// Converts a row count of SQL.
fn count(column: &str, rows: i64) -> Result<u64, StoreError> {
    u64::try_from(rows).map_err(|_| super::unreadable(column, rows))
}

/// An inconsistency, because of which nothing is written.
fn contradiction(what: impl Display) -> StoreError {
    StoreError::Refused(what.to_string())
}
