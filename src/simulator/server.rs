//! The simulator's two addresses: `GET /ws` and `POST /supplier/confirm`.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use actix_web_actors::ws::WsResponseBuilder;
use serde::Serialize;
use socket2::Socket;

use super::Shared;
use super::confirm::{self, BadConfirmRequest, ConfirmRequest};
use super::session::Session;

/// The largest body of a confirmation.
const MAX_BODY: usize = 16 * 1024;
/// The largest frame of a consumer, who has nothing to say but pongs.
const MAX_FRAME: usize = 16 * 1024;

/// Registers both addresses, and an answer for every other.
pub(super) fn configure(config: &mut web::ServiceConfig, shared: Arc<Shared>) {
    let only = |method: Method| web::to(move || std::future::ready(not_allowed(&method)));
    config
        .app_data(web::Data::from(shared))
        .service(web::resource("/ws").get(connect).default_service(only(Method::GET)))
        .service(web::resource("/supplier/confirm").post(confirm_bet).default_service(only(Method::POST)))
        .default_service(web::to(not_found));
}

async fn connect(request: HttpRequest, payload: web::Payload, shared: web::Data<Shared>) -> HttpResponse {
    // Put there when the connection was accepted; without it a consumer that has stopped reading is only forgotten.
    let socket = request.conn_data::<Arc<Socket>>().cloned();
    let session = Session::new(shared.into_inner(), socket);
    match WsResponseBuilder::new(session, &request, payload).frame_size(MAX_FRAME).start() {
        Ok(response) => response,
        Err(error) => problem(HttpResponse::BadRequest(), "BAD_HANDSHAKE", &format!("no WebSocket handshake: {error}")),
    }
}

/// The body is read whatever its `Content-Type` says: the original's client names none.
async fn confirm_bet(payload: web::Payload, shared: web::Data<Shared>) -> HttpResponse {
    let body = match payload.to_bytes_limited(MAX_BODY).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => {
            return problem(HttpResponse::BadRequest(), "BAD_BODY", &format!("the body cannot be read: {error}"));
        }
        Err(_) => {
            let message = format!("a body may have {MAX_BODY} bytes");
            return problem(HttpResponse::PayloadTooLarge(), "BODY_TOO_LARGE", &message);
        }
    };
    let request = match ConfirmRequest::from_json(&body) {
        Ok(request) => request,
        Err(error) => return problem(HttpResponse::BadRequest(), code_of(&error), &error.to_string()),
    };
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
    HttpResponse::Ok().json(answer)
}

fn code_of(error: &BadConfirmRequest) -> &'static str {
    match error {
        BadConfirmRequest::Malformed(_) => "BAD_JSON",
        BadConfirmRequest::NoBetId => "BAD_BET_ID",
    }
}

async fn not_found(request: HttpRequest) -> HttpResponse {
    problem(HttpResponse::NotFound(), "NOT_FOUND", &format!("nothing is at {}", request.path()))
}

fn not_allowed(allowed: &Method) -> HttpResponse {
    let mut response = HttpResponse::build(StatusCode::METHOD_NOT_ALLOWED);
    response.insert_header((header::ALLOW, allowed.as_str()));
    problem(response, "METHOD_NOT_ALLOWED", &format!("only {allowed} is allowed here"))
}

#[derive(Serialize)]
struct Problem<'a> {
    code: &'a str,
    message: &'a str,
}

fn problem(mut response: HttpResponseBuilder, code: &str, message: &str) -> HttpResponse {
    response.json(Problem { code, message })
}
