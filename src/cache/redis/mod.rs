//! The Redis cache: a hot copy shared by all processes, and the broadcast between them.

mod address;
mod channels;
mod listen;
#[cfg(test)]
mod real_engines;
mod repair;
mod wire;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redis::{
    AsyncConnectionConfig, ErrorKind, Pipeline, RedisError, Script, ServerErrorKind, Value,
};
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::address::{Address, Link};
use self::channels::Channels;
use self::listen::RedisBroadcasts;
use self::wire::Writing;
use super::{BroadcastStream, CacheError, Change, OddsCache};
use crate::domain::ids::EventId;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::plausible::Plausibility;
use crate::domain::timestamp::Timestamp;

/// Minimum delay after a failed connection attempt; calls in between fail with the same error.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// A cache in Redis. Connects on first use and reconnects after a loss.
#[derive(Clone)]
pub struct RedisCache {
    shared: Arc<Shared>,
}

/// The options of a [`RedisCache`].
#[derive(Clone, Copy, Debug)]
pub struct RedisOptions<'a> {
    /// A file with additional certificate authorities for TLS.
    pub ca_file: Option<&'a Path>,
    /// The prefix of our channels, and the name of the original's channel.
    pub channel: &'a str,
    /// The deployment name; by default `db` followed by the number of the database that holds the
    /// keys.
    pub deployment: Option<&'a str>,
    /// Whether to publish to and read from the original's channel as well.
    pub uses_original_channel: bool,
    /// How long an event is kept after its last change.
    pub ttl: Duration,
    /// The limits for plausible times and sequence numbers.
    pub limits: Plausibility,
}

struct Shared {
    address: Address,
    channels: Channels,
    limits: Plausibility,
    ttl_millis: u64,
    script: Script,
    /// The shared connection. The lock is held while connecting, so that only one attempt runs at a
    /// time.
    link: Mutex<Held>,
    /// The number of connections made so far.
    connections: AtomicU64,
}

#[derive(Default)]
struct Held {
    link: Option<Link>,
    /// Distinguishes connections, so that a late failure of one does not close the next.
    number: u64,
    failed: Option<(Instant, CacheError)>,
}

impl RedisCache {
    /// Returns what is wrong with an address, if anything, without repeating any part of it.
    pub fn check_address(url: &SecretString) -> Result<(), String> {
        address::check(url)
    }

    /// Creates a cache at `url`. Does not connect, so Redis may be unavailable. Reads the CA file,
    /// so call it at startup.
    pub fn new(url: &SecretString, options: &RedisOptions<'_>) -> Result<RedisCache, CacheError> {
        let address = Address::parse(url, options.ca_file)?;
        let deployment = options
            .deployment
            .map_or_else(|| format!("db{}", address.database()), str::to_owned);
        let shared = Shared {
            address,
            channels: Channels::new(options.channel, &deployment, options.uses_original_channel),
            limits: options.limits,
            ttl_millis: u64::try_from(options.ttl.as_millis())
                .unwrap_or(u64::MAX)
                .clamp(1, u64::from(u32::MAX) * 1_000),
            script: Script::new(wire::SCRIPT),
            link: Mutex::default(),
            connections: AtomicU64::new(0),
        };
        Ok(RedisCache {
            shared: Arc::new(shared),
        })
    }
}

impl Shared {
    async fn link(&self) -> Result<(Link, u64), CacheError> {
        let mut held = self.link.lock().await;
        if let Some(link) = &held.link {
            return Ok((link.clone(), held.number));
        }
        if let Some((at, error)) = &held.failed
            && at.elapsed() < RECONNECT_DELAY
        {
            return Err(error.clone());
        }
        match self.address.connect(AsyncConnectionConfig::new()).await {
            Ok(link) => {
                *held = Held {
                    link: Some(link.clone()),
                    number: held.number + 1,
                    failed: None,
                };
                self.connections.store(held.number, Ordering::Relaxed);
                Ok((link, held.number))
            }
            Err(error) => {
                held.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Sends a pipeline. After a failure the connection is dropped, unless Redis answered with an
    /// error that a retry may not repeat.
    async fn send(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failed> {
        let (mut link, number) = self.link().await.map_err(Failed::Cache)?;
        match pipeline
            .query_async::<Vec<Value>>(&mut link.connection)
            .await
            .and_then(fail_unless_key_errors)
        {
            Ok(values) => Ok(values),
            Err(error) => {
                if !is_server_error(&error) || is_unusable(&error) {
                    let mut held = self.link.lock().await;
                    if held.number == number {
                        held.link = None;
                    }
                }
                Err(Failed::Redis(error))
            }
        }
    }

    fn error(&self, failed: Failed) -> CacheError {
        match failed {
            Failed::Cache(error) => error,
            Failed::Redis(error) => self.address.error(&error),
        }
    }

    /// Writes the changes. Returns the events whose damaged entries were removed in the process.
    async fn write(&self, changes: Vec<Change>) -> Result<Vec<EventId>, CacheError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.send_changes(&changes).await?;
        let is_damaged = |(change, value): (&Change, &Value)| {
            matches!(value, Value::ServerError(_)).then(|| change.state.update.event_id.clone())
        };
        let damaged: BTreeSet<EventId> =
            changes.iter().zip(&values).filter_map(is_damaged).collect();
        if damaged.is_empty() {
            return Ok(Vec::new());
        }
        let damaged: Vec<_> = damaged.into_iter().collect();
        // A key of the wrong type has no readable states; if it is a hash again by now, it stays.
        let entries = damaged.iter().map(|event_id| (event_id, Vec::new()));
        self.remove_from(entries.collect()).await?;
        // Changes of these events that succeeded before were removed with the entries.
        let again = changes
            .into_iter()
            .filter(|change| damaged.contains(&change.state.update.event_id));
        let again: Vec<_> = again
            .map(|change| Change {
                conflated: true,
                ..change
            })
            .collect();
        let values = self.send_changes(&again).await?;
        match values
            .into_iter()
            .find_map(|value| value.extract_error().err())
        {
            Some(error) => Err(self.address.error(&error)),
            None => Ok(damaged),
        }
    }

    /// The results of the writes; an error stands for each entry whose key has the wrong type.
    async fn send_changes(&self, changes: &[Change]) -> Result<Vec<Value>, CacheError> {
        let now = Timestamp::now();
        let writing = Writing {
            hash: self.script.get_hash(),
            ttl_millis: self.ttl_millis,
            channels: &self.channels,
            latest: self.limits.latest(now),
            largest_seq: Plausibility::largest_seq(now),
        };
        let mut pipeline = Pipeline::with_capacity(changes.len());
        pipeline.ignore_errors();
        for change in changes {
            pipeline.add_command(wire::write_command(change, &writing));
        }
        match self.send(&pipeline).await {
            Err(Failed::Redis(error))
                if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) =>
            {
                let mut load = Pipeline::new();
                load.cmd("SCRIPT").arg("LOAD").arg(wire::SCRIPT);
                self.send(&load)
                    .await
                    .map_err(|failed| self.error(failed))?;
                self.send(&pipeline).await
            }
            sent => sent,
        }
        .map_err(|failed| self.error(failed))
    }

    async fn read_book(&self, event_id: &EventId) -> Result<Vec<Arc<MarketState>>, CacheError> {
        let mut pipeline = Pipeline::new();
        pipeline.ignore_errors();
        pipeline
            .cmd("HGETALL")
            .arg(wire::book_key(event_id))
            .cmd("GET")
            .arg(wire::current_key(event_id));
        let values = self
            .send(&pipeline)
            .await
            .map_err(|failed| self.error(failed))?;
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or(Value::Nil);
        let (book, current) = (next(), next());
        let mut unreadable = Vec::new();
        let fields: Vec<(Vec<u8>, Vec<u8>)> = match book.extract_error() {
            Ok(book) => {
                redis::from_redis_value(book).map_err(|error| self.address.error(&error.into()))?
            }
            Err(error) => {
                unreadable.push(error.to_string());
                Vec::new()
            }
        };
        let mut states: Vec<_> = fields
            .iter()
            .filter_map(|(field, value)| {
                let name = || {
                    String::from_utf8_lossy(field)
                        .chars()
                        .take(80)
                        .collect::<String>()
                };
                let state = wire::read_state(event_id, field, value);
                state
                    .map_err(|problem| unreadable.push(format!("{}: {problem}", name())))
                    .ok()
            })
            .map(Arc::new)
            .collect();
        if let Some(problem) = unreadable.into_iter().next() {
            self.report_damaged(event_id).await;
            return Err(CacheError::Damaged {
                event_id: event_id.clone(),
                readable: states,
                problem,
            });
        }
        // The original writes no hash.
        if let (true, Value::BulkString(current)) = (states.is_empty(), current)
            && let Ok(state) = wire::read_current(event_id, &current)
        {
            states.push(Arc::new(state));
        }
        Ok(states)
    }
}

/// Why a pipeline failed.
enum Failed {
    Cache(CacheError),
    Redis(RedisError),
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

impl OddsCache for RedisCache {
    fn write(&self, states: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>> {
        let writing = self.write_changes(
            states
                .into_iter()
                .map(|state| Change {
                    state,
                    conflated: false,
                })
                .collect(),
        );
        async move { writing.await.map(drop) }.boxed()
    }

    fn write_changes(
        &self,
        changes: Vec<Change>,
    ) -> BoxFuture<'static, Result<Vec<EventId>, CacheError>> {
        let shared = self.shared.clone();
        async move { shared.write(changes).await }.boxed()
    }

    fn damaged(&self) -> BoxFuture<'static, Result<Vec<EventId>, CacheError>> {
        let shared = self.shared.clone();
        async move { shared.damaged().await }.boxed()
    }

    fn remove_damaged(
        &self,
        events: Vec<EventId>,
    ) -> BoxFuture<'static, Result<Vec<EventId>, CacheError>> {
        let shared = self.shared.clone();
        async move { shared.remove_damaged(&events).await }.boxed()
    }

    fn read_book(
        &self,
        event_id: &EventId,
    ) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>> {
        let (shared, event_id) = (self.shared.clone(), event_id.clone());
        async move { shared.read_book(&event_id).await }.boxed()
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>> {
        let shared = self.shared.clone();
        async move {
            let mut ping = Pipeline::new();
            ping.cmd("PING");
            shared
                .send(&ping)
                .await
                .map(drop)
                .map_err(|failed| shared.error(failed))
        }
        .boxed()
    }

    fn publish_heartbeat(&self) -> BoxFuture<'static, Result<(), CacheError>> {
        let shared = self.shared.clone();
        async move {
            let mut messages = Pipeline::new();
            let (channels, heartbeat) = (&shared.channels, shared.channels.heartbeat());
            let original = channels.original.as_ref().map(|(_, alive)| alive);
            for channel in [&channels.own_alive].into_iter().chain(original) {
                messages.cmd("PUBLISH").arg(channel).arg(&heartbeat);
            }
            shared
                .send(&messages)
                .await
                .map(drop)
                .map_err(|failed| shared.error(failed))
        }
        .boxed()
    }

    fn connection(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    fn listen(&self) -> Option<Box<dyn BroadcastStream>> {
        let Shared {
            address,
            channels,
            limits,
            ..
        } = &*self.shared;
        Some(Box::new(RedisBroadcasts::new(
            address.clone(),
            channels.clone(),
            *limits,
        )))
    }
}
