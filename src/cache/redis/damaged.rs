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

/// Fields of a hash with their values.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

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

/// Removes what cannot be read from the entries of these events. Returns the events from whose
/// entries something was removed.
pub(super) async fn remove_damaged(
    client: &Client,
    events: &[EventId],
) -> Result<Vec<EventId>, CacheError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = Pipeline::with_capacity(events.len());
    query.ignore_errors();
    for event_id in events {
        query.cmd("HGETALL").arg(wire::book_key(event_id));
    }
    let books = client.send(&query).await?;
    let entries = events.iter().zip(books);
    let entries = entries.map(|(event_id, book)| (event_id, unreadable_fields(event_id, book)));
    remove_from(client, entries.collect()).await
}

/// Removes these fields, and keys of the wrong type, from the entries of these events, unless
/// they have been written since they were read.
pub(super) async fn remove_from(
    client: &Client,
    entries: Vec<(&EventId, Fields)>,
) -> Result<Vec<EventId>, CacheError> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = Pipeline::with_capacity(entries.len() + 1);
    pipeline.ignore_errors();
    for (event_id, fields) in &entries {
        pipeline.add_command(wire::removal_command(event_id, fields));
    }
    // If this key has another type, the next `damaged` call removes it.
    let ids: Vec<&str> = entries
        .iter()
        .map(|(event_id, _)| event_id.as_str())
        .collect();
    pipeline.cmd("SREM").arg(wire::DAMAGED).arg(ids);
    let values = client.send(&pipeline).await?;
    let removed: Vec<EventId> = entries
        .into_iter()
        .zip(values)
        .filter(|(_, value)| matches!(value, Value::Int(1..)))
        .map(|((event_id, _), _)| event_id.clone())
        .collect();
    if let Some(first) = removed.first()
        && let Some(repeated) = REMOVAL_LOG.check("")
    {
        let count = removed.len();
        warn!(event = first.as_str(), count, repeated; "damaged cache entries removed, rewriting them");
    }
    Ok(removed)
}

/// The fields of an entry that cannot be read. None if the key has the wrong type.
fn unreadable_fields(event_id: &EventId, book: Value) -> Fields {
    let mut fields: Fields = redis::from_redis_value(book).unwrap_or_default();
    fields.retain(|(field, value)| wire::read_state(event_id, field, value).is_err());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreadable_fields_are_found() {
        let event_id = EventId::new("E").unwrap();
        let update = crate::domain::odds::update::testing::market_update("E", "1x2", None, 1, 1);
        let readable = format!(r#"{{"order":"0","seq":3,"payload":{}}}"#, update.to_json());
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let book = Value::Map(vec![
            (text("1x2"), text(&readable)),
            (text("btts"), text(&readable)),
            (text("goals"), text("{garbage")),
        ]);
        let unreadable = unreadable_fields(&event_id, book);
        let names: Vec<_> = unreadable
            .iter()
            .map(|(field, _)| field.as_slice())
            .collect();
        assert_eq!(
            names,
            [b"btts".as_slice(), b"goals"],
            "btts has the payload of 1x2"
        );
        // A key of the wrong type is answered with an error, a missing one with nothing.
        assert!(unreadable_fields(&event_id, Value::Nil).is_empty());
        assert!(unreadable_fields(&event_id, Value::Map(Vec::new())).is_empty());
    }
}
