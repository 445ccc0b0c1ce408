//! The public routes of the role `odds`.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{StatusCode, header};
use actix_web::middleware::{Compress, Next, from_fn};
use actix_web::web;
use prometheus::HistogramVec;

use super::response_cache::ResponseCache;
use super::state::OddsState;
use super::{events, results};
use crate::domain::access::Scope;
use crate::http::content;
use crate::http::errors::{ApiError, method_not_allowed, not_found};
use crate::http::index::{self, Link, index};
use crate::http::latency::{Route, RouteLabels, Timed, time_requests};
use crate::http::routes::{CountsRequests, count_requests, read_resource, upgrade};
use crate::http::streaming::websocket;

/// Maximum size of a request body. No request needs one; a larger one is not even read.
pub const MAX_BODY: usize = 64 * 1024;

/// The routes whose latency is measured.
pub const ROUTES: &[RouteLabels] = &[
    index::ROUTE,
    ("/v1/events", "GET"),
    ("/v1/events/{id}/markets", "GET"),
    ("/v1/events/{id}/odds", "GET"),
    ("/v1/events/{id}/results", "GET"),
    ("/v1/events/{id}/markets/{market}/history", "GET"),
    ("/ws/odds", "GET"),
];

/// REST under `/v1`, and `/ws/odds`.
pub fn odds_routes(config: &mut web::ServiceConfig) {
    let rest = web::scope("/v1")
        .wrap(Compress::default())
        .wrap(from_fn(check_request))
        .wrap(from_fn(count_requests::<OddsState>))
        .service(
            read_resource("/events", Scope::OddsRead, events::list_events)
                .app_data(Route::new("/v1/events", "GET")),
        )
        .service(
            read_resource(
                "/events/{id}/markets",
                Scope::OddsRead,
                events::list_markets,
            )
            .app_data(Route::new("/v1/events/{id}/markets", "GET")),
        )
        .service(
            read_resource("/events/{id}/odds", Scope::OddsRead, events::get_odds)
                .app_data(Route::new("/v1/events/{id}/odds", "GET")),
        )
        .service(
            read_resource(
                "/events/{id}/results",
                Scope::OddsRead,
                results::get_results,
            )
            .app_data(Route::new("/v1/events/{id}/results", "GET")),
        )
        .service(
            read_resource(
                "/events/{id}/markets/{market}/history",
                Scope::OddsRead,
                events::get_history,
            )
            .app_data(Route::new(
                "/v1/events/{id}/markets/{market}/history",
                "GET",
            )),
        )
        .default_service(web::to(not_found));
    let socket = web::resource("/ws/odds")
        .app_data(Route::new("/ws/odds", "GET"))
        .wrap(from_fn(time_requests::<OddsState>))
        .route(upgrade(Scope::OddsRead, websocket::open).wrap(from_fn(websocket::count_refusals)))
        .default_service(web::to(|request| method_not_allowed(request, "GET")));
    let links = vec![
        Link::new("events", "v1/events"),
        Link::new("socket", "ws/odds"),
    ];
    let index = index("odds", links).wrap(from_fn(count_requests::<OddsState>));
    // The response cache belongs to one thread, since each thread configures its own routes.
    let unknown = web::to(not_found).wrap(from_fn(time_requests::<OddsState>));
    config
        .app_data(web::Data::new(ResponseCache::default()))
        .service(index)
        .service(rest)
        .service(socket)
        .default_service(unknown);
}

impl Timed for OddsState {
    fn request_seconds(&self) -> &HistogramVec {
        &self.metrics.request_seconds
    }
}

impl CountsRequests for OddsState {
    fn count(&self, status: StatusCode) {
        self.metrics
            .requests
            .with_label_values(&[status.as_str()])
            .inc();
    }
}

/// Refuses a body that is too large or has a content type that is not accepted, before it is read.
async fn check_request(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value: &header::HeaderValue| value.to_str().ok())
    };
    let length = header(header::CONTENT_LENGTH)
        .and_then(|length| length.parse::<usize>().ok())
        .unwrap_or(0);
    if length > MAX_BODY {
        return Err(ApiError::PayloadTooLarge(MAX_BODY).into());
    }
    content::check(request.headers())?;
    next.call(request).await
}
