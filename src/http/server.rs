//! One HTTP server a port.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use log::error;

use super::connection::keep_handle;
use super::errors::not_found;

/// How long a client may take to send a request's head.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept for the next request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a graceful stop waits for answers that are under way.
const STOP_TIMEOUT_SECONDS: u64 = 3;

/// A port that could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: cannot listen on {address}: {cause}")]
pub struct BindError {
    variable: &'static str,
    address: SocketAddr,
    cause: std::io::Error,
}

/// Where and how a server listens.
pub struct Listen {
    /// The setting that names the port, for errors.
    pub variable: &'static str,
    /// The address.
    pub ip: IpAddr,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// Worker threads.
    pub workers: usize,
    /// The most connections a worker holds; what comes beyond waits.
    pub max_connections: usize,
}

/// A server that runs.
pub struct RunningServer {
    /// Where it listens.
    pub address: SocketAddr,
    handle: ServerHandle,
}

impl RunningServer {
    /// Stops: no new connections, and those that are open may finish their answer.
    pub async fn stop(&self) {
        self.handle.stop(true).await;
    }
}

/// Starts a server with these routes.
pub fn start<F>(listen: Listen, routes: F) -> Result<RunningServer, BindError>
where
    F: Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
{
    let wanted = SocketAddr::new(listen.ip, listen.port);
    let bind_error = |cause| BindError { variable: listen.variable, address: wanted, cause };
    let server = HttpServer::new(move || App::new().default_service(web::to(not_found)).configure(routes.clone()))
        .workers(listen.workers)
        .max_connections(listen.max_connections)
        .client_request_timeout(REQUEST_TIMEOUT)
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(STOP_TIMEOUT_SECONDS)
        .disable_signals()
        .on_connect(keep_handle)
        .bind(wanted)
        .map_err(bind_error)?;
    let address = server.addrs().first().copied().unwrap_or(wanted);
    let server = server.run();
    let handle = server.handle();
    actix_web::rt::spawn(async move {
        if let Err(failure) = server.await {
            error!("the server on {address} ended: {failure}");
        }
    });
    Ok(RunningServer { address, handle })
}
