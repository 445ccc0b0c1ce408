//! `/wallet…`: users' money. The paths, bodies and field names of the original, with additions.

mod handlers;
mod request;
mod view;

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::middleware::from_fn;
use actix_web::web;
use prometheus::HistogramVec;

use super::errors::not_found;
use super::index::{self, Link, index};
use super::latency::{Route, RouteLabels, Timed, time_requests};
use super::routes::{CountsRequests, count_requests, post_resource, read_resource};
use crate::domain::access::Scope;
use crate::services::wallet::operations::WalletOperations;
use crate::telemetry::metrics::WalletMetrics;

/// Shared by every worker.
pub struct WalletState {
    /// Reads wallets and moves money.
    pub operations: Arc<WalletOperations>,
    /// The metrics.
    pub metrics: WalletMetrics,
}

/// The routes whose latency is measured.
pub const ROUTES: &[RouteLabels] = &[
    index::ROUTE,
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
            read_resource("", Scope::WalletRead, handlers::get_wallet)
                .app_data(Route::new("/wallet", "GET")),
        )
        .service(
            read_resource("/ledger", Scope::WalletRead, handlers::get_ledger)
                .app_data(Route::new("/wallet/ledger", "GET")),
        )
        .service(
            read_resource(
                "/reservations",
                Scope::WalletRead,
                handlers::get_reservations,
            )
            .app_data(Route::new("/wallet/reservations", "GET")),
        )
        .service(
            post_resource("/deposit", Scope::WalletMove, handlers::deposit)
                .app_data(Route::new("/wallet/deposit", "POST")),
        )
        .service(
            post_resource("/withdraw", Scope::WalletMove, handlers::withdraw)
                .app_data(Route::new("/wallet/withdraw", "POST")),
        )
        .service(
            post_resource("/reserve", Scope::WalletMove, handlers::reserve)
                .app_data(Route::new("/wallet/reserve", "POST")),
        )
        .service(
            post_resource("/commit", Scope::WalletMove, handlers::commit)
                .app_data(Route::new("/wallet/commit", "POST")),
        )
        .service(
            post_resource("/refund", Scope::WalletMove, handlers::refund)
                .app_data(Route::new("/wallet/refund", "POST")),
        )
        .default_service(web::to(not_found));
    let index = index("wallet", vec![Link::new("wallet", "wallet")]);
    config
        .service(index.wrap(from_fn(count_requests::<WalletState>)))
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
