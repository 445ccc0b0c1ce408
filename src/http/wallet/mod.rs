//! `/wallet…`: users' money. The paths, bodies and field names of the original, with additions.

pub mod executor;

use actix_web::http::StatusCode;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use prometheus::HistogramVec;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::body::{self, Field};
use super::errors::{ApiError, not_found};
use super::idempotency;
use super::latency::{Route, RouteLabels, Timed, time_requests};
use super::query::Query;
use super::routes::{CountsRequests, PageBody, count_requests, post, read, required_user};
use super::wallet::executor::WalletExecutor;
use crate::domain::ids::{IdError, Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::domain::wallet::ledger::{Account, HoldResolution, ReservationStatus, TransferKind};
use crate::store::money::{
    Page, RequestKey, Reservation, Transfer, TransferRequest, Wallet, WalletError, WalletStore,
};
use crate::store::movements::{Moved, Movement};
use crate::telemetry::metrics::WalletMetrics;

/// Maximum number of rows in one response.
const MAX_ROWS: usize = 1_000;
/// Default number of rows in one response.
const DEFAULT_ROWS: usize = 100;

/// Shared by every worker.
pub struct WalletState {
    /// Runs wallet operations.
    pub desk: WalletExecutor<dyn WalletStore>,
    /// The currency of the amounts.
    pub currency: String,
    /// The metrics.
    pub metrics: WalletMetrics,
}

/// The routes whose latency is measured.
pub const ROUTES: &[RouteLabels] = &[
    ("/wallet", "GET"),
    ("/wallet/ledger", "GET"),
    ("/wallet/reservations", "GET"),
    ("/wallet/deposit", "POST"),
    ("/wallet/withdraw", "POST"),
    ("/wallet/reserve", "POST"),
    ("/wallet/commit", "POST"),
    ("/wallet/refund", "POST"),
];

/// The routes of the role `wallet`.
pub fn routes(config: &mut web::ServiceConfig) {
    let scope = web::scope("/wallet")
        .wrap(from_fn(count_requests::<WalletState>))
        .service(
            read("")
                .get(get_wallet)
                .app_data(Route::new("/wallet", "GET")),
        )
        .service(
            read("/ledger")
                .get(get_ledger)
                .app_data(Route::new("/wallet/ledger", "GET")),
        )
        .service(
            read("/reservations")
                .get(get_reservations)
                .app_data(Route::new("/wallet/reservations", "GET")),
        )
        .service(post("/deposit", deposit).app_data(Route::new("/wallet/deposit", "POST")))
        .service(post("/withdraw", withdraw).app_data(Route::new("/wallet/withdraw", "POST")))
        .service(post("/reserve", reserve).app_data(Route::new("/wallet/reserve", "POST")))
        .service(post("/commit", commit).app_data(Route::new("/wallet/commit", "POST")))
        .service(post("/refund", refund).app_data(Route::new("/wallet/refund", "POST")))
        .default_service(web::to(not_found));
    config
        .service(scope)
        .default_service(web::to(not_found).wrap(from_fn(time_requests::<WalletState>)));
}

impl Timed for WalletState {
    fn request_seconds(&self) -> &HistogramVec {
        &self.metrics.request_seconds
    }
}

impl CountsRequests for WalletState {
    fn count(&self, status: StatusCode) {
        self.metrics
            .requests
            .with_label_values(&[status.as_str()])
            .inc();
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WalletBody<'a> {
    user_id: &'a UserId,
    wallet_id: Uuid,
    #[serde(rename = "balance_cents")]
    balance_cents: i64,
    #[serde(rename = "reserved_cents")]
    reserved_cents: i64,
    currency: &'a str,
}

#[derive(Serialize)]
struct ReservationBody<'a> {
    reservation_id: Uuid,
    status: ReservationStatus,
    external_ref: &'a Reference,
    amount_cents: Amount,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    settled_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct TransferBody {
    id: i64,
    kind: TransferKind,
    debit: Account,
    credit: Account,
    amount_cents: Amount,
    external_ref: Reference,
    balance_cents: i64,
    reserved_cents: i64,
    at: Timestamp,
}

/// The body of a request for a transfer. `commit` and `refund` use the amount of the reservation:
/// theirs is accepted, since the original's worker sends it, and ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderBody {
    #[serde(rename = "userId")]
    user_id: Field,
    amount_cents: Field,
    external_ref: Field,
    #[serde(rename = "requestId")]
    request_id: Field,
}

impl OrderBody {
    fn user(&self) -> Result<UserId, ApiError> {
        body::text("userId", &self.user_id)
    }

    fn reference(&self) -> Result<Option<Reference>, ApiError> {
        body::optional("external_ref", &self.external_ref)
    }

    fn order(&self, reference: Reference) -> Result<TransferRequest, ApiError> {
        let amount = body::amount("amount_cents", &self.amount_cents)?;
        Ok(TransferRequest {
            user_id: self.user()?,
            amount,
            reference,
            at: Timestamp::now(),
        })
    }

    /// Reads the transfer. `new_reference` is used for a deposit or a withdrawal that names no
    /// reference: without one, and without a key, each request is a separate transfer, as in the
    /// original.
    fn movement(&self, kind: TransferKind, new_reference: Uuid) -> Result<Movement, ApiError> {
        let named = self.reference()?;
        let required_reference = || named.clone().ok_or_else(|| body::missing("external_ref"));
        let settle = |settlement| -> Result<Movement, ApiError> {
            Ok(Movement::Settle {
                user_id: self.user()?,
                reference: required_reference()?,
                settlement,
                at: Timestamp::now(),
            })
        };
        let order = || {
            let reference = named
                .clone()
                .map_or_else(|| new_reference.to_string().parse(), Ok);
            self.order(reference.map_err(|error: IdError| bad_reference(&error))?)
        };
        match kind {
            TransferKind::Deposit => order().map(Movement::Deposit),
            TransferKind::Withdraw => order().map(Movement::Withdraw),
            TransferKind::Reserve => self.order(required_reference()?).map(Movement::Reserve),
            TransferKind::Commit => settle(HoldResolution::Commit),
            TransferKind::Refund | TransferKind::Expire => settle(HoldResolution::Refund),
        }
    }

    /// The idempotency key, with the request in canonical form, independent of how the body is
    /// written. A generated reference is not part of it.
    fn key(
        &self,
        request: &HttpRequest,
        movement: &Movement,
    ) -> Result<Option<RequestKey>, ApiError> {
        let key = idempotency::key(request.headers(), &self.request_id)?;
        let canonical = serde_json::json!([movement.amount(), self.reference()?]);
        Ok(key.map(|key| RequestKey {
            key,
            fingerprint: canonical.to_string(),
        }))
    }
}

fn bad_reference(error: &IdError) -> ApiError {
    ApiError::BadField {
        field: "external_ref",
        problem: error.to_string(),
    }
}

fn wallet_answer(state: &WalletState, user_id: &UserId, wallet: &Wallet) -> HttpResponse {
    HttpResponse::Ok().json(WalletBody {
        user_id,
        wallet_id: wallet.wallet_id,
        balance_cents: wallet.balance.available,
        reserved_cents: wallet.balance.reserved,
        currency: &state.currency,
    })
}

/// `GET /wallet?userId`: both balances at one point in time.
async fn get_wallet(state: web::Data<WalletState>, query: Query) -> Result<HttpResponse, ApiError> {
    let user_id = required_user(&query.only(&["userId"])?)?;
    let id = user_id.clone();
    let wallet = state.desk.read(move |store| store.wallet(&id)).await?;
    let wallet = wallet.ok_or(ApiError::Wallet(WalletError::WalletNotFound))?;
    Ok(wallet_answer(&state, &user_id, &wallet))
}

fn reservation_body(reservation: &Reservation) -> ReservationBody<'_> {
    ReservationBody {
        reservation_id: reservation.id,
        status: reservation.status,
        external_ref: &reservation.reference,
        amount_cents: reservation.amount,
        created_at: reservation.created_at,
        settled_at: reservation.settled_at,
    }
}

/// `POST /wallet/deposit {userId, amount_cents, external_ref}`: creates the wallet if there is
/// none.
async fn deposit(
    state: web::Data<WalletState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    state.apply(TransferKind::Deposit, &request, payload).await
}

/// `POST /wallet/withdraw {userId, amount_cents, external_ref}`.
async fn withdraw(
    state: web::Data<WalletState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    state.apply(TransferKind::Withdraw, &request, payload).await
}

/// `POST /wallet/reserve {userId, amount_cents, external_ref}`.
async fn reserve(
    state: web::Data<WalletState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    state.apply(TransferKind::Reserve, &request, payload).await
}

/// `POST /wallet/commit {userId, external_ref}`: the reserved amount goes to the house.
async fn commit(
    state: web::Data<WalletState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    state.apply(TransferKind::Commit, &request, payload).await
}

/// `POST /wallet/refund {userId, external_ref}`: the reserved amount returns to the user.
async fn refund(
    state: web::Data<WalletState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    state.apply(TransferKind::Refund, &request, payload).await
}

/// `GET /wallet/ledger?userId&limit&cursor`: the user's transfers, newest first.
async fn get_ledger(state: web::Data<WalletState>, query: Query) -> Result<HttpResponse, ApiError> {
    let query = query.only(&["userId", "limit", "cursor"])?;
    let user_id = required_user(&query)?;
    let limit = query.number("limit", 1, MAX_ROWS)?.unwrap_or(DEFAULT_ROWS);
    let page = Page {
        before: query.parsed("cursor")?,
        limit,
    };
    let transfers = state
        .desk
        .read(move |store| store.transfers(&user_id, page))
        .await?;
    let next_cursor = transfers
        .last()
        .filter(|_| transfers.len() == limit)
        .map(|last| last.id.to_string());
    let entry = |transfer: &'_ Transfer| TransferBody {
        id: transfer.id,
        kind: transfer.kind,
        debit: transfer.debit,
        credit: transfer.credit,
        amount_cents: transfer.amount,
        external_ref: transfer.reference.clone(),
        balance_cents: transfer.balance.available,
        reserved_cents: transfer.balance.reserved,
        at: transfer.at,
    };
    let entries = transfers.iter().map(entry).collect();
    Ok(HttpResponse::Ok().json(PageBody {
        entries,
        next_cursor,
    }))
}

/// `GET /wallet/reservations?userId&status&limit&cursor`: the user's reservations, newest first.
async fn get_reservations(
    state: web::Data<WalletState>,
    query: Query,
) -> Result<HttpResponse, ApiError> {
    let query = query.only(&["userId", "status", "limit", "cursor"])?;
    let user_id = required_user(&query)?;
    let status: Option<ReservationStatus> = query.parsed("status")?;
    let limit = query.number("limit", 1, MAX_ROWS)?.unwrap_or(DEFAULT_ROWS);
    let page = Page {
        before: query.parsed("cursor")?,
        limit,
    };
    let reservations = state
        .desk
        .read(move |store| store.reservations(&user_id, status, page))
        .await?;
    let next_cursor = reservations
        .last()
        .filter(|_| reservations.len() == limit)
        .map(|last| last.id.to_string());
    let entries = reservations.iter().map(reservation_body).collect();
    Ok(HttpResponse::Ok().json(PageBody {
        entries,
        next_cursor,
    }))
}

impl WalletState {
    /// Makes a transfer. With a key (header `Idempotency-Key`, else `requestId`) a repeated request
    /// gets the first answer.
    async fn apply(
        &self,
        kind: TransferKind,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> Result<HttpResponse, ApiError> {
        let body: OrderBody = body::read(request, payload).await?;
        let movement = body.movement(kind, Uuid::now_v7())?;
        let key = body.key(request, &movement)?;
        let (user_id, has_key) = (movement.user_id().clone(), key.is_some());
        let moved = self
            .desk
            .for_user(&user_id, move |store| match &key {
                Some(key) => store.apply_once(&movement, key),
                None => store.apply(&movement),
            })
            .await
            .map_err(|error| match error {
                // Another request of this user holds the wallet's row; it may be a duplicate of
                // this one.
                ApiError::WalletHeld if has_key => ApiError::RequestInFlight,
                other => other,
            });
        self.count(kind.as_str(), &moved);
        Ok(match moved? {
            Moved::Wallet(wallet) => wallet_answer(self, &user_id, &wallet),
            Moved::Reservation(reservation) => {
                HttpResponse::Ok().json(reservation_body(&reservation))
            }
        })
    }

    fn count<T>(&self, operation: &str, done: &Result<T, ApiError>) {
        let outcome = match done {
            Ok(_) => "done",
            Err(ApiError::Wallet(_) | ApiError::KeyReused) => "refused",
            Err(_) => "failed",
        };
        self.metrics
            .operations
            .with_label_values(&[operation, outcome])
            .inc();
    }
}
