//! The Redis cache: a hot copy shared by all processes, and the broadcast between them.

mod address;
mod channels;
mod client;
mod damaged;
mod entries;
mod incoming;
mod listen;
#[cfg(test)]
mod real_engines;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redis::Pipeline;
use secrecy::SecretString;

use self::address::Address;
use self::channels::Channels;
use self::client::Client;
use self::entries::Entries;
use self::listen::RedisBroadcasts;
use super::{BroadcastStream, CacheError, Change, OddsCache};
use crate::domain::ids::{EventId, Source};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::plausible::Plausibility;
use crate::domain::odds::source_status::SourceStatus;

/// A cache in Redis. Connects on first use and reconnects after a loss.
#[derive(Clone)]
pub(crate) struct RedisCache {
    shared: Arc<Shared>,
}

/// The options of a [`RedisCache`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedisOptions<'a> {
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
    client: Client,
    channels: Channels,
    entries: Entries,
    limits: Plausibility,
    /// Identifies this process in its heartbeats.
    processor: String,
}

impl RedisCache {
    /// Creates a cache at `url`. Does not connect, so Redis may be unavailable. Reads the CA file,
    /// so call it at startup.
    pub(crate) fn new(
        url: &SecretString,
        options: &RedisOptions<'_>,
    ) -> Result<RedisCache, CacheError> {
        let address = Address::parse(url, options.ca_file)?;
        let deployment = options
            .deployment
            .map_or_else(|| format!("db{}", address.database()), str::to_owned);
        let shared = Shared {
            client: Client::new(address),
            channels: Channels::new(options.channel, &deployment, options.uses_original_channel),
            entries: Entries::new(options.ttl, options.limits),
            limits: options.limits,
            processor: format!("{:016x}", fastrand::u64(..)),
        };
        Ok(RedisCache {
            shared: Arc::new(shared),
        })
    }
}

impl OddsCache for RedisCache {
    fn write(&self, states: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>> {
        let writing = self.write_changes(
            states
                .into_iter()
                .map(|state| Change {
                    state,
                    conflated: false,
                    trace: None,
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
        async move {
            let Shared {
                client,
                channels,
                entries,
                ..
            } = &*shared;
            entries.write(client, channels, changes).await
        }
        .boxed()
    }

    fn damaged(&self) -> BoxFuture<'static, Result<Vec<EventId>, CacheError>> {
        let shared = self.shared.clone();
        async move { damaged::list(&shared.client).await }.boxed()
    }

    fn remove_damaged(
        &self,
        events: Vec<EventId>,
    ) -> BoxFuture<'static, Result<Vec<EventId>, CacheError>> {
        let shared = self.shared.clone();
        async move { damaged::remove_damaged(&shared.client, &events).await }.boxed()
    }

    fn read_book(
        &self,
        event_id: &EventId,
    ) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>> {
        let shared = self.shared.clone();
        let event_id = event_id.clone();
        async move { entries::read_book(&shared.client, &event_id).await }.boxed()
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>> {
        let shared = self.shared.clone();
        async move {
            let mut ping = Pipeline::new();
            ping.cmd("PING");
            shared.client.send(&ping).await.map(drop)
        }
        .boxed()
    }

    fn publish_heartbeat(
        &self,
        sources: &BTreeMap<Source, SourceStatus>,
    ) -> BoxFuture<'static, Result<(), CacheError>> {
        let shared = self.shared.clone();
        let heartbeat = shared.channels.heartbeat(&shared.processor, sources);
        async move {
            let heartbeat =
                heartbeat.map_err(|error| CacheError::Unavailable(error.to_string()))?;
            let mut messages = Pipeline::new();
            let channels = &shared.channels;
            let original = channels.original.as_ref().map(|(_, alive)| alive);
            for channel in [&channels.own_alive].into_iter().chain(original) {
                messages.cmd("PUBLISH").arg(channel).arg(&heartbeat);
            }
            shared.client.send(&messages).await.map(drop)
        }
        .boxed()
    }

    fn connection(&self) -> u64 {
        self.shared.client.connections()
    }

    fn listen(&self) -> Option<Box<dyn BroadcastStream>> {
        Some(Box::new(RedisBroadcasts::new(
            self.shared.client.address().clone(),
            self.shared.channels.clone(),
            self.shared.limits,
        )))
    }
}
