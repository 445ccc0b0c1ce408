//! The handlers of the routes of wallets.

use actix_web::{HttpRequest, HttpResponse, web};
use uuid::Uuid;

use super::WalletState;
use super::request::{MovementBody, MovementKind};
use super::view::{ReservationView, TransferView, WalletView};
use crate::domain::ids::UserId;
use crate::domain::wallet::ledger::ReservationStatus;
use crate::http::authorization::{CurrentCaller, user_to_read};
use crate::http::body;
use crate::http::errors::ApiError;
use crate::http::query::Query;
use crate::http::routes::PageBody;
use crate::store::money::{Page, Wallet, WalletError};
use crate::store::movements::Moved;

/// Maximum number of rows in one response.
const MAX_ROWS: usize = 1_000;
/// Default number of rows in one response.
const DEFAULT_ROWS: usize = 100;

/// `GET /wallet?userId`: the balances, and what the user owes, at one point in time.
pub(super) async fn get_wallet(
    state: web::Data<WalletState>,
    CurrentCaller(caller): CurrentCaller,
    query: Query,
) -> Result<HttpResponse, ApiError> {
    let user_id = user_to_read(&caller, &query.only(&["userId"])?)?;
    let wallet = state.operations.wallet(user_id.clone()).await?;
    let (wallet, owed) = wallet.ok_or(ApiError::Wallet(WalletError::WalletNotFound))?;
    Ok(HttpResponse::Ok().json(state.view(&user_id, &wallet).with_debt(owed)))
}

/// `POST /wallet/deposit {userId, amount_cents, external_ref}`: creates the wallet if there is
/// none.
pub(super) async fn deposit(
    state: web::Data<WalletState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    state.apply(MovementKind::Deposit, &request, payload).await
}

/// `POST /wallet/withdraw {userId, amount_cents, external_ref}`.
pub(super) async fn withdraw(
    state: web::Data<WalletState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    state.apply(MovementKind::Withdraw, &request, payload).await
}

/// `POST /wallet/reserve {userId, amount_cents, external_ref}`.
pub(super) async fn reserve(
    state: web::Data<WalletState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    state.apply(MovementKind::Reserve, &request, payload).await
}

/// `POST /wallet/commit {userId, external_ref}`: the reserved amount goes to the house.
pub(super) async fn commit(
    state: web::Data<WalletState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    state.apply(MovementKind::Commit, &request, payload).await
}

/// `POST /wallet/refund {userId, external_ref}`: the reserved amount returns to the user.
pub(super) async fn refund(
    state: web::Data<WalletState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    state.apply(MovementKind::Refund, &request, payload).await
}

/// `GET /wallet/ledger?userId&limit&cursor`: the user's transfers, newest first.
pub(super) async fn get_ledger(
    state: web::Data<WalletState>,
    CurrentCaller(caller): CurrentCaller,
    query: Query,
) -> Result<HttpResponse, ApiError> {
    let query = query.only(&["userId", "limit", "cursor"])?;
    let user_id = user_to_read(&caller, &query)?;
    let limit = query.number("limit", 1, MAX_ROWS)?.unwrap_or(DEFAULT_ROWS);
    let page = Page {
        before: query.parsed("cursor")?,
        limit,
    };
    let transfers = state.operations.transfers(user_id, page).await?;
    let page = PageBody::new(&transfers, limit, TransferView::new, |last| {
        last.id.to_string()
    });
    Ok(HttpResponse::Ok().json(page))
}

/// `GET /wallet/reservations?userId&status&limit&cursor`: the user's reservations, newest first.
pub(super) async fn get_reservations(
    state: web::Data<WalletState>,
    CurrentCaller(caller): CurrentCaller,
    query: Query,
) -> Result<HttpResponse, ApiError> {
    let query = query.only(&["userId", "status", "limit", "cursor"])?;
    let user_id = user_to_read(&caller, &query)?;
    let status: Option<ReservationStatus> = query.parsed("status")?;
    let limit = query.number("limit", 1, MAX_ROWS)?.unwrap_or(DEFAULT_ROWS);
    let page = Page {
        before: query.parsed("cursor")?,
        limit,
    };
    let reservations = state.operations.reservations(user_id, status, page).await?;
    let page = PageBody::new(&reservations, limit, ReservationView::new, |last| {
        last.id.to_string()
    });
    Ok(HttpResponse::Ok().json(page))
}

impl WalletState {
    /// Makes a transfer. With a key (header `Idempotency-Key`, else `requestId`) a repeated request
    /// gets the first answer.
    async fn apply(
        &self,
        kind: MovementKind,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> Result<HttpResponse, ApiError> {
        let body: MovementBody = body::read(request, payload).await?;
        let command = body.command(kind, Uuid::now_v7(), request)?;
        let user_id = command.movement.user_id().clone();
        Ok(match self.operations.apply(command).await? {
            Moved::Wallet(wallet) => HttpResponse::Ok().json(self.view(&user_id, &wallet)),
            Moved::Reservation(reservation) => {
                HttpResponse::Ok().json(ReservationView::new(&reservation))
            }
        })
    }

    fn view<'a>(&'a self, user_id: &'a UserId, wallet: &Wallet) -> WalletView<'a> {
        WalletView::new(user_id, wallet, &self.operations.currency)
    }
}
