//! Readiness checks of the roles.

use std::fmt::Display;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use crate::actors::ingest::supplier_feed::SupplierConnection;
use crate::bus::Topic;
use crate::bus::health::SubscriptionHealth;
use crate::cache::OddsCache;
use crate::http::health::Check;
use crate::runtime::feed_health::FeedState;
use crate::runtime::health::HealthCell;
use crate::store::Store;
use crate::store::blocking::blocking;

use super::reasons;

/// Not ready while there is a problem.
pub(super) fn check(
    name: &str,
    problem: impl Fn() -> Option<String> + Send + Sync + 'static,
) -> Check {
    Check::new(name, move || ready(problem().map_or(Ok(()), Err)).boxed())
}

/// Not ready while an engine does not respond, or the last write failed. `reason` returns the text
/// for a cause.
fn check_engine<E: Display + Send + 'static>(
    name: &str,
    ping: impl Fn() -> BoxFuture<'static, Result<(), E>> + Send + Sync + 'static,
    writes: Option<Arc<HealthCell>>,
    reason: fn(&dyn Display) -> String,
) -> Check {
    Check::new(name, move || {
        let writes = writes.clone();
        let pinging = ping();
        async move {
            pinging.await.map_err(|error| reason(&error))?;
            match writes.and_then(|writes| writes.problem()) {
                None => Ok(()),
                Some(cause) => Err(reason(&cause)),
            }
        }
        .boxed()
    })
}

fn check_database(store: &Arc<dyn Store>, writes: Option<Arc<HealthCell>>) -> Check {
    let store = store.clone();
    let ping = move || {
        let store = store.clone();
        blocking(move || store.ping()).boxed()
    };
    check_engine("database", ping, writes, reasons::database)
}

/// Whether the database responds.
pub(super) fn check_store(store: &Arc<dyn Store>) -> Check {
    check_database(store, None)
}

/// Whether the database responds and accepts writes: with a full disk it responds but rejects
/// writes.
pub(super) fn check_writes(store: &Arc<dyn Store>, writes: Arc<HealthCell>) -> Check {
    check_database(store, Some(writes))
}

/// Whether the cache responds.
pub(super) fn check_cache(cache: &Arc<dyn OddsCache>) -> Check {
    let cache = cache.clone();
    check_engine("cache", move || cache.ping(), None, reasons::cache)
}

/// For a cache that is written: it must respond, and the last write must have succeeded.
pub(super) fn check_written_cache(cache: &Arc<dyn OddsCache>, writes: &Arc<HealthCell>) -> Check {
    let cache = cache.clone();
    let writes = Some(writes.clone());
    check_engine("cache", move || cache.ping(), writes, reasons::cache)
}

/// Whether the bus responds.
pub(super) fn check_bus(topic: &Arc<dyn Topic>) -> Check {
    let topic = topic.clone();
    check_engine("bus", move || topic.ping(), None, reasons::bus)
}

/// Not ready while prices may be stale.
pub(super) fn check_feed(feed: &Arc<FeedState>) -> Check {
    let feed = feed.clone();
    check("feed", move || {
        feed.problem().map(|why| reasons::feed(&why))
    })
}

/// Not ready before the group has assigned partitions to this process, or while it cannot read.
/// The cause comes from the bus; it is only logged.
pub(super) fn check_group(name: &str, health: SubscriptionHealth) -> Check {
    check(name, move || {
        health.problem()?;
        let reason = if health.has_joined() {
            "the consumer group cannot be read"
        } else {
            "joining the consumer group"
        };
        Some(reason.to_owned())
    })
}

/// Ready while any supplier is connected: one failing supplier must not take the others out of
/// service.
pub(super) fn check_suppliers(suppliers: Vec<Arc<SupplierConnection>>) -> Check {
    check("suppliers", move || {
        if suppliers.iter().any(|supplier| supplier.is_connected()) {
            return None;
        }
        let names: Vec<_> = suppliers
            .iter()
            .map(|connection| connection.supplier.as_str())
            .collect();
        Some(format!("no supplier is connected: {}", names.join(", ")))
    })
}
