//! Money in PostgreSQL. Each operation is a database function, so it takes one round trip. The
//! functions are defined in `migrations/postgres/*_money` and `*_money_faster`.

mod bets;
mod delivery;
mod requests;
mod verify;
mod wallet;

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::error::Failure;
use super::{PgStore, unreadable};
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, BetRefusal, BetStatus, BetStep};
use crate::domain::ids::{Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::domain::wallet::ledger::{HoldResolution, ReservationStatus};
use crate::store::StoreError;
use crate::store::money::{
    BetAnswer, BetPlacement, Cancel, DecideBet, Decided, MoneyStore, OutboxDepth, OutboxMessage,
    OutboxRow, Page, RequestKey, Reservation, Transfer, TransferRequest, Verification, Wallet,
    WalletError,
};
use crate::store::movements::{Moved, Movement, refusal_of};

impl MoneyStore for PgStore {
    fn wallet(&self, user_id: &UserId) -> Result<Option<Wallet>, StoreError> {
        self.readers()?
            .run(|connection| wallet::read(connection, user_id))
    }

    fn deposit(&self, order: &TransferRequest) -> Result<Wallet, WalletError> {
        self.money()?
            .run(|connection| wallet::deposit(connection, order))?
    }

    fn withdraw(&self, order: &TransferRequest) -> Result<Wallet, WalletError> {
        self.money()?
            .run(|connection| wallet::withdraw(connection, order))?
    }

    fn reserve(&self, order: &TransferRequest) -> Result<Reservation, WalletError> {
        let id = Uuid::now_v7();
        self.money()?
            .run(|connection| wallet::reserve(connection, order, id))?
    }

    fn settle(
        &self,
        user_id: &UserId,
        reference: &Reference,
        settlement: HoldResolution,
        at: Timestamp,
    ) -> Result<Reservation, WalletError> {
        self.money()?
            .run(|connection| wallet::settle(connection, user_id, reference, settlement, at))?
    }

    fn apply_once(&self, movement: &Movement, key: &RequestKey) -> Result<Moved, WalletError> {
        let id = Uuid::now_v7();
        self.money()?
            .run(|connection| requests::apply_once(connection, movement, key, id))?
    }

    fn expire_reservations(
        &self,
        made_before: Timestamp,
        limit: usize,
        at: Timestamp,
    ) -> Result<usize, StoreError> {
        let pool = self.money()?;
        let due = pool.run(|connection| wallet::to_expire(connection, made_before, limit))?;
        let (mut expired, mut held) = (0, HashSet::new());
        for (user_id, reference) in due {
            // A wallet that is locked elsewhere must not delay the expiry of other users'
            // reservations.
            if held.contains(&user_id) {
                continue;
            }
            match pool.run(|connection| {
                wallet::settle(connection, &user_id, &reference, HoldResolution::Expire, at)
            }) {
                Ok(Ok(_)) => expired += 1,
                Err(error) if error.is_lock_timeout() => drop(held.insert(user_id)),
                Err(failure) | Ok(Err(WalletError::Store(failure))) => return Err(failure),
                // One that was ended concurrently stays as it ended.
                Ok(Err(_)) => {}
            }
        }
        Ok(expired)
    }

    fn transfers(&self, user_id: &UserId, page: Page<i64>) -> Result<Vec<Transfer>, StoreError> {
        self.readers()?
            .run(|connection| wallet::transfers(connection, user_id, page))
    }

    fn reservations(
        &self,
        user_id: &UserId,
        status: Option<ReservationStatus>,
        page: Page<Uuid>,
    ) -> Result<Vec<Reservation>, StoreError> {
        self.readers()?
            .run(|connection| wallet::reservations(connection, user_id, status, page))
    }

    fn place_bet(
        &self,
        bet: &Bet,
        key: Option<&RequestKey>,
        notice: &OutboxMessage,
    ) -> Result<BetAnswer, StoreError> {
        let slip = BetPlacement {
            bet: bet.clone(),
            key: key.cloned(),
            notice: notice.clone(),
        };
        let reservation = Uuid::now_v7();
        self.money()?.run(|connection| {
            alone(bets::place(
                connection,
                &[&slip],
                &[reservation],
                Wait::ForWallets,
            )?)
        })
    }

    fn place_bets(&self, slips: &[BetPlacement]) -> Result<Vec<Option<BetAnswer>>, StoreError> {
        let (slips, reservations): (Vec<_>, Vec<_>) =
            slips.iter().map(|slip| (slip, Uuid::now_v7())).unzip();
        self.money()?
            .run(|connection| bets::place(connection, &slips, &reservations, Wait::ForNobody))
    }

    fn refuse_bet(
        &self,
        user_id: &UserId,
        key: &RequestKey,
        refusal: &BetRefusal,
        at: Timestamp,
    ) -> Result<BetAnswer, StoreError> {
        self.money()?
            .run(|connection| bets::refuse(connection, user_id, key, refusal, at))
    }

    fn first_answer(
        &self,
        user_id: &UserId,
        key: &RequestKey,
    ) -> Result<Option<BetAnswer>, StoreError> {
        self.money()?
            .run(|connection| bets::first_answer(connection, user_id, key))
    }

    fn decide_bet(
        &self,
        bet_id: BetId,
        verdict: &BetOutcome,
        notice: &OutboxMessage,
        at: Timestamp,
    ) -> Result<Decided, StoreError> {
        let decision = DecideBet {
            bet_id,
            verdict: verdict.clone(),
            notice: notice.clone(),
            at,
        };
        self.money()?
            .run(|connection| alone(bets::decide(connection, &[&decision], Wait::ForWallets)?))
    }

    fn decide_bets(&self, decisions: &[DecideBet]) -> Result<Vec<Option<Decided>>, StoreError> {
        let decisions: Vec<_> = decisions.iter().collect();
        self.money()?
            .run(|connection| bets::decide(connection, &decisions, Wait::ForNobody))
    }

    fn bet(&self, bet_id: BetId) -> Result<Option<Bet>, StoreError> {
        // Not read from a pool that may lead to a replica, because a bet is looked up right after
        // it was placed.
        self.money()?.run(|connection| {
            alone(
                bets::read(connection, &[bet_id])?
                    .into_iter()
                    .map(Some)
                    .collect(),
            )
        })
    }

    fn bets_by_id(&self, bet_ids: &[BetId]) -> Result<Vec<Option<Bet>>, StoreError> {
        self.money()?
            .run(|connection| bets::read(connection, bet_ids))
    }

    fn bet_history(&self, bet_id: BetId) -> Result<Vec<BetStep>, StoreError> {
        self.money()?
            .run(|connection| bets::history(connection, bet_id))
    }

    fn bets(
        &self,
        user_id: &UserId,
        status: Option<BetStatus>,
        page: Page<BetId>,
    ) -> Result<Vec<Bet>, StoreError> {
        self.readers()?
            .run(|connection| bets::of_user(connection, user_id, status, page))
    }

    fn overdue_bets(&self, at: Timestamp, limit: usize) -> Result<Vec<Bet>, StoreError> {
        self.money()?
            .run(|connection| bets::overdue(connection, at, limit))
    }

    fn take_outbox(
        &self,
        at: Timestamp,
        leased_until: Timestamp,
        limit: usize,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        self.money()?
            .run(|connection| delivery::take(connection, at, leased_until, limit))
    }

    fn published(&self, rows: &[i64]) -> Result<(), StoreError> {
        self.money()?
            .run(|connection| delivery::published(connection, rows))
    }

    fn outbox_depth(&self) -> Result<OutboxDepth, StoreError> {
        self.money()?.run(delivery::depth)
    }

    fn take_cancels(
        &self,
        at: Timestamp,
        next_attempt_at: Timestamp,
        limit: usize,
    ) -> Result<Vec<Cancel>, StoreError> {
        self.money()?
            .run(|connection| delivery::take_cancels(connection, at, next_attempt_at, limit))
    }

    fn cancelled(&self, bet_id: BetId, at: Timestamp) -> Result<(), StoreError> {
        self.money()?
            .run(|connection| delivery::cancelled(connection, bet_id, at))
    }

    fn open_cancels(&self) -> Result<u64, StoreError> {
        self.money()?.run(delivery::open_cancels)
    }

    fn verify(&self, at: Timestamp, grace: Duration) -> Result<Verification, StoreError> {
        self.readers()?
            .snapshot(|connection| verify::run(connection, at, grace))
    }
}

/// Whether a database function waits for wallets that are locked at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    ForWallets,
    ForNobody,
}

/// The answer of a call with a single item. It is missing if the bet was created concurrently: it
/// did not exist yet when the wallets were locked.
fn alone<T>(answers: Vec<Option<T>>) -> Result<T, Failure> {
    answers
        .into_iter()
        .next()
        .flatten()
        .ok_or_else(Failure::conflict)
}

/// Parses the outcome word of a rejection.
fn refused(outcome: &str) -> Result<WalletError, Failure> {
    Ok(refusal_of(outcome).ok_or_else(|| unreadable("outcome", outcome))?)
}

fn amount(cents: i64) -> Result<Amount, StoreError> {
    Amount::new(cents).map_err(|error| StoreError::Unreadable(error.to_string()))
}

/// Parses a text column.
fn parsed<T: std::str::FromStr>(column: &str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| unreadable(column, text))
}

/// A column that must not be NULL with this outcome.
fn given<T>(column: &str, value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| unreadable(column, "NULL"))
}

fn size(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
