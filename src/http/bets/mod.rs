//! `/bets…`: bets at the current price. The paths, bodies and field names of the original, with
//! additions.

use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use actix_web::http::StatusCode;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use prometheus::HistogramVec;
use serde::{Deserialize, Serialize};

use super::body::{self, Field};
use super::errors::{ApiError, method_not_allowed, not_found};
use super::idempotency;
use super::latency::{Route, RouteLabels, Timed, time_requests};
use super::query::Query;
use super::routes::{CountsRequests, PageBody, count_requests, read, required_user};
use super::wallet::executor::WalletExecutor;
use crate::actors::bets::messages::PublishOutbox;
use crate::actors::odds::messages::GetSnapshot;
use crate::domain::bets::bet::{
    self, Bet, BetId, BetLimits, BetRequest, BetStatus, BetStep, Offer,
};
use crate::domain::bets::bet_events;
use crate::domain::ids::{EventId, MarketKey, MarketName, SelectionId, UserId};
use crate::domain::odds::book::Snapshot;
use crate::domain::odds::price::{Line, Price};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::runtime::feed_health::FeedState;
use crate::store::money::{
    BetAnswer, BetPlacement, BetStore, OutboxMessage, OutboxRow, OutboxTopic, Page, RequestKey,
};
use crate::store::request_batcher::RequestBatcher;
use crate::telemetry::metrics::BetsMetrics;

/// Maximum number of bets in one response.
const MAX_BETS: usize = 1_000;
/// Default number of bets in one response.
const DEFAULT_BETS: usize = 100;

/// The source of prices: the books that clients see.
pub struct Prices {
    /// Sends requests to the books.
    pub snapshots: Recipient<GetSnapshot>,
    /// Timeout of a request to the books.
    pub timeout: Duration,
    /// Whether the books receive every change.
    pub feed: Arc<FeedState>,
}

impl Prices {
    /// The book of an event, or why its prices are unavailable.
    async fn book(&self, event_id: &EventId) -> Result<Snapshot, ApiError> {
        let stale = || {
            ApiError::BooksUnavailable("no changes are arriving, prices may be stale".to_owned())
        };
        if !self.feed.is_live() {
            return Err(stale());
        }
        let answer = self
            .snapshots
            .send(GetSnapshot(event_id.clone()))
            .timeout(self.timeout)
            .await;
        let book = answer.map_err(|error| ApiError::BooksUnavailable(error.to_string()))??;
        if book.is_stale || !self.feed.is_live() {
            Err(stale())
        } else {
            Ok(book)
        }
    }
}

/// Shared by every worker.
pub struct BetsState {
    /// Runs wallet operations.
    pub desk: WalletExecutor<dyn BetStore>,
    /// Places bets in batches.
    pub slips: Arc<RequestBatcher<BetPlacement, Option<BetAnswer>>>,
    /// The prices.
    pub prices: Prices,
    /// The limits of a bet.
    pub limits: BetLimits,
    /// How long a bet may stay undecided.
    pub deadline: Duration,
    /// The relay that publishes placed bets.
    pub relay: Recipient<PublishOutbox>,
    /// How long a record is left to this process to publish.
    pub lease: Duration,
    /// The metrics.
    pub metrics: BetsMetrics,
}

/// The routes whose latency is measured.
pub const ROUTES: &[RouteLabels] = &[("/bets", "POST"), ("/bets", "GET"), ("/bets/{id}", "GET")];

/// The routes of the role `bets`.
pub fn routes(config: &mut web::ServiceConfig) {
    let bets = web::resource("/bets")
        .app_data(Route::new("/bets", "POST"))
        .wrap(from_fn(count_requests::<BetsState>))
        .route(web::post().to(place))
        .route(web::get().to(list))
        .route(web::head().to(list))
        .default_service(web::to(|request| {
            method_not_allowed(request, "GET, HEAD, POST")
        }));
    let bet = read("/bets/{id}")
        .get(get_bet)
        .app_data(Route::new("/bets/{id}", "GET"));
    let unknown = web::to(not_found).wrap(from_fn(time_requests::<BetsState>));
    config
        .service(bets)
        .service(bet.wrap(from_fn(count_requests::<BetsState>)))
        .default_service(unknown);
}

impl Timed for BetsState {
    fn request_seconds(&self) -> &HistogramVec {
        &self.metrics.request_seconds
    }
}

impl CountsRequests for BetsState {
    fn count(&self, status: StatusCode) {
        self.metrics
            .requests
            .with_label_values(&[status.as_str()])
            .inc();
    }
}

/// The body of a request to place a bet.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BetBody {
    user_id: Field,
    event_id: Field,
    market: Field,
    line: Field,
    selection: Field,
    #[serde(rename = "stake_cents")]
    stake_cents: Field,
    #[serde(rename = "odd_value")]
    odd_value: Field,
    odds_change: Field,
    request_id: Field,
}

impl BetBody {
    fn request(&self) -> Result<BetRequest, ApiError> {
        let price = body::number("odd_value", &self.odd_value)?
            .ok_or_else(|| body::missing("odd_value"))?;
        Ok(BetRequest {
            user_id: body::text("userId", &self.user_id)?,
            event_id: body::text("eventId", &self.event_id)?,
            market: MarketKey {
                name: body::text("market", &self.market)?,
                line: body::number("line", &self.line)?,
            },
            selection: body::text("selection", &self.selection)?,
            stake: body::amount("stake_cents", &self.stake_cents)?,
            price,
            odds_change: body::optional("oddsChange", &self.odds_change)?.unwrap_or_default(),
        })
    }
}

fn key_of(
    request: &HttpRequest,
    body: &BetBody,
    bet: &BetRequest,
) -> Result<Option<RequestKey>, ApiError> {
    let key = idempotency::key(request.headers(), &body.request_id)?;
    Ok(key.map(|key| RequestKey {
        key,
        fingerprint: fingerprint(bet),
    }))
}

/// The request in canonical form, independent of how the body was written.
fn fingerprint(bet: &BetRequest) -> String {
    let BetRequest {
        user_id: _,
        event_id,
        market,
        selection,
        stake,
        price,
        odds_change,
    } = bet;
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

#[derive(Serialize)]
struct PlacedBody {
    #[serde(rename = "betId")]
    bet_id: BetId,
    status: BetStatus,
    new_balance: i64,
    odd_value: Price,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BetView<'a> {
    bet_id: BetId,
    status: BetStatus,
    user_id: &'a UserId,
    event_id: &'a EventId,
    market: &'a MarketName,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<Line>,
    selection: &'a SelectionId,
    #[serde(rename = "stake_cents")]
    stake_cents: Amount,
    #[serde(rename = "odd_value")]
    odd_value: Price,
    /// Stake and winnings, if the bet wins.
    #[serde(rename = "potential_payout_cents")]
    potential_payout_cents: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_ref: Option<&'a str>,
    placed_at: Timestamp,
    decide_by: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<StepBody<'a>>>,
}

#[derive(Serialize)]
struct StepBody<'a> {
    from: Option<BetStatus>,
    to: BetStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    at: Timestamp,
}

fn view<'a>(bet: &'a Bet, history: Option<&'a [BetStep]>) -> BetView<'a> {
    let step = |step: &'a BetStep| StepBody {
        from: step.from,
        to: step.to,
        reason: step.reason.as_deref(),
        at: step.at,
    };
    BetView {
        bet_id: bet.id,
        status: bet.status,
        user_id: &bet.user_id,
        event_id: &bet.event_id,
        market: &bet.market.name,
        line: bet.market.line,
        selection: &bet.selection,
        stake_cents: bet.stake,
        odd_value: bet.price,
        potential_payout_cents: i64::try_from(bet.stake.payout_at(bet.price)).unwrap_or(i64::MAX),
        reason: bet.reason.as_deref(),
        provider_ref: bet.provider_ref.as_deref(),
        placed_at: bet.placed_at,
        decide_by: bet.decide_by,
        decided_at: bet.decided_at,
        history: history.map(|steps| steps.iter().map(step).collect()),
    }
}

/// `POST /bets {userId, eventId, market, line, selection, stake_cents, odd_value, oddsChange}`:
/// places a bet at the price that clients see now. With a key (header `Idempotency-Key`, else
/// `requestId`) a repeated request gets the first answer.
async fn place(
    state: web::Data<BetsState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let body: BetBody = body::read(&request, payload).await?;
    let bet = body.request()?;
    let key = key_of(&request, &body, &bet)?;
    let answer = match state.prices.book(&bet.event_id).await {
        Ok(book) => match bet::check(&bet, &book, &state.limits) {
            Ok(offer) => state.place(bet, offer, key).await?,
            Err(refusal) => match key {
                Some(key) => {
                    let (user_id, at) = (bet.user_id.clone(), Timestamp::now());
                    let refused = state.desk.for_user(&bet.user_id, move |store| {
                        store.refuse_bet(&user_id, &key, &refusal, at)
                    });
                    refused.await?
                }
                None => BetAnswer::Refused(refusal),
            },
        },
        // A repeated request still gets its first answer, although no new bet can be accepted.
        Err(unavailable) => match key {
            Some(key) => {
                let user_id = bet.user_id.clone();
                let first = state
                    .desk
                    .read(move |store| store.first_answer(&user_id, &key))
                    .await?;
                first.ok_or(unavailable)?
            }
            None => return Err(unavailable),
        },
    };
    state.answer(answer)
}

impl BetsState {
    async fn place(
        &self,
        request: BetRequest,
        offer: Offer,
        key: Option<RequestKey>,
    ) -> Result<BetAnswer, ApiError> {
        let now = Timestamp::now();
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
            decide_by: now.later_by(self.deadline),
            decided_at: None,
        };
        let notice = OutboxMessage {
            payload: bet_events::bet_placed(&bet),
            leased_until: now.later_by(self.lease),
        };
        let (record_key, payload) = (bet.id.to_string(), notice.payload.clone());
        let has_key = key.is_some();
        let placed = self
            .write(BetPlacement { bet, key, notice })
            .await
            .map_err(|error| match error {
                // Another request of this user holds the wallet's row; it may be a duplicate of
                // this one.
                ApiError::WalletHeld if has_key => ApiError::RequestInFlight,
                other => other,
            })?;
        if let BetAnswer::Placed {
            outbox: Some(id), ..
        } = &placed
        {
            let row = OutboxRow {
                id: *id,
                topic: OutboxTopic::BetPlaced,
                key: record_key,
                payload,
            };
            // If the relay's mailbox is full, the relay finds the row itself when the lease has
            // expired.
            let _ = self.relay.try_send(PublishOutbox(vec![row]));
        }
        Ok(placed)
    }

    /// Places a bet in a batch with others. If the user's wallet is in use, the bet is placed alone
    /// when its turn comes.
    async fn write(&self, placement: BetPlacement) -> Result<BetAnswer, ApiError> {
        if let Some(placed) = self.slips.submit(placement.clone()).await? {
            return Ok(placed);
        }
        let user_id = placement.bet.user_id.clone();
        let placed = self.desk.for_user(&user_id, move |store| {
            store.place_bet(&placement.bet, placement.key.as_ref(), &placement.notice)
        });
        placed.await
    }

    fn answer(&self, answer: BetAnswer) -> Result<HttpResponse, ApiError> {
        let code = match &answer {
            BetAnswer::Placed {
                outbox: Some(_), ..
            } => "placed",
            BetAnswer::Placed { outbox: None, .. } => "repeated",
            BetAnswer::Refused(refusal) => refusal.code(),
            BetAnswer::KeyReused => "IDEMPOTENCY_KEY_REUSED",
        };
        self.metrics.bets.with_label_values(&[code]).inc();
        match answer {
            BetAnswer::Placed {
                bet_id,
                price,
                new_balance,
                ..
            } => Ok(HttpResponse::Ok().json(PlacedBody {
                bet_id,
                status: BetStatus::Pending,
                new_balance,
                odd_value: price,
            })),
            BetAnswer::Refused(refusal) => Err(ApiError::BetRefused(refusal)),
            BetAnswer::KeyReused => Err(ApiError::KeyReused),
        }
    }
}

/// `GET /bets/{id}`: a bet and its steps.
async fn get_bet(
    state: web::Data<BetsState>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let not_found = || ApiError::BetNotFound(path.chars().take(80).collect());
    let bet_id: BetId = path.parse().map_err(|_| not_found())?;
    let read = state.desk.read(move |store| {
        let Some(bet) = store.bet(bet_id)? else {
            return Ok(None);
        };
        let history = store.bet_history(bet_id)?;
        // The bet was decided between the two reads: read it again, so that it matches the history.
        let is_outdated = history.last().is_some_and(|step| step.to != bet.status);
        Ok(if is_outdated {
            store.bet(bet_id)?
        } else {
            Some(bet)
        }
        .map(|bet| (bet, history)))
    });
    let (bet, history) = read.await?.ok_or_else(not_found)?;
    Ok(HttpResponse::Ok().json(view(&bet, Some(&history))))
}

/// `GET /bets?userId&status&limit&cursor`: a user's bets, newest first.
async fn list(state: web::Data<BetsState>, query: Query) -> Result<HttpResponse, ApiError> {
    let query = query.only(&["userId", "status", "limit", "cursor"])?;
    let user_id = required_user(&query)?;
    let status: Option<BetStatus> = query.parsed("status")?;
    let limit = query.number("limit", 1, MAX_BETS)?.unwrap_or(DEFAULT_BETS);
    let page = Page {
        before: query.parsed("cursor")?,
        limit,
    };
    let bets = state
        .desk
        .read(move |store| store.bets(&user_id, status, page))
        .await?;
    let next_cursor = bets
        .last()
        .filter(|_| bets.len() == limit)
        .map(|last| last.id.to_string());
    Ok(HttpResponse::Ok().json(PageBody {
        entries: bets.iter().map(|bet| view(bet, None)).collect(),
        next_cursor,
    }))
}
