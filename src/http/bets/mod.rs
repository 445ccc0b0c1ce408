//! `/bets…`: bets at the current price. The paths, bodies and field names of the original, with
//! additions.

mod handlers;
mod request;
mod view;

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::middleware::from_fn;
use actix_web::web;
use prometheus::HistogramVec;

use super::errors::{method_not_allowed, not_found};
use super::index::{self, Link, index};
use super::latency::{Route, RouteLabels, Timed, time_requests};
use super::routes::{CountsRequests, count_requests, get, head, post, read_resource};
use crate::domain::access::Scope;
use crate::services::bets::placement::PlacementService;
use crate::services::bets::queries::BetQueries;
use crate::telemetry::metrics::BetsMetrics;

/// Shared by every worker.
pub struct BetsState {
    /// Places bets.
    pub placements: Arc<PlacementService>,
    /// Reads bets.
    pub queries: Arc<BetQueries>,
    /// The metrics.
    pub metrics: BetsMetrics,
}

/// The routes whose latency is measured.
pub const ROUTES: &[RouteLabels] = &[
    index::ROUTE,
    ("/bets", "POST"),
    ("/bets", "GET"),
    ("/bets/{id}", "GET"),
];

/// The routes of the role `bets`.
pub fn routes(config: &mut web::ServiceConfig) {
    let bets = web::resource("/bets")
        .app_data(Route::new("/bets", "POST"))
        .wrap(from_fn(count_requests::<BetsState>))
        .route(post(Scope::BetsWrite, handlers::place))
        .route(get(Scope::BetsRead, handlers::list))
        .route(head(Scope::BetsRead, handlers::list))
        .default_service(web::to(|request| {
            method_not_allowed(request, "GET, HEAD, POST")
        }));
    let bet = read_resource("/bets/{id}", Scope::BetsRead, handlers::get_bet)
        .app_data(Route::new("/bets/{id}", "GET"));
    let unknown = web::to(not_found).wrap(from_fn(time_requests::<BetsState>));
    let index = index("bets", vec![Link::new("bets", "bets")]);
    config
        .service(index.wrap(from_fn(count_requests::<BetsState>)))
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
