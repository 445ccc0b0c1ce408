//! Reads and writes the entries of events.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, Pipeline, Script, ServerErrorKind, Value};

use super::channels::Channels;
use super::client::{Client, SendError};
use super::damaged;
use super::wire::{self, Writing};
use crate::cache::{CacheError, Change};
use crate::domain::ids::EventId;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::plausible::Plausibility;
use crate::domain::timestamp::Timestamp;

/// Writes the entries.
pub(super) struct Entries {
    script: Script,
    ttl_millis: u64,
    limits: Plausibility,
}

impl Entries {
    /// Writes entries that expire `ttl` after their last change. Held entries outside of `limits`
    /// count as missing.
    pub(super) fn new(ttl: Duration, limits: Plausibility) -> Entries {
        Entries {
            script: Script::new(wire::SCRIPT),
            ttl_millis: u64::try_from(ttl.as_millis())
                .unwrap_or(u64::MAX)
                .clamp(1, u64::from(u32::MAX) * 1_000),
            limits,
        }
    }

    /// Writes the changes. Returns the events whose entries were damaged.
    pub(super) async fn write(
        &self,
        client: &Client,
        channels: &Channels,
        changes: Vec<Change>,
    ) -> Result<Vec<EventId>, CacheError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.send_changes(client, channels, &changes).await?;
        let damaged = damaged_events(&changes, &values);
        if damaged.is_empty() {
            return Ok(damaged);
        }
        // A key of the wrong type has no readable states; if it is a hash again by now, it stays.
        let entries = damaged.iter().map(|event_id| (event_id, Vec::new()));
        damaged::remove_from(client, entries.collect()).await?;
        // Changes of these events that succeeded before were removed with the entries.
        let repeated: Vec<_> = changes
            .into_iter()
            .filter(|change| damaged.contains(&change.state.update.event_id))
            .map(|change| Change {
                conflated: true,
                ..change
            })
            .collect();
        let values = self.send_changes(client, channels, &repeated).await?;
        match values
            .into_iter()
            .find_map(|value| value.extract_error().err())
        {
            Some(error) => Err(client.address().error(&error)),
            None => Ok(damaged),
        }
    }

    /// The results of the writes; an entry whose key has the wrong type has an error.
    async fn send_changes(
        &self,
        client: &Client,
        channels: &Channels,
        changes: &[Change],
    ) -> Result<Vec<Value>, CacheError> {
        let now = Timestamp::now();
        let writing = Writing {
            hash: self.script.get_hash(),
            ttl_millis: self.ttl_millis,
            channels,
            latest: self.limits.latest(now),
            largest_seq: Plausibility::largest_seq(now),
        };
        let mut pipeline = Pipeline::with_capacity(changes.len());
        pipeline.ignore_errors();
        for change in changes {
            pipeline.add_command(wire::write_command(change, &writing));
        }
        match client.try_send(&pipeline).await {
            Err(SendError::Redis(error))
                if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) =>
            {
                let mut load = Pipeline::new();
                load.cmd("SCRIPT").arg("LOAD").arg(wire::SCRIPT);
                client.send(&load).await?;
                client.send(&pipeline).await
            }
            sent => sent.map_err(|error| client.cache_error(error)),
        }
    }
}

/// The events of the changes that could not be written, each once.
fn damaged_events(changes: &[Change], values: &[Value]) -> Vec<EventId> {
    let damaged: BTreeSet<EventId> = changes
        .iter()
        .zip(values)
        .filter(|(_, value)| matches!(value, Value::ServerError(_)))
        .map(|(change, _)| change.state.update.event_id.clone())
        .collect();
    damaged.into_iter().collect()
}

/// Reads the entry of an event. Reports it if it is damaged.
pub(super) async fn read_book(
    client: &Client,
    event_id: &EventId,
) -> Result<Vec<Arc<MarketState>>, CacheError> {
    let mut pipeline = Pipeline::new();
    pipeline.ignore_errors();
    pipeline
        .cmd("HGETALL")
        .arg(wire::book_key(event_id))
        .cmd("GET")
        .arg(wire::current_key(event_id));
    let mut values = client.send(&pipeline).await?.into_iter();
    let book = values.next().unwrap_or(Value::Nil);
    let current = values.next().unwrap_or(Value::Nil);
    let stored = match book.extract_error() {
        Ok(book) => {
            let fields: Vec<(Vec<u8>, Vec<u8>)> = redis::from_redis_value(book)
                .map_err(|error| client.address().error(&error.into()))?;
            StoredBook::read(event_id, &fields)
        }
        Err(error) => StoredBook {
            states: Vec::new(),
            problem: Some(error.to_string()),
        },
    };
    let mut states = stored.states;
    if let Some(problem) = stored.problem {
        damaged::report(client, event_id).await;
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

/// The content of an entry.
#[derive(Default)]
struct StoredBook {
    /// The readable states.
    states: Vec<Arc<MarketState>>,
    /// The first fault.
    problem: Option<String>,
}

impl StoredBook {
    fn read(event_id: &EventId, fields: &[(Vec<u8>, Vec<u8>)]) -> StoredBook {
        let mut stored = StoredBook::default();
        for (field, value) in fields {
            match wire::read_state(event_id, field, value) {
                Ok(state) => stored.states.push(Arc::new(state)),
                Err(problem) => {
                    stored
                        .problem
                        .get_or_insert_with(|| format!("{}: {problem}", shortened(field)));
                }
            }
        }
        stored
    }
}

/// The beginning of a field's name, for operators.
fn shortened(field: &[u8]) -> String {
    String::from_utf8_lossy(field).chars().take(80).collect()
}
