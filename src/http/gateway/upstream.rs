//! The connections of the gateway to a service in another process.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::Uri;
use log::{info, warn};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Request, Response};
use rustls::ClientConfig;
use strum::{IntoStaticStr, VariantNames};
use url::Url;

use super::service::Service;
use crate::http::errors::ApiError;
use crate::runtime::error_text::with_sources;
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::GatewayMetrics;

/// Maximum number of idle connections of a server thread to a service.
const MAX_IDLE: usize = 64;

/// Why a service did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[derive(IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Failure {
    /// No connection.
    Connect,
    /// No answer in time.
    Timeout,
    /// The connection or the answer broke off.
    Broken,
}

impl Failure {
    fn of(error: &reqwest::Error) -> Failure {
        if error.is_connect() {
            Failure::Connect
        } else if error.is_timeout() {
            Failure::Timeout
        } else {
            Failure::Broken
        }
    }
}

/// How the gateway connects to services.
#[derive(Clone)]
pub(crate) struct UpstreamOptions {
    /// How long it waits for a connection.
    pub connect_timeout: Duration,
    /// How long it waits for an answer, and for each further part of it.
    pub answer_timeout: Duration,
    /// How long an idle connection is kept: shorter than the service keeps it.
    pub keep_idle: Duration,
    /// Who is trusted.
    pub tls: Arc<ClientConfig>,
}

impl UpstreamOptions {
    fn client(&self) -> reqwest::Result<Client> {
        Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(&self.tls))
            .connect_timeout(self.connect_timeout)
            .read_timeout(self.answer_timeout)
            .pool_idle_timeout(self.keep_idle)
            .pool_max_idle_per_host(MAX_IDLE)
            // The client of the gateway follows redirects, not the gateway.
            .redirect(Policy::none())
            .no_proxy()
            .build()
    }
}

/// A service in another process.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(super) service: Service,
    url: Url,
    client: Client,
    options: UpstreamOptions,
    faults: Arc<FaultLog>,
    metrics: GatewayMetrics,
}

impl Upstream {
    /// The service at this address: scheme, host and port.
    pub(crate) fn new(
        service: Service,
        url: Url,
        options: UpstreamOptions,
        metrics: GatewayMetrics,
    ) -> Result<Upstream, String> {
        let client = options.client().map_err(|error| with_sources(&error))?;
        Ok(Upstream {
            service,
            url,
            client,
            options,
            faults: Arc::default(),
            metrics,
        })
    }

    /// The same service over connections of the calling thread: they end with its runtime.
    pub(super) fn for_this_thread(&self) -> Upstream {
        let mut own = self.clone();
        // The same options have been accepted before.
        if let Ok(client) = self.options.client() {
            own.client = client;
        }
        own
    }

    /// A request for a path and query of the service.
    pub(super) fn request(&self, method: Method, target: &Uri) -> Request {
        let mut url = self.url.clone();
        url.set_path(target.path());
        url.set_query(target.query());
        Request::new(method, url)
    }

    /// Sends a request and waits for the head of the answer. A read is sent again if no connection
    /// was made; anything else may have been executed.
    pub(super) async fn send(&self, request: Request) -> Result<Response, ApiError> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let again = request.try_clone().filter(|_| is_read);
        let sent = match (self.client.execute(request).await, again) {
            (Err(error), Some(again)) if error.is_connect() => {
                let retries = &self.metrics.upstream_retries;
                retries.with_label_values(&[self.service.name()]).inc();
                self.client.execute(again).await
            }
            (sent, _) => sent,
        };
        if sent.is_ok() && self.faults.recovered() {
            info!("`{}` answers again", self.service.name());
        }
        sent.map_err(|error| self.failed(error))
    }

    /// Counts and logs a failure, and returns the error for the client.
    pub(super) fn failed(&self, error: reqwest::Error) -> ApiError {
        let service = self.service.name();
        let failure = Failure::of(&error);
        let kind: &'static str = failure.into();
        self.metrics
            .upstream_errors
            .with_label_values(&[service, kind])
            .inc();
        if let Some(repeated) = self.faults.failed(kind) {
            // The URL contains the query of a client.
            let cause = with_sources(&error.without_url());
            warn!(error = kind, repeated; "`{service}` does not answer: {cause}");
        }
        match failure {
            Failure::Timeout => ApiError::UpstreamTimeout(service),
            Failure::Connect | Failure::Broken => ApiError::UpstreamUnavailable(service),
        }
    }

    /// Whether the service accepts connections.
    pub(crate) async fn is_reachable(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        // An IPv6 address is in brackets in a URL only.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_or_known_default().unwrap_or_default();
        let connecting = tokio::net::TcpStream::connect((host, port));
        let connected = tokio::time::timeout(self.options.connect_timeout, connecting).await;
        matches!(connected, Ok(Ok(_)))
    }
}
