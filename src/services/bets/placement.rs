//! Places bets at the current price.

use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use prometheus::IntCounterVec;

use super::prices::{EventPrices, Prices, PricesError};
use crate::actors::bets::messages::PublishOutbox;
use crate::domain::bets::bet::{
    self, Bet, BetId, BetLimits, BetRefusal, BetRequest, BetStatus, Offer,
};
use crate::domain::bets::bet_events;
use crate::domain::ids::UserId;
use crate::domain::odds::price::Price;
use crate::runtime::clock::Clock;
use crate::services::wallet::executor::{TurnError, WalletExecutor};
use crate::store::StoreError;
use crate::store::money::{
    BetAnswer, BetPlacement, BetStore, OutboxMessage, OutboxRow, OutboxTopic, RequestKey,
};
use crate::store::request_batcher::RequestBatcher;
use crate::telemetry::trace::{self, Span, SpanKind};

/// The batches in which bets are placed.
pub(crate) type PlacementBatcher = RequestBatcher<BetPlacement, Option<BetAnswer>>;

/// A command to place a bet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceBet {
    /// The bet.
    pub request: BetRequest,
    /// The idempotency key, if the caller sent one. A repeated command gets the first answer.
    pub key: Option<String>,
}

/// A placed bet. It is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedBet {
    /// Its id.
    pub bet_id: BetId,
    /// The price at which it was placed.
    pub price: Price,
    /// The available balance afterwards, in cents.
    pub new_balance: i64,
}

/// Why a bet was not placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// The prices may be stale, or the books do not answer.
    #[error(transparent)]
    Prices(#[from] PricesError),
    /// The bet was refused.
    #[error(transparent)]
    Refused(BetRefusal),
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// Another request of the user, perhaps one with the same key, has not been answered yet.
    #[error("a request with this idempotency key is still in flight; retry")]
    RequestInFlight,
    /// Too many requests of the user are waiting.
    #[error("too many requests are waiting for this wallet; retry")]
    WalletBusy,
    /// Another transaction held the wallet for longer than the limit.
    #[error("the wallet is locked by another request; retry")]
    WalletLocked,
    /// The database failed.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for PlacementError {
    fn from(error: StoreError) -> PlacementError {
        if error.is_lock_timeout() {
            PlacementError::WalletLocked
        } else {
            PlacementError::Store(error)
        }
    }
}

impl From<TurnError<StoreError>> for PlacementError {
    fn from(error: TurnError<StoreError>) -> PlacementError {
        match error {
            TurnError::WalletBusy => PlacementError::WalletBusy,
            TurnError::WalletLocked => PlacementError::WalletLocked,
            TurnError::Failed(error) => error.into(),
        }
    }
}

/// The rules for new bets.
#[derive(Clone, Copy, Debug)]
pub struct PlacementSettings {
    /// The limits of a bet.
    pub limits: BetLimits,
    /// How long a bet may stay undecided.
    pub deadline: Duration,
    /// How long only this process may publish the record of a bet.
    pub lease: Duration,
}

/// Places bets.
pub struct PlacementService {
    executor: Arc<WalletExecutor<dyn BetStore>>,
    batcher: Arc<PlacementBatcher>,
    prices: Prices,
    settings: PlacementSettings,
    relay: Recipient<PublishOutbox>,
    clock: Clock,
    outcomes: IntCounterVec,
}

impl PlacementService {
    /// Places bets at `prices` through `batcher`, or through `executor` if the user's wallet is in
    /// use. Their records go to `relay`. Counts the outcomes in `outcomes`.
    pub fn new(
        executor: Arc<WalletExecutor<dyn BetStore>>,
        batcher: Arc<PlacementBatcher>,
        prices: Prices,
        settings: PlacementSettings,
        relay: Recipient<PublishOutbox>,
        clock: Clock,
        outcomes: IntCounterVec,
    ) -> PlacementService {
        PlacementService {
            executor,
            batcher,
            prices,
            settings,
            relay,
            clock,
            outcomes,
        }
    }

    /// Places a bet at the price that clients see now.
    pub async fn place(&self, command: PlaceBet) -> Result<PlacedBet, PlacementError> {
        let PlaceBet { request, key } = command;
        let key = key.map(|key| RequestKey {
            key,
            fingerprint: fingerprint(&request),
        });
        let answer = match self.prices.of(&request.event_id).await {
            Ok(EventPrices { book, restrictions }) => {
                match bet::check(&request, &book, &restrictions, &self.settings.limits) {
                    Ok(offer) => self.accept(request, offer, key).await?,
                    Err(refusal) => self.refuse(request.user_id, refusal, key).await?,
                }
            }
            Err(unavailable) => self
                .first_answer(request.user_id, key)
                .await?
                .ok_or(unavailable)?,
        };
        self.count(&answer);
        result(answer)
    }

    /// Places a bet that passed the checks, and hands its record to the relay.
    async fn accept(
        &self,
        request: BetRequest,
        offer: Offer,
        key: Option<RequestKey>,
    ) -> Result<BetAnswer, PlacementError> {
        let mut placement = self.placement(request, offer, key);
        let mut span = Span::child(trace::current(), SpanKind::Internal, "place bet")
            .with_bet(&placement.bet.id)
            .with_market(&placement.bet.event_id, &placement.bet.market);
        let trace = span.context();
        placement.notice.trace = trace;
        let record_key = placement.bet.id.to_string();
        let payload = placement.notice.payload.clone();
        let has_key = placement.key.is_some();
        let written = self.write(placement).await;
        if written.is_err() {
            span.fail("not_placed");
        }
        drop(span);
        let answer = written.map_err(|error| match error {
            // Another request of this user locks the wallet; it may be a duplicate of this one.
            PlacementError::WalletLocked if has_key => PlacementError::RequestInFlight,
            other => other,
        })?;
        if let BetAnswer::Placed {
            outbox: Some(id), ..
        } = answer
        {
            let row = OutboxRow {
                id,
                topic: OutboxTopic::Placed,
                key: record_key,
                payload,
                trace,
            };
            // If the relay's mailbox is full, the relay finds the row itself when the lease has
            // expired.
            let _ = self.relay.try_send(PublishOutbox(vec![row]));
        }
        Ok(answer)
    }

    /// A pending bet and its record.
    fn placement(
        &self,
        request: BetRequest,
        offer: Offer,
        key: Option<RequestKey>,
    ) -> BetPlacement {
        let now = self.clock.now();
        let bet = Bet {
            id: BetId::new(),
            user_id: request.user_id,
            event_id: request.event_id,
            market: request.market,
            selection: offer.selection,
            stake: request.stake,
            price: offer.price,
            status: BetStatus::Pending,
            reason: None,
            provider_ref: None,
            placed_at: now,
            decide_by: now.later_by(self.settings.deadline),
            decided_at: None,
            settlement: None,
        };
        let notice = OutboxMessage {
            payload: bet_events::bet_placed(&bet),
            leased_until: now.later_by(self.settings.lease),
            trace: None,
        };
        BetPlacement {
            bet,
            source: offer.source,
            key,
            notice,
        }
    }

    /// Places a bet in a batch with others. If the user's wallet is in use, the bet is placed alone
    /// when its turn comes.
    async fn write(&self, placement: BetPlacement) -> Result<BetAnswer, PlacementError> {
        if let Some(answer) = self.batcher.submit(placement.clone()).await? {
            return Ok(answer);
        }
        let user_id = placement.bet.user_id.clone();
        let placed = self
            .executor
            .for_user(&user_id, move |store| store.place_bet(&placement));
        Ok(placed.await?)
    }

    /// Refuses a bet. The refusal is the answer to its key, unless the key already has one.
    async fn refuse(
        &self,
        user_id: UserId,
        refusal: BetRefusal,
        key: Option<RequestKey>,
    ) -> Result<BetAnswer, PlacementError> {
        let Some(key) = key else {
            return Ok(BetAnswer::Refused(refusal));
        };
        let at = self.clock.now();
        let owner = user_id.clone();
        let refused = self.executor.for_user(&user_id, move |store| {
            store.refuse_bet(&owner, &key, &refusal, at)
        });
        Ok(refused.await?)
    }

    /// The first answer to a key. A repeated command gets it even while no new bet can be accepted.
    async fn first_answer(
        &self,
        user_id: UserId,
        key: Option<RequestKey>,
    ) -> Result<Option<BetAnswer>, PlacementError> {
        let Some(key) = key else {
            return Ok(None);
        };
        let read = self
            .executor
            .read(move |store| store.first_answer(&user_id, &key));
        Ok(read.await?)
    }

    fn count(&self, answer: &BetAnswer) {
        let outcome = match answer {
            BetAnswer::Placed {
                outbox: Some(_), ..
            } => "placed",
            BetAnswer::Placed { outbox: None, .. } => "repeated",
            BetAnswer::Refused(refusal) => refusal.code(),
            BetAnswer::KeyReused => "IDEMPOTENCY_KEY_REUSED",
        };
        self.outcomes.with_label_values(&[outcome]).inc();
    }
}

fn result(answer: BetAnswer) -> Result<PlacedBet, PlacementError> {
    match answer {
        BetAnswer::Placed {
            bet_id,
            price,
            new_balance,
            ..
        } => Ok(PlacedBet {
            bet_id,
            price,
            new_balance,
        }),
        BetAnswer::Refused(refusal) => Err(PlacementError::Refused(refusal)),
        BetAnswer::KeyReused => Err(PlacementError::KeyReused),
    }
}

/// The request in canonical form, independent of how the caller wrote it.
fn fingerprint(request: &BetRequest) -> String {
    let BetRequest {
        user_id: _,
        event_id,
        market,
        selection,
        stake,
        price,
        odds_change,
    } = request;
    serde_json::json!([
        event_id,
        market.name,
        market.line,
        selection,
        stake,
        price,
        odds_change
    ])
    .to_string()
}

#[cfg(test)]
mod tests;
