//! The public routes of the role `odds`.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header;
use actix_web::middleware::{Compress, Next, from_fn};
use actix_web::web;
use prometheus::HistogramVec;

use super::errors::{ApiError, method_not_allowed, not_found};
use super::latency::{Route, RouteLabels, Timed, Timer, time_requests};
use super::query::check_escapes;
use super::ready::ReadyAnswers;
use super::state::OddsState;
use super::{content, odds, ws};

/// A request has no use for a body; one beyond this is not even read.
pub const MAX_BODY: usize = 64 * 1024;

/// The routes whose latency is measured.
pub const ROUTES: &[RouteLabels] = &[
    ("/v1/events", "GET"),
    ("/v1/events/{id}/markets", "GET"),
    ("/v1/events/{id}/odds", "GET"),
    ("/v1/events/{id}/markets/{market}/history", "GET"),
    ("/ws/odds", "GET"),
];

/// REST under `/v1`, and `/ws/odds`.
pub fn odds_routes(config: &mut web::ServiceConfig) {
    let rest = web::scope("/v1")
        .wrap(Compress::default())
        .wrap(from_fn(check_request))
        .wrap(from_fn(count_requests))
        .service(read("/events").get(odds::list_events).app_data(Route::new("/v1/events", "GET")))
        .service(
            read("/events/{id}/markets").get(odds::list_markets).app_data(Route::new("/v1/events/{id}/markets", "GET")),
        )
        .service(read("/events/{id}/odds").get(odds::get_odds).app_data(Route::new("/v1/events/{id}/odds", "GET")))
        .service(
            read("/events/{id}/markets/{market}/history")
                .get(odds::get_history)
                .app_data(Route::new("/v1/events/{id}/markets/{market}/history", "GET")),
        )
        .default_service(web::to(not_found));
    let socket = web::resource("/ws/odds")
        .app_data(Route::new("/ws/odds", "GET"))
        .wrap(from_fn(time_requests::<OddsState>))
        .route(web::get().to(ws::open))
        .default_service(web::to(|request| method_not_allowed(request, "GET")));
    // A thread's own: each configures its routes.
    let unknown = web::to(not_found).wrap(from_fn(time_requests::<OddsState>));
    config.app_data(web::Data::new(ReadyAnswers::default())).service(rest).service(socket).default_service(unknown);
}

impl Timed for OddsState {
    fn request_seconds(&self) -> &HistogramVec {
        &self.metrics.request_seconds
    }
}

/// A path that is only read.
pub(super) struct Read(&'static str);

/// A path that is only read.
pub(super) fn read(path: &'static str) -> Read {
    Read(path)
}

impl Read {
    /// A resource that is read by GET and HEAD, and takes no other method.
    pub(super) fn get<F, Args>(self, handler: F) -> actix_web::Resource
    where
        F: actix_web::Handler<Args> + Clone,
        Args: actix_web::FromRequest + 'static,
        F::Output: actix_web::Responder + 'static,
    {
        web::resource(self.0)
            .route(web::get().to(handler.clone()))
            .route(web::head().to(handler))
            .default_service(web::to(|request| method_not_allowed(request, "GET, HEAD")))
    }
}

/// Refuses an address that cannot be read, and a body that is too large or of a kind that is not taken, before it is
/// read.
async fn check_request(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    check_escapes(request.uri().path())?;
    check_escapes(request.query_string())?;
    let header = |name| request.headers().get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let length = header(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
    if length > MAX_BODY {
        return Err(ApiError::PayloadTooLarge(MAX_BODY).into());
    }
    content::check(request.headers())?;
    next.call(request).await
}

/// Counts answers by their status, and measures their latency.
async fn count_requests(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let state = request.app_data::<web::Data<OddsState>>().cloned();
    let timer = Timer::start(&request);
    let answer = next.call(request).await;
    if let Some(state) = state {
        timer.stop(&state.metrics.request_seconds, &answer);
        let status = match &answer {
            Ok(response) => response.status(),
            Err(error) => error.as_response_error().status_code(),
        };
        state.metrics.requests.with_label_values(&[status.as_str()]).inc();
    }
    answer
}
