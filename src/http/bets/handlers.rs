//! The handlers of the routes of bets.

use actix_web::{HttpRequest, HttpResponse, web};

use super::BetsState;
use super::request::BetBody;
use super::view::{BetView, PlacedBody};
use crate::domain::bets::bet::{Bet, BetId};
use crate::http::authorization::{CurrentCaller, user_to_read};
use crate::http::body;
use crate::http::errors::ApiError;
use crate::http::query::Query;
use crate::http::request_trace;
use crate::http::routes::PageBody;
use crate::store::money::{BetFilter, Page};
use crate::telemetry::trace;

/// Maximum number of bets in one response.
const MAX_BETS: usize = 1_000;
/// Default number of bets in one response.
const DEFAULT_BETS: usize = 100;

/// `POST /bets {userId, eventId, market, line, selection, stake_cents, odd_value, oddsChange}`:
/// places a bet at the price that clients see now. With a key (header `Idempotency-Key`, else
/// `requestId`) a repeated request gets the first answer.
pub(super) async fn place(
    state: web::Data<BetsState>,
    CurrentCaller(caller): CurrentCaller,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let span = request_trace::begin(&request, &caller, "POST /bets");
    let placing = async {
        let body: BetBody = body::read(&request, payload).await?;
        let command = body.command(&caller, &request)?;
        let placed = state.placements.place(command).await?;
        Ok(HttpResponse::Ok().json(PlacedBody::from(placed)))
    };
    let answer = trace::scope(span.context(), placing).await;
    request_trace::end(span, answer.as_ref().err());
    answer
}

/// `GET /bets/{id}`: a bet and its steps. A bet that the caller may not see does not exist for it.
pub(super) async fn get_bet(
    state: web::Data<BetsState>,
    CurrentCaller(caller): CurrentCaller,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let not_found = || ApiError::BetNotFound(path.chars().take(80).collect());
    let bet_id: BetId = path.parse().map_err(|_| not_found())?;
    let is_visible = move |bet: &Bet| caller.sees(&bet.user_id);
    let found = state.queries.bet(bet_id, is_visible).await?;
    let (bet, history) = found.ok_or_else(not_found)?;
    Ok(HttpResponse::Ok().json(BetView::with_history(&bet, &history)))
}

/// `GET /bets?userId&status&outcome&limit&cursor`: a user's bets, newest first.
pub(super) async fn list(
    state: web::Data<BetsState>,
    CurrentCaller(caller): CurrentCaller,
    query: Query,
) -> Result<HttpResponse, ApiError> {
    let query = query.only(&["userId", "status", "outcome", "limit", "cursor"])?;
    let user_id = user_to_read(&caller, &query)?;
    let filter = BetFilter {
        status: query.parsed("status")?,
        outcome: query.parsed("outcome")?,
    };
    let limit = query.number("limit", 1, MAX_BETS)?.unwrap_or(DEFAULT_BETS);
    let page = Page {
        before: query.parsed("cursor")?,
        limit,
    };
    let bets = state.queries.bets(user_id, filter, page).await?;
    let page = PageBody::new(&bets, limit, BetView::new, |last| last.id.to_string());
    Ok(HttpResponse::Ok().json(page))
}
