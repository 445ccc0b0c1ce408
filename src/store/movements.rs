//! Money movements that clients request, and the stored answers of idempotency keys. Both databases
//! read the same format; PostgreSQL writes it in its function `wallet_apply_once`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::StoreError;
use super::money::{Reservation, TransferRequest, Wallet, WalletError};
use crate::domain::ids::{Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::domain::wallet::ledger::{Balance, HoldResolution, ReservationStatus};

/// A requested movement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Movement {
    /// Deposits money.
    Deposit(TransferRequest),
    /// Withdraws money.
    Withdraw(TransferRequest),
    /// Reserves money.
    Reserve(TransferRequest),
    /// Ends a reservation.
    Settle {
        /// The owner of the reservation.
        user_id: UserId,
        /// The reference of the reservation.
        reference: Reference,
        /// How it ends.
        settlement: HoldResolution,
        /// The current time.
        at: Timestamp,
    },
}

/// The result of a movement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The wallet after a deposit or a withdrawal.
    Wallet(Wallet),
    /// The reservation.
    Reservation(Reservation),
}

impl Movement {
    /// The owner of the wallet.
    pub fn user_id(&self) -> &UserId {
        match self {
            Movement::Deposit(order) | Movement::Withdraw(order) | Movement::Reserve(order) => {
                &order.user_id
            }
            Movement::Settle { user_id, .. } => user_id,
        }
    }

    /// The name of the operation in paths, metrics and the database. Each operation has its own
    /// keys.
    pub fn operation(&self) -> &'static str {
        match self {
            Movement::Deposit(_) => "deposit",
            Movement::Withdraw(_) => "withdraw",
            Movement::Reserve(_) => "reserve",
            Movement::Settle { settlement, .. } => settlement.kind().as_str(),
        }
    }

    /// When it was requested.
    pub fn at(&self) -> Timestamp {
        match self {
            Movement::Deposit(order) | Movement::Withdraw(order) | Movement::Reserve(order) => {
                order.at
            }
            Movement::Settle { at, .. } => *at,
        }
    }

    /// The reference of the movement.
    pub fn reference(&self) -> &Reference {
        match self {
            Movement::Deposit(order) | Movement::Withdraw(order) | Movement::Reserve(order) => {
                &order.reference
            }
            Movement::Settle { reference, .. } => reference,
        }
    }

    /// The amount; `None` if a reservation ends, which has its own amount.
    pub fn amount(&self) -> Option<Amount> {
        match self {
            Movement::Deposit(order) | Movement::Withdraw(order) | Movement::Reserve(order) => {
                Some(order.amount)
            }
            Movement::Settle { .. } => None,
        }
    }

    /// Parses the stored answer to this movement.
    pub(super) fn read_answer(&self, json: &str) -> Result<Result<Moved, WalletError>, StoreError> {
        let unreadable =
            || StoreError::Unreadable(format!("answer to {}: {json}", self.operation()));
        let stored: StoredAnswer = serde_json::from_str(json).map_err(|_| unreadable())?;
        if stored.outcome != DONE {
            return refusal_of(&stored.outcome).map(Err).ok_or_else(unreadable);
        }
        let moved = match self {
            Movement::Deposit(_) | Movement::Withdraw(_) => stored.wallet().map(Moved::Wallet),
            Movement::Reserve(_) | Movement::Settle { .. } => {
                stored.reservation(self.reference()).map(Moved::Reservation)
            }
        };
        moved.map(Ok).ok_or_else(unreadable)
    }
}

/// The outcome word of a successful movement in the database functions.
const DONE: &str = "DONE";

/// The stored form of an answer. Times are microseconds since 1970.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct StoredAnswer {
    outcome: String,
    wallet: Option<Uuid>,
    available: Option<i64>,
    reserved: Option<i64>,
    reservation: Option<Uuid>,
    amount: Option<i64>,
    status: Option<String>,
    created: Option<i64>,
    settled: Option<i64>,
}

impl StoredAnswer {
    fn wallet(&self) -> Option<Wallet> {
        let balance = Balance {
            available: self.available?,
            reserved: self.reserved?,
        };
        Some(Wallet {
            wallet_id: self.wallet?,
            balance,
        })
    }

    fn reservation(&self, reference: &Reference) -> Option<Reservation> {
        let status: ReservationStatus = self.status.as_deref()?.parse().ok()?;
        let settled_at = match self.settled {
            Some(micros) => Some(Timestamp::from_micros(micros)?),
            None => None,
        };
        Some(Reservation {
            id: self.reservation?,
            reference: reference.clone(),
            amount: Amount::new(self.amount?).ok()?,
            status,
            created_at: Timestamp::from_micros(self.created?)?,
            settled_at,
        })
    }
}

/// Serialises an answer for storage. A database failure is returned as an error: it is not an
/// answer.
pub(super) fn answer_text(answer: &Result<Moved, WalletError>) -> Result<String, StoreError> {
    let stored = match answer {
        Ok(Moved::Wallet(wallet)) => StoredAnswer {
            outcome: DONE.to_owned(),
            wallet: Some(wallet.wallet_id),
            available: Some(wallet.balance.available),
            reserved: Some(wallet.balance.reserved),
            ..StoredAnswer::default()
        },
        Ok(Moved::Reservation(reservation)) => StoredAnswer {
            outcome: DONE.to_owned(),
            reservation: Some(reservation.id),
            amount: Some(reservation.amount.cents()),
            status: Some(reservation.status.as_str().to_owned()),
            created: Some(reservation.created_at.micros()),
            settled: reservation.settled_at.map(Timestamp::micros),
            ..StoredAnswer::default()
        },
        Err(WalletError::Store(failure)) => return Err(failure.clone()),
        Err(refusal) => StoredAnswer {
            outcome: outcome_of(refusal),
            ..StoredAnswer::default()
        },
    };
    serde_json::to_string(&stored)
        .map_err(|error| StoreError::Refused(format!("cannot serialise an answer: {error}")))
}

fn outcome_of(refusal: &WalletError) -> String {
    match refusal {
        WalletError::AlreadySettled(status) => format!("ALREADY_{status}"),
        WalletError::Store(_) => "STORE".to_owned(),
        WalletError::WalletNotFound => "WALLET_NOT_FOUND".to_owned(),
        WalletError::InsufficientFunds => "INSUFFICIENT_FUNDS".to_owned(),
        WalletError::BalanceTooHigh => "BALANCE_TOO_HIGH".to_owned(),
        WalletError::ReservationNotFound => "RESERVATION_NOT_FOUND".to_owned(),
        WalletError::HeldByBet => "HELD_BY_BET".to_owned(),
        WalletError::IdempotencyConflict => "IDEMPOTENCY_CONFLICT".to_owned(),
        WalletError::KeyReused => "KEY_REUSED".to_owned(),
    }
}

/// The rejection of an outcome word.
pub(super) fn refusal_of(outcome: &str) -> Option<WalletError> {
    Some(match outcome {
        "WALLET_NOT_FOUND" => WalletError::WalletNotFound,
        "INSUFFICIENT_FUNDS" => WalletError::InsufficientFunds,
        "BALANCE_TOO_HIGH" => WalletError::BalanceTooHigh,
        "RESERVATION_NOT_FOUND" => WalletError::ReservationNotFound,
        "HELD_BY_BET" => WalletError::HeldByBet,
        "IDEMPOTENCY_CONFLICT" => WalletError::IdempotencyConflict,
        "KEY_REUSED" => WalletError::KeyReused,
        other => WalletError::AlreadySettled(other.strip_prefix("ALREADY_")?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::money_suite::{at, order, reference, user};

    #[test]
    fn stored_answer_reads_back() {
        let wallet = Wallet {
            wallet_id: Uuid::from_u128(7),
            balance: Balance {
                available: 5,
                reserved: 2,
            },
        };
        let reservation = Reservation {
            id: Uuid::from_u128(8),
            reference: reference("r"),
            amount: Amount::new(3).unwrap(),
            status: ReservationStatus::Committed,
            created_at: at(1),
            settled_at: Some(at(2)),
        };
        let settle = |settlement| Movement::Settle {
            user_id: user("A"),
            reference: reference("r"),
            settlement,
            at: at(3),
        };
        let refused = |error: WalletError| (Movement::Withdraw(order("A", 1, "w")), Err(error));
        let answers = [
            (
                Movement::Deposit(order("A", 1, "d")),
                Ok(Moved::Wallet(wallet)),
            ),
            (
                Movement::Reserve(order("A", 3, "r")),
                Ok(Moved::Reservation(reservation.clone())),
            ),
            (
                settle(HoldResolution::Commit),
                Ok(Moved::Reservation(reservation.clone())),
            ),
            (
                settle(HoldResolution::Refund),
                Ok(Moved::Reservation(Reservation {
                    status: ReservationStatus::Pending,
                    settled_at: None,
                    ..reservation
                })),
            ),
            refused(WalletError::WalletNotFound),
            refused(WalletError::InsufficientFunds),
            refused(WalletError::BalanceTooHigh),
            refused(WalletError::ReservationNotFound),
            refused(WalletError::HeldByBet),
            refused(WalletError::IdempotencyConflict),
            refused(WalletError::AlreadySettled(ReservationStatus::Expired)),
        ];
        for (movement, answer) in answers {
            let text = answer_text(&answer).unwrap();
            assert_eq!(movement.read_answer(&text).unwrap(), answer, "{text}");
        }
    }

    #[test]
    fn database_failure_is_never_stored() {
        let failed = Err(WalletError::Store(StoreError::Unavailable(
            "away".to_owned(),
        )));
        assert_eq!(
            answer_text(&failed),
            Err(StoreError::Unavailable("away".to_owned()))
        );
        for text in ["", "{}", r#"{"outcome":"DONE"}"#, r#"{"outcome":"STORE"}"#] {
            assert!(
                Movement::Deposit(order("A", 1, "d"))
                    .read_answer(text)
                    .is_err(),
                "{text}"
            );
        }
    }
}
