//! The front of the public APIs: odds, wallets and bets under the prefixes of the original's
//! gateway. A service of the same process is mounted: its routes run here, on the same state as on
//! its own port. A service of another process is reached by HTTP.
//!
//! The gateway decides nothing about callers. It passes credentials on, and each service checks
//! them. With `AUTH=required` it says so in each request (the header `REQUIRED`), and a service that
//! does not check callers refuses it.

mod documents;
mod forward;
mod frames;
mod headers;
mod path;
mod relay;
mod service;
mod socket;
mod upstream;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse, Url};
use actix_web::http::uri::PathAndQuery;
use actix_web::http::{StatusCode, Uri, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::{HttpRequest, HttpResponse, web};
use tokio::sync::{Semaphore, watch};

pub(crate) use self::relay::{Ended, SocketsEnd};
pub(crate) use self::service::Service;
pub(crate) use self::upstream::{Failure, Upstream, UpstreamOptions};
use super::addresses::Addresses;
use super::errors::{ApiError, not_found};
use super::index::{self, Link, index};
use super::latency::{OTHER, RouteLabels, Timer, status_of};
use crate::telemetry::metrics::GatewayMetrics;

/// The service label of the gateway's own pages.
const OWN: &str = "gateway";

/// The routes whose latency is measured.
pub const ROUTES: &[RouteLabels] = &[
    index::ROUTE,
    ("/api/odds", "GET"),
    ("/api/wallet", "GET"),
    ("/api/wallet", "POST"),
    ("/api/bets", "GET"),
    ("/api/bets", "POST"),
];

/// Registers the routes of a role on a server thread.
pub(crate) type Routes = Arc<dyn Fn(&mut web::ServiceConfig) + Send + Sync>;

/// Where a service is.
#[derive(Clone)]
pub(crate) enum Backend {
    /// In this process.
    Mounted(Routes),
    /// In another process.
    Forwarded(Box<Upstream>),
}

/// Shared by every worker.
pub(crate) struct GatewayState {
    /// Sessions by client address, and the trusted proxies.
    pub addresses: Addresses,
    /// Whether services must authenticate callers: one with `AUTH=off` refuses forwarded requests.
    pub is_authentication_required: bool,
    /// The permits of forwarded sockets, [`GatewayState::max_sockets`] in all.
    pub sockets: Arc<Semaphore>,
    /// Maximum number of forwarded sockets.
    pub max_sockets: usize,
    /// How long the client of a forwarded socket may take nothing.
    pub slow_client_limit: Duration,
    /// How long a service may take nothing of a forwarded socket.
    pub answer_timeout: Duration,
    /// How the forwarded sockets end when the gateway stops.
    pub stopping: watch::Receiver<SocketsEnd>,
    /// The metrics.
    pub metrics: GatewayMetrics,
}

/// Registers the routes of the gateway.
pub(crate) fn routes(
    config: &mut web::ServiceConfig,
    state: &web::Data<GatewayState>,
    backends: &[(Service, Backend)],
) {
    let links = vec![
        Link::new("odds", "api/odds/"),
        Link::new("wallet", "api/wallet/"),
        Link::new("bets", "api/bets/"),
        documents::BOARD,
    ];
    let measure_own =
        |template| from_fn(move |request, next| measure(OWN, template, request, next));
    let (root, _) = index::ROUTE;
    config
        .app_data(state.clone())
        .service(index(OWN, links).wrap(measure_own(root)));
    for (service, backend) in backends {
        mount(config, *service, backend);
    }
    documents::mount(config);
    config.default_service(web::to(not_found).wrap(measure_own(OTHER)));
}

/// Registers a service under its prefix.
fn mount(config: &mut web::ServiceConfig, service: Service, backend: &Backend) {
    let prefix = service.prefix();
    let add_slash = move |request: HttpRequest| ready(add_slash(&request, prefix));
    let without_slash = web::resource(prefix)
        .wrap(from_fn(move |request, next| {
            measure(service.name(), prefix, request, next)
        }))
        .to(add_slash);
    let routes = web::scope(prefix).configure(|config| match backend {
        Backend::Mounted(routes) => routes(config),
        Backend::Forwarded(upstream) => {
            config
                .app_data(web::Data::new(upstream.for_this_thread()))
                .default_service(web::to(forward::forward));
        }
    });
    let routes = routes
        .wrap(from_fn(move |request, next| enter(service, request, next)))
        .wrap(from_fn(move |request, next| {
            measure(service.name(), prefix, request, next)
        }));
    config.service(without_slash).service(routes);
}

/// Counts and measures the requests to a service.
async fn measure(
    service: &'static str,
    template: &'static str,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let state = request.app_data::<web::Data<GatewayState>>().cloned();
    let timer = Timer::start(&request);
    let answer = next.call(request).await;
    if let Some(state) = state {
        let metrics = &state.metrics;
        timer.stop_as(&metrics.request_seconds, template, &answer);
        metrics
            .requests
            .with_label_values(&[service, status_of(&answer).as_str()])
            .inc();
    }
    answer
}

/// Removes the prefix of a service from a request, so that what follows sees the request as on the
/// service's own port.
async fn enter(
    service: Service,
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let target = request.uri().path_and_query();
    let target = target.map_or("", PathAndQuery::as_str);
    let target = path::strip_prefix(target, service.prefix())?;
    let target: Uri = target
        .parse()
        .map_err(|_| ApiError::BadRequest("the path cannot be read".to_owned()))?;
    request.match_info_mut().set(Url::new(target.clone()));
    request.head_mut().uri = target;
    next.call(request).await
}

/// Redirects from the prefix itself to the path below it, as the original does, so that relative
/// links work.
fn add_slash(request: &HttpRequest, prefix: &str) -> HttpResponse {
    let query = request.uri().query();
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    HttpResponse::build(StatusCode::PERMANENT_REDIRECT)
        .insert_header((header::LOCATION, format!("{prefix}/{query}")))
        .finish()
}
