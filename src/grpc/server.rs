//! gRPC servers, one per service. Each runs on several threads, which accept from one listener.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::ArbiterHandle;
use futures_util::future::join_all;
use futures_util::{Stream, stream};
use log::{debug, error, warn};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tonic::service::{InterceptorLayer, Routes};
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::admission::Admission;
use super::connection::{Acceptor, Connection};
use super::proto::DESCRIPTORS;
use super::{BetsApi, OddsApi, WalletApi, health, proto};
use crate::http::server::{BindError, Bounds, Listen};
use crate::telemetry::role;

/// Streams of one connection at a time.
const MAX_STREAMS: u32 = 100;
/// How often the server pings a client.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long a client may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// When a connection accepts no further calls, so that clients spread over new servers. Its streams go
/// on. (With a grace period tonic sends no GOAWAY, and cuts everything off at its end.)
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// How long a call may take until its answer begins. Far longer than the timeouts of the engines, so it
/// ends only calls whose request never arrives.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest metadata of a call, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;
/// The largest request, in bytes.
const MAX_REQUEST: usize = 64 * 1024;
/// How long a graceful stop waits for calls in progress.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections that wait for their thread after their handshake.
const BACKLOG: usize = 16;
/// How long accepting pauses after it fails, for example because there are no free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The service of a thread.
pub(crate) enum Api {
    /// Odds.
    Odds(OddsApi),
    /// Wallets.
    Wallet(WalletApi),
    /// Bets.
    Bets(BetsApi),
}

impl Api {
    fn routes(self) -> Routes {
        use proto::v1::bets_service_server::BetsServiceServer;
        use proto::v1::odds_service_server::OddsServiceServer;
        use proto::v1::wallet_service_server::WalletServiceServer;
        match self {
            Api::Odds(api) => {
                Routes::new(OddsServiceServer::new(api).max_decoding_message_size(MAX_REQUEST))
            }
            Api::Wallet(api) => {
                Routes::new(WalletServiceServer::new(api).max_decoding_message_size(MAX_REQUEST))
            }
            Api::Bets(api) => {
                Routes::new(BetsServiceServer::new(api).max_decoding_message_size(MAX_REQUEST))
            }
        }
    }
}

/// What a server serves, and to whom.
pub(crate) struct Setup {
    /// Limits of connections, in common with those of the role's REST port.
    pub bounds: Bounds,
    /// The full name of the service.
    pub service: &'static str,
    /// Admits calls.
    pub admission: Admission,
    /// Whether clients may read which services there are.
    pub reflection: bool,
    /// Whether the role is ready.
    pub ready: watch::Receiver<bool>,
}

/// A running server.
pub(crate) struct RunningGrpc {
    /// The address it listens on.
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    threads: Vec<parking_lot::Mutex<Option<oneshot::Receiver<()>>>>,
}

impl RunningGrpc {
    /// Accepts no new connections and calls: clients get GOAWAY and open another connection. Calls and
    /// streams in progress go on.
    pub(crate) fn go_away(&self) {
        self.stop.send_replace(true);
    }

    /// Stops the server. Calls in progress may finish.
    pub(crate) async fn stop(&self) {
        self.go_away();
        let ended = self
            .threads
            .iter()
            .filter_map(|thread| thread.lock().take());
        if tokio::time::timeout(STOP_TIMEOUT, join_all(ended))
            .await
            .is_err()
        {
            warn!(address:% = self.address; "calls of gRPC clients did not end within {STOP_TIMEOUT:?}; they are cut off");
        }
    }
}

/// Starts a server on these threads. `api` runs on each of them.
pub(crate) fn start<F>(
    setup: Setup,
    listen: &Listen,
    threads: &[ArbiterHandle],
    api: F,
) -> Result<RunningGrpc, BindError>
where
    F: Fn() -> Api + Clone + Send + 'static,
{
    let failed = |cause| listen.error(cause);
    let listener = listen.bind().map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (stop, stopping) = watch::channel(false);
    let reporter = HealthReporter::new();
    health::report_start(&reporter, setup.service);
    let reporting = health::report(
        reporter.clone(),
        setup.service,
        setup.ready,
        stopping.clone(),
    );
    actix::spawn(role::inherit(reporting));
    let acceptor = Acceptor {
        connections: Arc::new(Semaphore::new(setup.bounds.connections.most)),
        addresses: setup.bounds.addresses.clone(),
        certificate: setup.bounds.certificate.clone(),
        head_timeout: setup.bounds.connections.head,
        ended: setup.bounds.ended.clone(),
    };
    let mut ends = Vec::new();
    for thread in threads {
        let (ended, end) = oneshot::channel();
        ends.push(parking_lot::Mutex::new(Some(end)));
        let serving = Serving {
            listener: listener.try_clone().map_err(failed)?,
            acceptor: acceptor.clone(),
            admission: setup.admission.clone(),
            reporter: reporter.clone(),
            service: setup.service,
            reflection: setup.reflection,
            stopping: stopping.clone(),
        };
        let api = api.clone();
        thread.spawn_fn(role::carry(move || {
            let serving = serving.run(api(), address);
            actix::spawn(role::inherit(async move {
                serving.await;
                let _ = ended.send(());
            }));
        }));
    }
    Ok(RunningGrpc {
        address,
        stop,
        threads: ends,
    })
}

/// What one thread needs to serve.
struct Serving {
    listener: std::net::TcpListener,
    acceptor: Acceptor,
    admission: Admission,
    reporter: HealthReporter,
    service: &'static str,
    reflection: bool,
    stopping: watch::Receiver<bool>,
}

impl Serving {
    async fn run(self, api: Api, address: SocketAddr) {
        let admission = self.admission;
        let mut stopping = self.stopping.clone();
        let health = HealthService::from_health_reporter(self.reporter);
        let mut routes = api.routes().add_service(HealthServer::new(health));
        if self.reflection {
            routes = with_reflection(routes, self.service);
        }
        let incoming = match incoming(self.listener, self.acceptor, self.stopping) {
            Ok(incoming) => incoming,
            Err(failure) => return error!(address:%; "gRPC server failed: {failure}"),
        };
        let serving = Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .max_connection_age(MAX_AGE)
            .timeout(CALL_TIMEOUT)
            .http2_max_header_list_size(MAX_HEADERS)
            .layer(InterceptorLayer::new(move |request| {
                admission.admit_request(request)
            }))
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, async move {
                // An error: the platform was dropped.
                let _ = stopping.wait_for(|stops| *stops).await;
            });
        if let Err(failure) = serving.await {
            error!(address:%; "gRPC server failed: {failure}");
        }
    }
}

/// Each port lists the services that it serves.
fn with_reflection(routes: Routes, service: &str) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Those of the error details.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(service)
            .with_service_name("grpc.health.v1.Health")
    };
    // Older clients know only v1alpha.
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            error!("gRPC reflection is not available: {error}");
            routes
        }
    }
}

/// The connections of a thread. Accepting ends when the server stops.
fn incoming(
    listener: std::net::TcpListener,
    acceptor: Acceptor,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<impl Stream<Item = io::Result<Connection>>> {
    let listener = TcpListener::from_std(listener)?;
    let (opened, mut connections) = mpsc::channel(BACKLOG);
    actix::spawn(role::inherit(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopping.wait_for(|stops| *stops) => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Some(admitted) = acceptor.admit(&stream) else {
                        continue;
                    };
                    let (acceptor, opened) = (acceptor.clone(), opened.clone());
                    // Handshakes of others do not wait for this one.
                    actix::spawn(role::inherit(async move {
                        if let Some(connection) = acceptor.open(stream, admitted).await {
                            let _ = opened.send(Ok(connection)).await;
                        }
                    }));
                }
                Err(failure) => {
                    debug!("accept failed: {failure}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }));
    Ok(stream::poll_fn(move |context| {
        connections.poll_recv(context)
    }))
}
