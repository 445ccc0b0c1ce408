//! The connection shared by all calls of a cache.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{AsyncConnectionConfig, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::address::{Address, Link};
use crate::cache::CacheError;

/// Minimum delay after a failed connection attempt; calls in between fail with the same error.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// Sends pipelines over one connection. Connects on first use and reconnects after a loss.
pub(super) struct Client {
    address: Address,
    /// The lock is held while connecting, so that only one attempt runs at a time.
    shared: Mutex<SharedLink>,
    /// The number of connections made so far.
    connections: AtomicU64,
}

#[derive(Default)]
struct SharedLink {
    link: Option<Link>,
    /// Distinguishes connections, so that a late failure of one does not close the next.
    number: u64,
    failed: Option<(Instant, CacheError)>,
}

/// Why a pipeline failed.
pub(super) enum SendError {
    /// There is no connection.
    NotConnected(CacheError),
    /// Redis rejected the pipeline, or the connection was lost.
    Redis(RedisError),
}

impl Client {
    /// A client that is not connected yet.
    pub(super) fn new(address: Address) -> Client {
        Client {
            address,
            shared: Mutex::default(),
            connections: AtomicU64::new(0),
        }
    }

    /// The address of the server.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The number of connections made so far.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether a connection is open, as far as is known.
    #[cfg(test)]
    pub(super) async fn is_connected(&self) -> bool {
        self.shared.lock().await.link.is_some()
    }

    async fn link(&self) -> Result<(Link, u64), CacheError> {
        let mut shared = self.shared.lock().await;
        if let Some(link) = &shared.link {
            return Ok((link.clone(), shared.number));
        }
        if let Some((at, error)) = &shared.failed
            && at.elapsed() < RECONNECT_DELAY
        {
            return Err(error.clone());
        }
        match self.address.connect(AsyncConnectionConfig::new()).await {
            Ok(link) => {
                *shared = SharedLink {
                    link: Some(link.clone()),
                    number: shared.number + 1,
                    failed: None,
                };
                self.connections.store(shared.number, Ordering::Relaxed);
                Ok((link, shared.number))
            }
            Err(error) => {
                shared.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Sends a pipeline, like [`Client::try_send`].
    pub(super) async fn send(&self, pipeline: &Pipeline) -> Result<Vec<Value>, CacheError> {
        self.try_send(pipeline)
            .await
            .map_err(|error| self.cache_error(error))
    }

    /// Sends a pipeline. After a failure the connection is dropped, unless Redis answered with an
    /// error that a retry may not repeat.
    pub(super) async fn try_send(&self, pipeline: &Pipeline) -> Result<Vec<Value>, SendError> {
        let (mut link, number) = self.link().await.map_err(SendError::NotConnected)?;
        match pipeline
            .query_async::<Vec<Value>>(&mut link.connection)
            .await
            .and_then(fail_unless_key_errors)
        {
            Ok(values) => Ok(values),
            Err(error) => {
                if !is_server_error(&error) || is_unusable(&error) {
                    let mut shared = self.shared.lock().await;
                    if shared.number == number {
                        shared.link = None;
                    }
                }
                Err(SendError::Redis(error))
            }
        }
    }

    /// The error of a call that failed with `error`.
    pub(super) fn cache_error(&self, error: SendError) -> CacheError {
        match error {
            SendError::NotConnected(error) => error,
            SendError::Redis(error) => self.address.error(&error),
        }
    }
}

/// The values, if all errors concern single keys. Any other error fails the whole pipeline.
fn fail_unless_key_errors(values: Vec<Value>) -> Result<Vec<Value>, RedisError> {
    for value in &values {
        if let Value::ServerError(error) = value {
            let error = RedisError::from(error.clone());
            if !error.to_string().contains("WRONGTYPE") {
                return Err(error);
            }
        }
    }
    Ok(values)
}

/// Whether Redis itself answered with an error.
fn is_server_error(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

/// Whether the server cannot serve as a cache now. A new connection may reach another server under
/// the same name.
fn is_unusable(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly};
    matches!(
        error.kind(),
        ErrorKind::Server(ReadOnly | MasterDown | BusyLoading | ClusterDown)
    )
}
