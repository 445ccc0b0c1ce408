//! The simulator's HTTP routes: `GET /ws`, `POST /supplier/confirm`, `POST /supplier/cancel` and
//! `GET /supplier/bets/{id}`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::ws::Codec;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_actors::ws::WebsocketContext;
use prometheus::HistogramVec;

use super::Shared;
use super::bet_register::{BookedStatus, CancelRequest};
use super::confirm::ConfirmRequest;
use super::faults::{self, Fault};
use super::session::Session;
use crate::domain::json;
use crate::http::body;
use crate::http::connections::Connection;
use crate::http::errors::{ApiError, method_not_allowed, not_found};
use crate::http::latency::{Route, RouteLabels, Timed, time_requests};
use crate::http::origin::check_page;
use crate::http::streaming::frame_limit::{FrameLimiter, FrameLimits, UnfinishedBytes};
use crate::http::streaming::handshake;
use crate::runtime::connection::ConnectionHandle;

/// How long a request is held if the supplier is silent. The client's timeout is much shorter.
const SILENT_HOLD: Duration = Duration::from_secs(60);
/// Limits on what a consumer may send; it only needs to send pongs.
pub(super) fn frame_limits() -> FrameLimits {
    FrameLimits {
        largest: 16 * 1024,
        frames_per_second: 1_000,
        bytes_per_second: 64 * 1024,
        unfinished: UnfinishedBytes::new(4 * 1024 * 1024), // of all consumers together
    }
}

/// The routes with latency metrics.
pub(super) const ROUTES: &[RouteLabels] = &[
    ("/ws", "GET"),
    ("/supplier/confirm", "POST"),
    ("/supplier/cancel", "POST"),
    ("/supplier/bets/{id}", "GET"),
];

impl Timed for Shared {
    fn request_seconds(&self) -> &HistogramVec {
        &self.metrics.request_seconds
    }
}

/// Registers the routes and the default responses.
pub(super) fn configure(config: &mut web::ServiceConfig, shared: Arc<Shared>) {
    let get_only = web::to(|request| method_not_allowed(request, "GET"));
    let get_a_bet_only = web::to(|request| method_not_allowed(request, "GET"));
    let post_only = || web::to(|request| method_not_allowed(request, "POST"));
    let timed = |path, method| {
        web::resource(path)
            .app_data(Route::new(path, method))
            .wrap(from_fn(time_requests::<Shared>))
    };
    config
        .app_data(web::Data::from(shared))
        .service(timed("/ws", "GET").get(connect).default_service(get_only))
        .service(
            timed("/supplier/confirm", "POST")
                .post(confirm_bet)
                .default_service(post_only()),
        )
        .service(
            timed("/supplier/cancel", "POST")
                .post(cancel_bet)
                .default_service(post_only()),
        )
        .service(
            timed("/supplier/bets/{id}", "GET")
                .get(booked_bet)
                .default_service(get_a_bet_only),
        )
        .default_service(web::to(not_found).wrap(from_fn(time_requests::<Shared>)));
}

async fn connect(
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, ApiError> {
    check_page(request.headers(), &[])?;
    let mut answer = handshake::accept(&request)?;
    // Stored when the connection was accepted. Without it, a consumer that has stopped reading is
    // only forgotten.
    let connection = request.conn_data::<ConnectionHandle>().cloned();
    let guarded = request.conn_data::<Rc<Connection>>();
    let from_client = FrameLimiter::new(payload, shared.frames.clone(), guarded);
    if let Some(connection) = guarded {
        connection.upgrade();
    }
    let codec = Codec::new().max_size(shared.frames.largest);
    let session = Session::new(
        shared.into_inner(),
        connection,
        guarded.cloned(),
        from_client.violation(),
    );
    Ok(answer.streaming(WebsocketContext::with_codec(session, from_client, codec)))
}

async fn confirm_bet(
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, ApiError> {
    let body = body::bytes(&request, payload).await?;
    let request = ConfirmRequest::from_json(&body)
        .map_err(|error| ApiError::BadRequest(error.to_string()))?;
    let (fault, garbage) = {
        let mut random = shared.random();
        (
            shared.faults.draw(&mut random),
            faults::garbage(&mut random),
        )
    };
    if let Some(fault) = fault {
        shared
            .metrics
            .faults
            .with_label_values(&[fault.as_str()])
            .inc();
    }
    // Decided before the delay: a bet whose response is lost or late is recorded anyway.
    let answer = (fault != Some(Fault::Error)).then(|| shared.books().confirm(&request.bet_id));
    tokio::time::sleep(shared.faults.delay).await;
    let answer = match (fault, answer) {
        (Some(Fault::Error), _) | (_, None) => {
            return Ok(HttpResponse::InternalServerError().body("simulated supplier fault"));
        }
        (Some(Fault::Silent), _) => {
            tokio::time::sleep(SILENT_HOLD).await;
            return Ok(HttpResponse::GatewayTimeout().finish());
        }
        (Some(Fault::Garbage), _) => {
            return Ok(HttpResponse::Ok()
                .content_type("application/json")
                .body(garbage));
        }
        (None, Some(answer)) => answer,
    };
    shared
        .metrics
        .confirmations
        .with_label_values(&[answer.status.label()])
        .inc();
    log::debug!(
        bet = request.bet_id.as_str(),
        user = request.user_id.as_deref(),
        event = request.event_id.as_deref(),
        stake_cents = request.stake_cents,
        odd_value = request.odd_value;
        "bet {}", answer.status.label()
    );
    Ok(HttpResponse::Ok().json(answer))
}

async fn cancel_bet(
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, ApiError> {
    let body = body::bytes(&request, payload).await?;
    let request: CancelRequest = json::from_slice(&body)
        .map_err(|error| ApiError::BadRequest(format!("not a cancellation request: {error}")))?;
    if request.bet_id.is_empty() {
        return Err(ApiError::BadRequest("betId is empty".to_owned()));
    }
    shared.books().cancel(&request.bet_id);
    shared.metrics.cancellations.inc();
    log::debug!(bet = request.bet_id.as_str(); "bet cancelled");
    Ok(HttpResponse::Ok().json(serde_json::json!({ "status": BookedStatus::Cancelled })))
}

async fn booked_bet(
    bet_id: web::Path<String>,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, ApiError> {
    let booked = shared.books().bet(&bet_id);
    booked
        .map(|bet| HttpResponse::Ok().json(bet))
        .ok_or_else(|| ApiError::NotFound(format!("/supplier/bets/{bet_id}")))
}
