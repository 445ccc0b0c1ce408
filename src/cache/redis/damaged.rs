//! The set of events with damaged entries: readers report them, a processor rewrites them.

use std::collections::BTreeSet;
use std::time::Duration;

use log::warn;
use redis::{Pipeline, Value};

use super::client::Client;
use super::wire;
use crate::cache::CacheError;
use crate::domain::ids::EventId;
use crate::telemetry::log_limit::LogLimit;

/// How long an entry stays reported as damaged after the last reader that found it.
const DAMAGED_TTL: Duration = Duration::from_secs(60);
/// The maximum number of damaged entries repaired at a time.
const MAX_DAMAGED: usize = 100;
/// Limits the log of removed damaged entries.
static REMOVAL_LOG: LogLimit = LogLimit::growing(Duration::from_secs(10), Duration::from_secs(600));

/// Asks a processor to rewrite an entry. Repeated by each read that fails.
pub(super) async fn report(client: &Client, event_id: &EventId) {
    let mut report = Pipeline::new();
    // If the key has another type, the cache writer removes it, and the next read reports again.
    report.ignore_errors();
    report
        .cmd("SADD")
        .arg(wire::DAMAGED)
        .arg(event_id.as_str())
        .ignore();
    report
        .cmd("PEXPIRE")
        .arg(wire::DAMAGED)
        .arg(DAMAGED_TTL.as_millis() as u64)
        .ignore();
    // The reader gets the error of the read in any case.
    let _ = client.send(&report).await;
}

/// The reported events, at most [`MAX_DAMAGED`].
pub(super) async fn list(client: &Client) -> Result<Vec<EventId>, CacheError> {
    let mut query = Pipeline::new();
    query.ignore_errors();
    query.cmd("SMEMBERS").arg(wire::DAMAGED);
    let values = client.send(&query).await?;
    // The key has the wrong type. It must not stop the cache, so it is removed.
    if values
        .iter()
        .any(|value| matches!(value, Value::ServerError(_)))
    {
        let mut removal = Pipeline::new();
        removal.cmd("UNLINK").arg(wire::DAMAGED);
        return client.send(&removal).await.map(|_| Vec::new());
    }
    let ids: Vec<Vec<String>> = values
        .into_iter()
        .filter_map(|value| redis::from_redis_value(value).ok())
        .collect();
    // The same ones each time, until they are removed.
    let events: BTreeSet<EventId> = ids
        .iter()
        .flatten()
        .filter_map(|id| EventId::new(id).ok())
        .collect();
    Ok(events.into_iter().take(MAX_DAMAGED).collect())
}

/// Removes damaged entries.
pub(super) async fn remove(client: &Client, events: &[EventId]) -> Result<(), CacheError> {
    let Some(first) = events.first() else {
        return Ok(());
    };
    if let Some(repeated) = REMOVAL_LOG.check("") {
        let count = events.len();
        warn!(event = first.as_str(), count, repeated; "damaged cache entries removed, rewriting them");
    }
    let mut pipeline = Pipeline::new();
    for event_id in events {
        pipeline
            .cmd("UNLINK")
            .arg(wire::book_key(event_id))
            .arg(wire::current_key(event_id));
    }
    // If this key has another type, the next `list` call removes it.
    let ids: Vec<&str> = events.iter().map(EventId::as_str).collect();
    pipeline
        .ignore_errors()
        .cmd("SREM")
        .arg(wire::DAMAGED)
        .arg(ids);
    client.send(&pipeline).await.map(drop)
}
