//! Readiness checks of the roles.

use std::sync::Arc;

use futures_util::FutureExt;

use crate::actors::bets::supplier_client::SupplierClient;
use crate::actors::ingest::supplier_feed::SupplierConnection;
use crate::actors::odds::cache_writer::CacheHealth;
use crate::actors::odds::store_writer::LastBatch;
use crate::bus::Topic;
use crate::bus::health::SubscriptionHealth;
use crate::cache::OddsCache;
use crate::http::health::Check;
use crate::runtime::feed_health::FeedState;
use crate::runtime::health::HealthCell;
use crate::store::Store;
use crate::store::blocking::blocking;

use super::reasons;

pub(super) fn check_store(store: &Arc<dyn Store>) -> Check {
    let store = store.clone();
    Check::new("database", move || {
        let store = store.clone();
        blocking(move || store.ping())
            .map(|result| result.map_err(|error| reasons::database(&error)))
            .boxed()
    })
}

/// Whether the database responds and accepts writes: with a full disk it responds but rejects
/// writes.
pub(super) fn check_writes(store: &Arc<dyn Store>, last: Arc<LastBatch>) -> Check {
    let store = store.clone();
    Check::new("database", move || {
        let (store, last) = (store.clone(), last.clone());
        let answered = blocking(move || store.ping())
            .map(|result| result.map_err(|error| reasons::database(&error)));
        let written = move || {
            last.problem()
                .map_or(Ok(()), |problem| Err(reasons::database(&problem)))
        };
        answered
            .map(move |result| result.and_then(|()| written()))
            .boxed()
    })
}

pub(super) fn check_cache(cache: &Arc<dyn OddsCache>) -> Check {
    let cache = cache.clone();
    Check::new("cache", move || {
        cache
            .ping()
            .map(|result| result.map_err(|error| reasons::cache(&error)))
            .boxed()
    })
}

/// For a cache that is written: it must respond, and the last write must have succeeded.
pub(super) fn check_written_cache(cache: &Arc<dyn OddsCache>, health: &Arc<CacheHealth>) -> Check {
    let (cache, health) = (cache.clone(), health.clone());
    Check::new("cache", move || {
        let problem = health.problem();
        let pinged = cache
            .ping()
            .map(|result| result.map_err(|error| reasons::cache(&error)));
        let written = move || problem.map_or(Ok(()), |problem| Err(reasons::cache(&problem)));
        pinged
            .map(move |result| result.and_then(|()| written()))
            .boxed()
    })
}

/// Not ready while prices may be stale.
pub(super) fn check_feed(feed: &Arc<FeedState>) -> Check {
    let feed = feed.clone();
    Check::new("feed", move || {
        std::future::ready(
            feed.problem()
                .map_or(Ok(()), |why| Err(reasons::feed(&why))),
        )
        .boxed()
    })
}

pub(super) fn check_bus(topic: &Arc<dyn Topic>) -> Check {
    let topic = topic.clone();
    Check::new("bus", move || {
        topic
            .ping()
            .map(|result| result.map_err(|error| reasons::bus(&error)))
            .boxed()
    })
}

/// Not ready before the group has assigned partitions to this process, or while it cannot read.
pub(super) fn check_group(name: &str, health: SubscriptionHealth) -> Check {
    let check = move || match health.problem() {
        None => Ok(()),
        Some(problem) => {
            // The text after the group's name comes from the bus; it is only logged.
            let joining = problem.starts_with("joining ");
            Err(if joining {
                "joining the consumer group"
            } else {
                "the consumer group cannot be read"
            }
            .to_owned())
        }
    };
    Check::new(name, move || std::future::ready(check()).boxed())
}

/// Ready while any supplier is connected: one failing supplier must not take the others out of
/// service.
pub(super) fn check_suppliers(statuses: Vec<Arc<SupplierConnection>>) -> Check {
    Check::new("suppliers", move || {
        let connected = statuses.iter().any(|status| status.is_connected());
        let names = || {
            statuses
                .iter()
                .map(|status| status.supplier.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let result = if connected {
            Ok(())
        } else {
            Err(format!("no supplier is connected: {}", names()))
        };
        std::future::ready(result).boxed()
    })
}

/// Not ready while an actor cannot do its work.
pub(super) fn check_trouble(name: &str, trouble: Arc<HealthCell>) -> Check {
    Check::new(name, move || {
        std::future::ready(trouble.problem().map_or(Ok(()), Err)).boxed()
    })
}

/// Not ready while the circuit breaker of the bet supplier is open.
pub(super) fn check_supplier(supplier: Arc<SupplierClient>) -> Check {
    Check::new("supplier", move || {
        std::future::ready(supplier.problem().map_or(Ok(()), Err)).boxed()
    })
}
