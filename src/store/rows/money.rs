//! Rows of wallets, bets, the outbox and cancel requests.

use diesel::Queryable;

use super::{Id, Time, amount, line, parsed, price, unreadable, unsigned};
use crate::domain::bets::bet::{Bet, BetId, BetSettlement, BetStep};
use crate::domain::ids::{MarketKey, Reference, UserId};
use crate::domain::trace_parent::TraceParent;
use crate::domain::wallet::ledger::Balance;
use crate::store::StoreError;
use crate::store::money::{Cancel, OutboxDepth, OutboxRow, Reservation, Transfer, Wallet};

/// A wallet.
#[derive(Queryable)]
pub(in crate::store) struct WalletRow {
    wallet_id: Id,
    available_cents: i64,
    reserved_cents: i64,
    owed_cents: i64,
}

impl WalletRow {
    pub(in crate::store) fn read(self) -> Wallet {
        self.read_with_debt().0
    }

    pub(in crate::store) fn read_with_debt(self) -> (Wallet, i64) {
        let wallet = Wallet {
            wallet_id: self.wallet_id.0,
            balance: Balance {
                available: self.available_cents,
                reserved: self.reserved_cents,
            },
        };
        (wallet, self.owed_cents)
    }
}

/// A transfer.
#[derive(Queryable)]
pub(in crate::store) struct TransferRow {
    id: i64,
    kind: String,
    debit_account: String,
    credit_account: String,
    amount_cents: i64,
    reference: String,
    available_after: i64,
    reserved_after: i64,
    at: Time,
}

impl TransferRow {
    pub(in crate::store) fn read(self) -> Result<Transfer, StoreError> {
        Ok(Transfer {
            id: self.id,
            kind: parsed("kind", &self.kind)?,
            debit: parsed("debit_account", &self.debit_account)?,
            credit: parsed("credit_account", &self.credit_account)?,
            amount: amount("amount_cents", self.amount_cents)?,
            reference: parsed("reference", &self.reference)?,
            balance: Balance {
                available: self.available_after,
                reserved: self.reserved_after,
            },
            at: self.at.0,
        })
    }
}

/// A reservation.
#[derive(Queryable)]
pub(in crate::store) struct ReservationRow {
    id: Id,
    reference: String,
    amount_cents: i64,
    status: String,
    created_at: Time,
    settled_at: Option<Time>,
}

impl ReservationRow {
    pub(in crate::store) fn read(self) -> Result<Reservation, StoreError> {
        Ok(Reservation {
            id: self.id.0,
            reference: parsed("reference", &self.reference)?,
            amount: amount("amount_cents", self.amount_cents)?,
            status: parsed("status", &self.status)?,
            created_at: self.created_at.0,
            settled_at: self.settled_at.map(|time| time.0),
        })
    }
}

/// The owner and the reference of a reservation that is due to expire.
#[derive(Queryable)]
pub(in crate::store) struct ExpiredRow {
    user_id: String,
    reference: String,
}

impl ExpiredRow {
    pub(in crate::store) fn read(self) -> Result<(UserId, Reference), StoreError> {
        Ok((
            parsed("user_id", &self.user_id)?,
            parsed("reference", &self.reference)?,
        ))
    }
}

/// A bet.
#[derive(Queryable)]
pub(in crate::store) struct BetRow {
    id: Id,
    user_id: String,
    event_id: String,
    market: String,
    line: String,
    selection: String,
    stake_cents: i64,
    price_thousandths: i32,
    status: String,
    reason: Option<String>,
    provider_ref: Option<String>,
    placed_at: Time,
    decide_by: Time,
    decided_at: Option<Time>,
    outcome: Option<String>,
    payout_cents: Option<i64>,
    settled_at: Option<Time>,
}

impl BetRow {
    pub(in crate::store) fn read(self) -> Result<Bet, StoreError> {
        Ok(Bet {
            id: BetId(self.id.0),
            user_id: parsed("user_id", &self.user_id)?,
            event_id: parsed("event_id", &self.event_id)?,
            market: MarketKey {
                name: parsed("market", &self.market)?,
                line: line(&self.line).map_err(|_| unreadable("line", &self.line))?,
            },
            selection: parsed("selection", &self.selection)?,
            stake: amount("stake_cents", self.stake_cents)?,
            price: price(self.price_thousandths)?,
            status: parsed("status", &self.status)?,
            reason: self.reason,
            provider_ref: self.provider_ref,
            placed_at: self.placed_at.0,
            decide_by: self.decide_by.0,
            decided_at: self.decided_at.map(|time| time.0),
            settlement: match (self.outcome, self.payout_cents, self.settled_at) {
                (Some(outcome), Some(payout_cents), Some(settled_at)) => Some(BetSettlement {
                    outcome: parsed("outcome", &outcome)?,
                    payout_cents,
                    settled_at: settled_at.0,
                }),
                _ => None,
            },
        })
    }
}

/// A step of a bet.
#[derive(Queryable)]
pub(in crate::store) struct BetStepRow {
    old_status: Option<String>,
    new_status: String,
    reason: Option<String>,
    at: Time,
}

impl BetStepRow {
    pub(in crate::store) fn read(self) -> Result<BetStep, StoreError> {
        let from = self.old_status;
        Ok(BetStep {
            from: from
                .map(|status| parsed("old_status", &status))
                .transpose()?,
            to: parsed("new_status", &self.new_status)?,
            reason: self.reason,
            at: self.at.0,
        })
    }
}

/// A record of the outbox.
#[derive(Queryable)]
pub(in crate::store) struct OutboxRecordRow {
    id: i64,
    topic: String,
    key: String,
    payload: String,
    traceparent: Option<String>,
}

impl OutboxRecordRow {
    pub(in crate::store) fn read(self) -> Result<OutboxRow, StoreError> {
        let topic = self.topic.parse();
        Ok(OutboxRow {
            id: self.id,
            topic: topic.map_err(|_| unreadable("topic", &self.topic))?,
            key: self.key,
            payload: self.payload,
            trace: self
                .traceparent
                .and_then(|text| TraceParent::sampled(text.as_bytes())),
        })
    }
}

/// The number of rows in the outbox, and the oldest time.
#[derive(Queryable)]
pub(in crate::store) struct DepthRow {
    rows: i64,
    oldest: Option<Time>,
}

impl DepthRow {
    pub(in crate::store) fn read(self) -> Result<OutboxDepth, StoreError> {
        Ok(OutboxDepth {
            rows: unsigned("outbox", self.rows)?,
            oldest: self.oldest.map(|time| time.0),
        })
    }
}

/// A cancel request.
#[derive(Queryable)]
pub(in crate::store) struct CancelRow {
    bet_id: Id,
    attempts: i32,
}

impl CancelRow {
    pub(in crate::store) fn read(self) -> Result<Cancel, StoreError> {
        let attempts = u32::try_from(self.attempts);
        Ok(Cancel {
            bet_id: BetId(self.bet_id.0),
            attempts: attempts.map_err(|_| unreadable("attempts", self.attempts))?,
        })
    }
}
