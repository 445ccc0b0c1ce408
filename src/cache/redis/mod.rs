//! The cache in Redis: a hot copy that all processes share, and the broadcast between them.

mod address;
mod channels;
mod listen;
#[cfg(test)]
mod real_engines;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use log::warn;
use redis::{AsyncConnectionConfig, ErrorKind, Pipeline, RedisError, Script, ServerErrorKind, Value};
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::address::{Address, Link};
use self::channels::Channels;
use self::listen::RedisBroadcasts;
use self::wire::Writing;
use super::{Broadcasts, CacheError, Change, OddsCache};
use crate::domain::book::MarketState;
use crate::domain::ids::EventId;
use crate::domain::plausible::Plausibility;
use crate::domain::timestamp::Timestamp;
use crate::log_limit::LogLimit;

/// After a try that failed, none is made for so long; whoever asks meanwhile gets the same error.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Markets that cannot be read are logged so often at most.
static UNREADABLE: LogLimit = LogLimit::growing(Duration::from_secs(10), Duration::from_secs(600));

/// A cache in Redis. Connects when it is first asked for something, and anew after a loss.
#[derive(Clone)]
pub struct RedisCache {
    shared: Arc<Shared>,
}

/// How a [`RedisCache`] is used.
#[derive(Clone, Copy, Debug)]
pub struct RedisOptions<'a> {
    /// Further certificate authorities, for TLS.
    pub ca_file: Option<&'a Path>,
    /// The name that the channels begin with, and the original's channel itself.
    pub channel: &'a str,
    /// The name of the deployment; by default `db` and the number of the database, in which the keys are.
    pub deployment: Option<&'a str>,
    /// Whether broadcasts go over the original's channel as well, and are heard there.
    pub uses_original_channel: bool,
    /// How long an event is held after its last change.
    pub ttl: Duration,
    /// Which times and numbers are believed.
    pub limits: Plausibility,
}

struct Shared {
    address: Address,
    channels: Channels,
    limits: Plausibility,
    ttl_millis: u64,
    script: Script,
    /// The connection that everyone uses. Held while one is made, so that one try is made at a time.
    link: Mutex<Held>,
    /// How many connections were made.
    connections: AtomicU64,
}

#[derive(Default)]
struct Held {
    link: Option<Link>,
    /// Tells one connection from the next, so that a late failure of one does not take the next down.
    number: u64,
    failed: Option<(Instant, CacheError)>,
}

impl RedisCache {
    /// What is wrong with an address, if something is. Repeats no part of it.
    pub fn check_address(url: &SecretString) -> Result<(), String> {
        address::check(url)
    }

    /// A cache at `url`. Does not connect, so Redis may be away; reads the file of authorities, so it is for the start.
    pub fn new(url: &SecretString, options: &RedisOptions<'_>) -> Result<RedisCache, CacheError> {
        let address = Address::parse(url, options.ca_file)?;
        let deployment = options.deployment.map_or_else(|| format!("db{}", address.database()), str::to_owned);
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
        Ok(RedisCache { shared: Arc::new(shared) })
    }
}

impl Shared {
    async fn link(&self) -> Result<(Link, u64), CacheError> {
        let mut held = self.link.lock().await;
        if let Some(link) = &held.link {
            return Ok((link.clone(), held.number));
        }
        if let Some((at, error)) = &held.failed
            && at.elapsed() < CONNECT_PAUSE
        {
            return Err(error.clone());
        }
        match self.address.connect(AsyncConnectionConfig::new()).await {
            Ok(link) => {
                *held = Held { link: Some(link.clone()), number: held.number + 1, failed: None };
                self.connections.store(held.number, Ordering::Relaxed);
                Ok((link, held.number))
            }
            Err(error) => {
                held.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Sends a pipeline. A connection on which it failed is made anew, unless Redis answered and may answer otherwise next time.
    async fn send(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failed> {
        let (mut link, number) = self.link().await.map_err(Failed::Cache)?;
        match pipeline.query_async::<Vec<Value>>(&mut link.connection).await {
            Ok(values) => Ok(values),
            Err(error) => {
                if !is_answer(&error) || is_of_no_use(&error) {
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

    async fn write(&self, changes: Vec<Change>) -> Result<(), CacheError> {
        if changes.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now();
        let writing = Writing {
            hash: self.script.get_hash(),
            ttl_millis: self.ttl_millis,
            channels: &self.channels,
            latest: self.limits.latest(now),
            largest_seq: Plausibility::largest_seq(now),
        };
        let mut pipeline = Pipeline::with_capacity(changes.len());
        for change in &changes {
            pipeline.add_command(wire::write_command(change, &writing));
        }
        match self.send(&pipeline).await {
            Err(Failed::Redis(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let mut load = Pipeline::new();
                load.cmd("SCRIPT").arg("LOAD").arg(wire::SCRIPT);
                self.send(&load).await.map_err(|failed| self.error(failed))?;
                self.send(&pipeline).await
            }
            sent => sent,
        }
        .map(drop)
        .map_err(|failed| self.error(failed))
    }

    async fn read_book(&self, event_id: &EventId) -> Result<Vec<Arc<MarketState>>, CacheError> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("HGETALL").arg(wire::book_key(event_id)).cmd("GET").arg(wire::current_key(event_id));
        let values = self.send(&pipeline).await.map_err(|failed| self.error(failed))?;
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or(Value::Nil);
        let (book, current) = (next(), next());
        let fields: Vec<(Vec<u8>, Vec<u8>)> =
            redis::from_redis_value(book).map_err(|error| self.address.error(&error.into()))?;
        let mut unreadable = Vec::new();
        let mut states: Vec<_> = fields
            .iter()
            .filter_map(|(field, value)| {
                let name = || String::from_utf8_lossy(field).chars().take(80).collect::<String>();
                let state = wire::read_state(event_id, field, value);
                state.map_err(|problem| unreadable.push(format!("{}: {problem}", name()))).ok()
            })
            .map(Arc::new)
            .collect();
        if let Some(first) = unreadable.first() {
            let count = unreadable.len();
            if let Some(repeated) = UNREADABLE.check("") {
                warn!(event = event_id.as_str(), count, repeated; "markets in the cache cannot be read and are passed over: {first}");
            }
        }
        // The original keeps no hash.
        if let (true, Value::BulkString(current)) = (states.is_empty(), current)
            && let Ok(state) = wire::read_current(event_id, &current)
        {
            states.push(Arc::new(state));
        }
        Ok(states)
    }
}

/// Why nothing came back.
enum Failed {
    Cache(CacheError),
    Redis(RedisError),
}

/// Whether Redis answered, and only the answer is an error.
fn is_answer(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

/// Whether whoever answered cannot do the work of a cache: another one may stand behind the name by now.
fn is_of_no_use(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly};
    matches!(error.kind(), ErrorKind::Server(ReadOnly | MasterDown | BusyLoading | ClusterDown))
}

impl OddsCache for RedisCache {
    fn write(&self, states: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>> {
        self.write_changes(states.into_iter().map(|state| Change { state, conflated: false }).collect())
    }

    fn write_changes(&self, changes: Vec<Change>) -> BoxFuture<'static, Result<(), CacheError>> {
        let shared = self.shared.clone();
        async move { shared.write(changes).await }.boxed()
    }

    fn read_book(&self, event_id: &EventId) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>> {
        let (shared, event_id) = (self.shared.clone(), event_id.clone());
        async move { shared.read_book(&event_id).await }.boxed()
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>> {
        let shared = self.shared.clone();
        async move {
            let mut ping = Pipeline::new();
            ping.cmd("PING");
            shared.send(&ping).await.map(drop).map_err(|failed| shared.error(failed))
        }
        .boxed()
    }

    fn say_alive(&self) -> BoxFuture<'static, Result<(), CacheError>> {
        let shared = self.shared.clone();
        async move {
            let mut saying = Pipeline::new();
            let (channels, heartbeat) = (&shared.channels, shared.channels.heartbeat());
            let original = channels.original.as_ref().map(|(_, alive)| alive);
            for channel in [&channels.own_alive].into_iter().chain(original) {
                saying.cmd("PUBLISH").arg(channel).arg(&heartbeat);
            }
            shared.send(&saying).await.map(drop).map_err(|failed| shared.error(failed))
        }
        .boxed()
    }

    fn connection(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    fn listen(&self) -> Option<Box<dyn Broadcasts>> {
        let Shared { address, channels, limits, .. } = &*self.shared;
        Some(Box::new(RedisBroadcasts::new(address.clone(), channels.clone(), *limits)))
    }
}
