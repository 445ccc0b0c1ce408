//! The `gateway` role: the public APIs of odds, wallets and bets under one address.

use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::web;
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};
use strum::VariantArray;
use tokio::sync::{Semaphore, watch};

use super::builder::PlatformBuilder;
use super::odds::cores;
use super::{StartError, bounds, role_metrics};
use crate::config::settings::{GatewaySettings, Role, Settings};
use crate::http::addresses::Addresses;
use crate::http::documents;
use crate::http::gateway::{
    self, Backend, GatewayState, Routes, Service, SocketsEnd, Upstream, UpstreamOptions,
};
use crate::http::health::Check;
use crate::http::server::{self, Bounds, Listen};
use crate::runtime::tls::{self, TlsSetupError};
use crate::telemetry::metrics::GatewayMetrics;

/// Why the gateway cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// TLS to the services cannot be configured.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The HTTP client of a service cannot be created.
    #[error("{variable}: {cause}")]
    Client {
        /// The setting that names the service's address.
        variable: &'static str,
        /// The fault.
        cause: String,
    },
    /// The service runs neither in this process nor at a known address.
    #[error("{0} is not set")]
    NoAddress(&'static str),
}

impl PlatformBuilder<'_> {
    /// Starts the server of a service's own port, which also has the documents of the API and a page
    /// that shows them. The gateway of this process mounts the same routes.
    pub(super) fn start_service<F>(
        &mut self,
        service: Service,
        bounds: Bounds,
        listen: Listen,
        routes: F,
    ) -> Result<SocketAddr, StartError>
    where
        F: Fn(&mut web::ServiceConfig) + Send + Sync + 'static,
    {
        let routes: Routes = Arc::new(move |config: &mut web::ServiceConfig| {
            documents::routes(config);
            documents::swagger::routes(config);
            routes(config);
        });
        self.mounts.insert(service, routes.clone());
        let server = server::start_within(bounds, listen, move |config| routes(config))?;
        let address = server.address;
        self.parts.servers.push(server);
        Ok(address)
    }

    /// Starts the gateway. Services of this process have been started before.
    pub(super) fn start_gateway(&mut self) -> Result<(), StartError> {
        let metrics = role_metrics::gateway()?;
        let backends = self.backends(&metrics)?;
        let guard = self.request_guard(false, &metrics.refused);
        let limits = self.client_bounds(Role::Gateway, &metrics.registry, guard)?;
        let (stop, stopping) = watch::channel(SocketsEnd::Open);
        self.parts.open_sockets.push(metrics.sockets.clone());
        self.parts.gateway_sockets = Some(stop);
        let addresses = limits.addresses.clone();
        let state = gateway_state(self.settings, addresses, stopping, &metrics);
        let state = web::Data::new(state);
        let checks = reachable_services(&backends).into_iter().collect();
        let listen = self.gateway_port();
        let server = server::start_within(limits, listen, move |config| {
            gateway::routes(config, &state, &backends);
        })?;
        self.parts.addresses.gateway = Some(server.address);
        self.parts.servers.push(server);
        self.serve_health(Role::Gateway, checks, metrics.registry);
        Ok(())
    }

    fn gateway_port(&self) -> Listen {
        let connections =
            self.settings.clients.ws_max_sessions + self.settings.limits.http_max_connections;
        Listen {
            variable: "HTTP_PORT_GATEWAY",
            ip: self.settings.process.bind_address,
            port: self.settings.ports.http_port_gateway,
            workers: cores(),
            max_connections: bounds::accepted(connections, cores()),
        }
    }

    /// Where each service is.
    fn backends(
        &mut self,
        metrics: &GatewayMetrics,
    ) -> Result<Vec<(Service, Backend)>, GatewayError> {
        let options = upstream_options(self.settings)?;
        let settings = &self.settings.gateway;
        let backend = |service| {
            let upstream = upstream(service, settings, options.clone(), metrics)?;
            Ok::<_, GatewayError>(Backend::Forwarded(Box::new(upstream)))
        };
        Service::VARIANTS
            .iter()
            .map(|service| {
                let mounted = self.mounts.remove(service).map(Backend::Mounted);
                Ok((*service, mounted.map_or_else(|| backend(*service), Ok)?))
            })
            .collect()
    }
}

/// How services are reached. Reads certificates only if one is reached over TLS.
fn upstream_options(settings: &Settings) -> Result<UpstreamOptions, GatewayError> {
    let gateway = &settings.gateway;
    let is_encrypted = gateway
        .services()
        .iter()
        .any(|(_, _, url)| url.is_some_and(|url| url.expose().scheme() == "https"));
    let tls = if is_encrypted {
        tls::client_config("GATEWAY_CA_FILE", gateway.gateway_ca_file.as_deref())?
    } else {
        tls::trusting_nobody()?
    };
    Ok(UpstreamOptions {
        connect_timeout: gateway.gateway_connect_timeout,
        answer_timeout: gateway.gateway_answer_timeout,
        // The services of a deployment have the same settings.
        keep_idle: settings.limits.http_keep_alive / 2,
        tls,
    })
}

fn upstream(
    service: Service,
    settings: &GatewaySettings,
    options: UpstreamOptions,
    metrics: &GatewayMetrics,
) -> Result<Upstream, GatewayError> {
    let services = settings.services();
    let (variable, url) = services
        .iter()
        .find(|(role, ..)| *role == service.role())
        .map_or(("GATEWAY_URL", None), |(_, variable, url)| {
            (*variable, *url)
        });
    let url = url.ok_or(GatewayError::NoAddress(variable))?;
    Upstream::new(service, url.expose().clone(), options, metrics.clone())
        .map_err(|cause| GatewayError::Client { variable, cause })
}

fn gateway_state(
    settings: &Settings,
    addresses: Addresses,
    stopping: watch::Receiver<SocketsEnd>,
    metrics: &GatewayMetrics,
) -> GatewayState {
    let clients = &settings.clients;
    GatewayState {
        addresses,
        is_authentication_required: settings.access.is_required(),
        sockets: Arc::new(Semaphore::new(clients.ws_max_sessions)),
        max_sockets: clients.ws_max_sessions,
        slow_client_limit: clients.slow_client_limit,
        answer_timeout: settings.gateway.gateway_answer_timeout,
        stopping,
        metrics: metrics.clone(),
    }
}

/// Not ready while no service of another process can be reached. One that cannot must not take the
/// others out of service.
fn reachable_services(backends: &[(Service, Backend)]) -> Option<Check> {
    let forwarded: Vec<Upstream> = backends
        .iter()
        .filter_map(|(_, backend)| match backend {
            Backend::Forwarded(upstream) => Some(Upstream::clone(upstream)),
            Backend::Mounted(_) => None,
        })
        .collect();
    if forwarded.is_empty() {
        return None;
    }
    let forwarded = Arc::new(forwarded);
    Some(Check::new("services", move || {
        let forwarded = forwarded.clone();
        async move {
            let mut answers = stream::iter(forwarded.iter())
                .map(Upstream::is_reachable)
                .buffer_unordered(forwarded.len());
            while let Some(is_reachable) = answers.next().await {
                if is_reachable {
                    return Ok(());
                }
            }
            Err("no service accepts connections".to_owned())
        }
        .boxed()
    }))
}
