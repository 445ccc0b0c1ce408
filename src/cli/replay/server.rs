//! Accepts clients and runs one session for each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::recording::Recording;
use super::session::{Served, Session};
use super::{ReplayArgs, ReplayConfig, ReplayError, Speed};

/// Pause after a failed accept, which is most likely caused by a lack of file descriptors; long
/// enough to avoid a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Maximum number of concurrent clients; further ones are closed.
const MAX_CLIENTS: usize = 1_000;

/// A running replay server. It stops when the handle is dropped.
#[derive(Debug)]
pub struct ReplayHandle {
    /// The address it listens on.
    pub addr: SocketAddr,
    hang_up: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl ReplayHandle {
    /// Closes every connection; clients may reconnect.
    pub fn hang_up(&self) {
        self.hang_up
            .send_modify(|times| *times = times.wrapping_add(1));
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        // Each client holds a receiver, and the listener holds one more.
        self.hang_up.receiver_count().saturating_sub(1)
    }

    /// Stops listening and closes every connection.
    pub async fn stop(mut self) {
        self.task.abort();
        // The task ends with a cancellation error, which is expected.
        let _ = (&mut self.task).await;
    }
}

impl Drop for ReplayHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs the command `replay`: serves until SIGINT or SIGTERM.
pub async fn serve(args: ReplayArgs) -> Result<(), ReplayError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ReplayError::System)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ReplayError::System)?;
    let handle = start(ReplayConfig::from(args)).await?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    log::info!("stopping replay");
    handle.stop().await;
    Ok(())
}

/// Reads the recordings, listens, and serves in the background.
pub async fn start(config: ReplayConfig) -> Result<ReplayHandle, ReplayError> {
    let files = config.files.clone();
    let recording = tokio::task::spawn_blocking(move || Recording::load(&files))
        .await
        .map_err(|error| ReplayError::System(io::Error::other(error)))??;
    let fault = |cause| ReplayError::Listen {
        addr: config.listen,
        cause,
    };
    let listener = TcpListener::bind(config.listen).await.map_err(fault)?;
    let addr = listener.local_addr().map_err(fault)?;
    announce(addr, &recording, &config);
    let served = Arc::new(Served {
        recording: Arc::new(recording),
        speed: config.speed,
        looping: config.looping,
        write_timeout: config.write_timeout,
    });
    let (hang_up, hung_up) = watch::channel(0);
    let task = tokio::spawn(accept(listener, served, hung_up));
    Ok(ReplayHandle {
        addr,
        hang_up,
        task,
    })
}

fn announce(addr: SocketAddr, recording: &Recording, config: &ReplayConfig) {
    let length = Duration::from_secs(recording.period_ms / 1_000);
    let speed = match config.speed {
        Speed::Max => "at maximum speed".to_owned(),
        Speed::Times(times) => format!("at {times} times the recorded speed"),
    };
    log::info!(
        "replaying {} markets, {} messages in {}, {speed}{}",
        recording.markets.len(),
        recording.steps.len(),
        humantime::format_duration(length),
        if config.looping { ", in a loop" } else { "" },
    );
    log::info!("replay listening on {addr}; connect with SUPPLIER_URLS=betfair://{addr}");
}

async fn accept(listener: TcpListener, served: Arc<Served>, hung_up: watch::Receiver<u64>) {
    let mut sessions = JoinSet::new();
    let mut count: u64 = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if sessions.len() >= MAX_CLIENTS => {
                    log::debug!(peer = peer.to_string(), limit = MAX_CLIENTS; "replay client rejected: too many clients");
                    drop(stream);
                }
                Ok((stream, peer)) => {
                    count = count.wrapping_add(1);
                    let id = format!("replay-{:08x}-{count}", served.recording.fingerprint as u32);
                    let mut hung_up = hung_up.clone();
                    hung_up.mark_unchanged();
                    sessions.spawn(client(served.clone(), stream, peer, id, hung_up));
                }
                Err(error) => {
                    log::warn!("cannot accept a replay connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = sessions.join_next() => {}
        }
    }
}

async fn client(
    served: Arc<Served>,
    stream: TcpStream,
    peer: SocketAddr,
    id: String,
    mut hung_up: watch::Receiver<u64>,
) {
    log::info!(client = id.as_str(), peer = peer.to_string(); "replay client connected");
    let ended = async {
        stream.set_nodelay(true)?;
        Session::new(served, stream).run(&id).await
    };
    tokio::select! {
        ended = ended => match ended {
            Ok(()) => log::info!(client = id.as_str(); "replay client disconnected"),
            Err(error) => log::info!(client = id.as_str(); "replay client disconnected: {error}"),
        },
        _ = hung_up.changed() => log::info!(client = id.as_str(); "replay client closed"),
    }
}
