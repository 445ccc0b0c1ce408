//! The simulator's two addresses: `GET /ws` and `POST /supplier/confirm`.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_actors::ws::WsResponseBuilder;

use super::Shared;
use super::confirm::{self, ConfirmRequest};
use super::session::Session;
use crate::http::connection::ConnectionHandle;
use crate::http::errors::{ApiError, method_not_allowed, not_found};

/// The largest body of a confirmation.
const MAX_BODY: usize = 16 * 1024;
/// The largest frame of a consumer, who has nothing to say but pongs.
const MAX_FRAME: usize = 16 * 1024;

/// Registers both addresses, and an answer for every other.
pub(super) fn configure(config: &mut web::ServiceConfig, shared: Arc<Shared>) {
    let get_only = web::to(|request| method_not_allowed(request, "GET"));
    let post_only = web::to(|request| method_not_allowed(request, "POST"));
    config
        .app_data(web::Data::from(shared))
        .service(web::resource("/ws").get(connect).default_service(get_only))
        .service(web::resource("/supplier/confirm").post(confirm_bet).default_service(post_only))
        .default_service(web::to(not_found));
}

async fn connect(
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, ApiError> {
    // Put there when the connection was accepted; without it a consumer that has stopped reading is only forgotten.
    let connection = request.conn_data::<ConnectionHandle>().cloned();
    let session = Session::new(shared.into_inner(), connection);
    let upgrade = WsResponseBuilder::new(session, &request, payload).frame_size(MAX_FRAME).start();
    upgrade.map_err(|error| ApiError::BadHandshake(error.to_string()))
}

/// The body is read whatever its `Content-Type` says: the original's client names none.
async fn confirm_bet(payload: web::Payload, shared: web::Data<Shared>) -> Result<HttpResponse, ApiError> {
    let body = payload.to_bytes_limited(MAX_BODY).await.map_err(|_| ApiError::PayloadTooLarge(MAX_BODY))?;
    let body = body.map_err(|error| ApiError::BadRequest(format!("the body cannot be read: {error}")))?;
    let request = ConfirmRequest::from_json(&body).map_err(|error| ApiError::BadRequest(error.to_string()))?;
    let answer = confirm::confirm(&request.bet_id);
    shared.metrics.confirmations.with_label_values(&[answer.status.label()]).inc();
    log::debug!(
        bet = request.bet_id.as_str(),
        user = request.user_id.as_deref(),
        event = request.event_id.as_deref(),
        stake_cents = request.stake_cents,
        odd_value = request.odd_value;
        "a bet is {}", answer.status.label()
    );
    Ok(HttpResponse::Ok().json(answer))
}
