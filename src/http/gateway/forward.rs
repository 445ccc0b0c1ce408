//! Forwards a request to a service in another process, and its answer to the client.

use std::net::IpAddr;

use actix_web::body::SizedStream;
use actix_web::dev::AppConfig;
use actix_web::http::{StatusCode, header as actix_header};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use bytes::Bytes;
use futures_util::{Stream, stream};
use reqwest::{Method, Request, Response};

use super::GatewayState;
use super::headers::{self, Hop};
use super::service::Service;
use super::socket;
use super::upstream::Upstream;
use crate::http::authorization::credential;
use crate::http::errors::ApiError;
use crate::http::limits::RequestLimits;
use crate::http::request_trace;
use crate::http::streaming::handshake::has_token;
use crate::telemetry::trace::{self, SampledRequest, Span};

/// Maximum size of the body of a forwarded request, in bytes. It is read before it is forwarded, so
/// that a slow client holds no connection to a service.
const MAX_BODY: usize = 64 * 1024;

/// Forwards a request.
pub(super) async fn forward(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<GatewayState>,
    upstream: web::Data<Upstream>,
) -> Result<HttpResponse, ApiError> {
    if offers_websocket(&request) {
        return socket::open(&request, payload, &state, &upstream).await;
    }
    if request.head().upgrade() {
        let problem = "only a GET can be upgraded, and only to `websocket`";
        return Err(ApiError::BadRequest(problem.to_owned()));
    }
    let body = read_body(&request, payload).await?;
    let mut forwarded = forwarded_request(&request, &state, &upstream)?;
    if !body.is_empty() {
        *forwarded.body_mut() = Some(body.into());
    }
    let span = begin_trace(&request, &state, &upstream, &mut forwarded);
    let sent = trace::scope(span.context(), upstream.send(forwarded)).await;
    match &sent {
        Ok(answer) => request_trace::end_with(span, answer.status().as_u16(), ""),
        Err(error) => request_trace::end(span, Some(error)),
    }
    let answer = sent?;
    charge_if_refused(&request, answer.status());
    Ok(answer_of(answer, &request, upstream))
}

/// Begins the span of a request that places a bet. The service is sent whether it is sampled.
fn begin_trace(
    request: &HttpRequest,
    state: &GatewayState,
    upstream: &Upstream,
    forwarded: &mut Request,
) -> Span {
    let places_bet =
        request.method() == actix_web::http::Method::POST && request.uri().path() == "/bets";
    if upstream.service != Service::Bets || !places_bet {
        return Span::default();
    }
    let is_trusted = peer_of(request).is_some_and(|peer| state.addresses.is_trusted(peer));
    let incoming = request_trace::incoming(request.headers());
    let SampledRequest { span, decision } =
        trace::sample_bet(incoming, is_trusted, "POST /api/bets");
    if let Some(decision) = decision {
        headers::set_trace(forwarded.headers_mut(), decision);
    }
    span
}

/// Charges the client for a credential that the service has refused. The service charges only the
/// gateway, unless it is told to trust it.
pub(super) fn charge_if_refused(request: &HttpRequest, status: http::StatusCode) {
    if status != http::StatusCode::UNAUTHORIZED || matches!(credential(request.headers()), Ok(None))
    {
        return;
    }
    if let Some(limits) = request.app_data::<RequestLimits>() {
        limits.charge_failed_authentication(limits.client(request.head()));
    }
}

/// Whether the client asks for a WebSocket. The service checks the rest of the handshake.
fn offers_websocket(request: &HttpRequest) -> bool {
    let headers = request.headers();
    request.method() == actix_web::http::Method::GET
        && has_token(headers, &actix_header::UPGRADE, "websocket")
        && has_token(headers, &actix_header::CONNECTION, "upgrade")
}

async fn read_body(request: &HttpRequest, payload: web::Payload) -> Result<Bytes, ApiError> {
    let announced = request
        .headers()
        .get(actix_header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(ApiError::PayloadTooLarge(MAX_BODY));
    }
    let body = payload
        .to_bytes_limited(MAX_BODY)
        .await
        .map_err(|_| ApiError::PayloadTooLarge(MAX_BODY))?;
    body.map_err(|error| ApiError::BadRequest(format!("cannot read the body: {error}")))
}

/// The request as it is sent to the service, without its body.
pub(super) fn forwarded_request(
    request: &HttpRequest,
    state: &GatewayState,
    upstream: &Upstream,
) -> Result<Request, ApiError> {
    let method = Method::from_bytes(request.method().as_str().as_bytes())
        .map_err(|_| ApiError::BadRequest("the method cannot be forwarded".to_owned()))?;
    let mut forwarded = upstream.request(method, request.uri());
    let host = request.headers().get(actix_header::HOST);
    let peer = peer_of(request);
    let hop = Hop {
        peer,
        is_trusted: peer.is_some_and(|peer| state.addresses.is_trusted(peer)),
        host: host.and_then(|host| host.to_str().ok()).unwrap_or_default(),
        scheme: scheme_of(request.app_config()),
        is_authentication_required: state.is_authentication_required,
    };
    *forwarded.headers_mut() = headers::to_service(request.headers(), &hop);
    Ok(forwarded)
}

/// The address of the other end of the connection.
pub(super) fn peer_of(request: &HttpRequest) -> Option<IpAddr> {
    Some(request.peer_addr()?.ip().to_canonical())
}

fn scheme_of(config: &AppConfig) -> &'static str {
    if config.secure() { "https" } else { "http" }
}

/// The answer of the service for the client.
pub(super) fn answer_of(
    answer: Response,
    request: &HttpRequest,
    upstream: web::Data<Upstream>,
) -> HttpResponse {
    let mut out = head_of(&answer);
    let length = answer
        .headers()
        .get(http::header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let status = answer.status();
    if status == http::StatusCode::NO_CONTENT || status == http::StatusCode::NOT_MODIFIED {
        return out.finish();
    }
    if request.method() == actix_web::http::Method::HEAD {
        let nothing = stream::empty::<Result<Bytes, ApiError>>();
        return match length {
            Some(length) => out.body(SizedStream::new(length, nothing)),
            None => out.streaming(nothing),
        };
    }
    match length {
        Some(length) => out.body(SizedStream::new(length, body_of(answer, upstream))),
        None => out.streaming(body_of(answer, upstream)),
    }
}

/// Status and headers of an answer.
pub(super) fn head_of(answer: &Response) -> HttpResponseBuilder {
    // The gateway asked for no protocol other than WebSocket, so 1xx is not an answer to it.
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut out = HttpResponse::build(status);
    for header in headers::to_client(answer.headers()) {
        out.append_header(header);
    }
    out
}

/// The body of an answer, as it arrives. It ends with an error if the service breaks it off, so that
/// the client does not take it for complete.
fn body_of(
    answer: Response,
    upstream: web::Data<Upstream>,
) -> impl Stream<Item = Result<Bytes, ApiError>> {
    stream::unfold(Some(answer), move |answer| {
        let upstream = upstream.clone();
        async move {
            let mut answer = answer?;
            match answer.chunk().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(answer))),
                Ok(None) => None,
                Err(error) => Some((Err(upstream.failed(error)), None)),
            }
        }
    })
}
