//! HTTP servers, one per port.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use actix_http::error::PayloadError;
use actix_http::{HttpService, KeepAlive, Payload, Request, Response};
use actix_server::Server;
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, apply_fn_factory, fn_service,
    map_config,
};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, Extensions, ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpResponse, web};
use bytes::Bytes;
use futures_util::future::{Either, LocalBoxFuture, ready};
use futures_util::{Stream, StreamExt};
use log::error;
use prometheus::{IntCounterVec, Opts, Registry};
use socket2::{Domain, Protocol, Socket, Type};
use strum::VariantNames;

use super::accept::Acceptor;
use super::addresses::{AddressLimit, Addresses};
use super::connections::{Connection, ConnectionLimits, Ended};
use super::cors;
use super::errors::{ApiError, not_found};
use super::health::Liveness;
use super::limits::RequestLimits;
use super::origin::RequestGuard;
use super::response::Completion;
use super::stream::GuardedStream;
use crate::access::Access;
use crate::runtime::tls::server::ServerCertificate;
use crate::telemetry::role;

/// How long a graceful stop waits for responses in progress.
const STOP_TIMEOUT_SECONDS: u64 = 3;
/// Maximum number of connections waiting to be accepted.
const BACKLOG: i32 = 1_024;

/// A port that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: cannot listen on {address}: {cause}")]
pub struct BindError {
    variable: &'static str,
    address: SocketAddr,
    cause: std::io::Error,
}

/// Where and how a server listens.
pub struct Listen {
    /// The setting that names the port, for error messages.
    pub variable: &'static str,
    /// The address.
    pub ip: IpAddr,
    /// The port; 0 picks a free one.
    pub port: u16,
    /// Worker threads.
    pub workers: usize,
    /// Maximum number of connections of a worker; further ones wait.
    pub max_connections: usize,
}

impl Listen {
    /// Listens.
    pub(crate) fn bind(&self) -> std::io::Result<std::net::TcpListener> {
        bind(SocketAddr::new(self.ip, self.port))
    }

    /// The error of a port that could not be bound.
    pub(crate) fn error(&self, cause: std::io::Error) -> BindError {
        BindError {
            variable: self.variable,
            address: SocketAddr::new(self.ip, self.port),
            cause,
        }
    }
}

/// The limits on a server's clients before a request is handled.
#[derive(Clone)]
pub struct Bounds {
    /// Deadlines and the number of connections.
    pub connections: ConnectionLimits,
    /// Counts and limits by client address.
    pub addresses: Addresses,
    /// Connections ended by the server, by reason.
    pub ended: IntCounterVec,
    /// Checks each request before it is routed. Ports for health and metrics have none.
    pub guard: Option<Arc<RequestGuard>>,
    /// The certificate of a port that accepts only TLS.
    pub(crate) certificate: Option<Arc<ServerCertificate>>,
    /// How many requests a client may send.
    pub limits: RequestLimits,
    /// Authenticates the callers of routes that require a scope.
    pub access: Access,
    /// Whether the process is stopping: then a response ends its connection.
    pub(crate) liveness: Arc<Liveness>,
}

impl Bounds {
    fn metric(prefix: &str, port: &str) -> prometheus::Result<IntCounterVec> {
        let help = "Connections ended by the server because of a limit or a failed TLS handshake, by port and reason";
        let opts = Opts::new(format!("{prefix}_http_connections_ended_total"), help)
            .const_label("port", port);
        let ended = IntCounterVec::new(opts, &["reason"])?;
        for reason in Ended::VARIANTS {
            ended.with_label_values(&[reason]);
        }
        Ok(ended)
    }

    /// Creates the metric of a port's limits and registers it for the role.
    pub fn registered(
        registry: &Registry,
        prefix: &str,
        port: &str,
    ) -> prometheus::Result<IntCounterVec> {
        let ended = Bounds::metric(prefix, port)?;
        registry.register(Box::new(ended.clone()))?;
        Ok(ended)
    }
}

/// A running server.
pub struct RunningServer {
    /// The address it listens on.
    pub address: SocketAddr,
    handle: ServerHandle,
}

impl RunningServer {
    /// Stops the server: it accepts no new connections, and open ones may finish their response.
    pub async fn stop(&self) {
        self.handle.stop(true).await;
    }
}

/// Starts a server with these routes and the default bounds.
pub fn start<F>(listen: Listen, routes: F) -> Result<RunningServer, BindError>
where
    F: Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
{
    let requested = SocketAddr::new(listen.ip, listen.port);
    let failed = |failure: prometheus::Error| BindError {
        variable: listen.variable,
        address: requested,
        cause: std::io::Error::other(failure),
    };
    let bounds = Bounds {
        connections: ConnectionLimits::default(),
        addresses: Addresses::new(&[], AddressLimit::Set(0), AddressLimit::Set(0)),
        ended: Bounds::metric("other", "rest").map_err(failed)?,
        guard: None,
        certificate: None,
        limits: RequestLimits::off(),
        access: Access::off(),
        liveness: Arc::default(),
    };
    start_within(bounds, listen, routes)
}

/// Starts a server with these routes and bounds.
///
/// Built from the parts of actix-web instead of its `HttpServer`, which gives no access to the
/// stream of a connection.
pub fn start_within<F>(
    bounds: Bounds,
    listen: Listen,
    routes: F,
) -> Result<RunningServer, BindError>
where
    F: Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
{
    let requested = SocketAddr::new(listen.ip, listen.port);
    let bind_error = |cause| BindError {
        variable: listen.variable,
        address: requested,
        cause,
    };
    let listener = bind(requested).map_err(bind_error)?;
    let address = listener.local_addr().unwrap_or(requested);
    let builder = Server::build()
        .workers(listen.workers)
        .max_concurrent_connections(listen.max_connections)
        .shutdown_timeout(STOP_TIMEOUT_SECONDS)
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    // The limit is per worker thread from here on.
    let mut limits = bounds.connections.clone();
    limits.most = limits.most.div_ceil(listen.workers);
    // Each worker has a thread of its own, so its sessions need no role of their own.
    let role = role::current();
    actix_web::rt::spawn(role::inherit(bounds.limits.sweep()));
    let factory = move || {
        role::set_for_thread(role);
        let acceptor = Acceptor::start(&bounds, limits.clone(), stopping.clone());
        let app = app(bounds.clone(), routes.clone());
        let stopping = stopping.clone();
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let signal = stopping.clone();
                async move { signal.notified().await }
            })
            // The sweep ends connections that were idle or unfinished for too long.
            .keep_alive(KeepAlive::Os)
            .client_request_timeout(std::time::Duration::ZERO)
            .client_disconnect_timeout(std::time::Duration::from_secs(1))
            .local_addr(address)
            .on_connect_ext(store_connection)
            .h1(app.map_err(|failure: actix_web::Error| failure.error_response()));
        let accept = fn_service(move |stream: TcpStream| acceptor.accept(stream));
        accept.and_then(http)
    };
    let server = builder
        .listen(format!("http {address}"), listener, factory)
        .map_err(bind_error)?
        .run();
    let handle = server.handle();
    actix_web::rt::spawn(role::inherit(run(server, address)));
    Ok(RunningServer { address, handle })
}

async fn run(server: Server, address: SocketAddr) {
    if let Err(failure) = server.await {
        error!(address:%; "http server failed: {failure}");
    }
}

/// Makes the connection of a request available to its handlers.
fn store_connection(stream: &GuardedStream, data: &mut Extensions) {
    data.insert(stream.connection().clone());
    stream
        .connection()
        .handle()
        .map(|handle| data.insert(handle));
}

/// The service of a worker that handles requests: the checks of every request, then these routes.
fn app<F>(
    bounds: Bounds,
    routes: F,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = Response<BoxBody>,
    Error = actix_web::Error,
    InitError = (),
    Service: 'static,
>
where
    F: FnOnce(&mut web::ServiceConfig),
{
    let Bounds {
        guard,
        limits,
        access,
        certificate,
        liveness,
        ..
    } = bounds;
    let is_tls = certificate.is_some();
    let origins = guard.clone();
    let app = App::new()
        .app_data(web::Data::new(access))
        .app_data(limits.clone())
        .default_service(web::to(not_found))
        .configure(routes)
        .wrap_fn(
            move |request, next| match answer_early(guard.as_deref(), &limits, &request) {
                Ok(None) => Either::Left(next.call(request)),
                Ok(Some(response)) => Either::Right(ready(Ok(request.into_response(response)))),
                Err(refusal) => Either::Right(ready(Ok(request.error_response(refusal)))),
            },
        );
    let app = map_config(app.into_factory(), |()| AppConfig::default());
    apply_fn_factory(app, move |request: Request, app: &_| {
        let allowed = origins
            .as_deref()
            .map_or(&[][..], |guard| guard.origins.as_slice());
        let completion =
            Completion::of(&request, allowed, is_tls).ending_connection(liveness.is_stopping());
        track(request, app, completion)
    })
}

/// Checks a request before it is routed, and answers it if it is a preflight. Preflights do not
/// count against limits: a page cannot avoid them.
fn answer_early(
    guard: Option<&RequestGuard>,
    limits: &RequestLimits,
    request: &ServiceRequest,
) -> Result<Option<HttpResponse>, ApiError> {
    if let Some(guard) = guard {
        guard.check(request)?;
        if cors::is_preflight(request.head()) {
            return Ok(Some(cors::preflight_response()));
        }
    }
    limits.admit_address(limits.client(request.head()))?;
    Ok(None)
}

fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Tracks the phases of a request for the deadlines of its connection, and completes its response.
/// Boxed, because every connection reserves space for the future of a request, and WebSockets stay
/// open for hours without one.
fn track<S, B>(
    mut request: Request,
    app: &S,
    completion: Completion,
) -> LocalBoxFuture<'static, Result<Response<BoxBody>, actix_web::Error>>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error>,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    let connection = request.conn_data::<Rc<Connection>>().cloned();
    if let Some(connection) = &connection {
        let has_body = matches!(request.payload(), Payload::H1 { .. });
        connection.begin(has_body);
        // This includes upgrade requests: the offer may be ignored (h2c), and a WebSocket leaves
        // the phase that this ends.
        if has_body {
            let payload = request.take_payload();
            let body = Body {
                payload,
                handling: Some(connection.clone()),
            };
            *request.payload() = Payload::Stream {
                payload: Box::pin(body),
            };
        }
    }
    let handled = Handled(connection);
    let handling = app.call(request);
    Box::pin(async move {
        let answer = handling.await;
        drop(handled);
        Ok(completion.complete(answer))
    })
}

struct Handled(Option<Rc<Connection>>);

impl Drop for Handled {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.end();
        }
    }
}

/// The body of a request. Reports its end to the connection.
struct Body {
    payload: Payload,
    handling: Option<Rc<Connection>>,
}

impl Stream for Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let polled = self.payload.poll_next_unpin(context);
        if let std::task::Poll::Ready(None | Some(Err(_))) = polled
            && let Some(connection) = self.handling.take()
        {
            connection.body_ended();
        }
        polled
    }
}
