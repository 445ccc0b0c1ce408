//! Tasks that wait for an engine and run once it is available.

use std::sync::Arc;
use std::time::Duration;

use log::{debug, info, warn};

use crate::domain::streaming::epoch::CurrentEpoch;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::runtime::health::HealthCell;
use crate::store::blocking::blocking;
use crate::store::{Store, StoreError};

/// Backoff while a database is unavailable. The store limits connection attempts, so most of these
/// attempts do not reach the server.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(200),
    most: Duration::from_millis(500),
};

/// Backoff while the epoch cannot be read.
const EPOCH_RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(200),
    most: Duration::from_secs(2),
};

/// Migrates the schema as soon as the database is available. Until then the store returns
/// `Unavailable` to its callers, which retry.
pub(super) async fn migrate(store: Arc<dyn Store>) {
    retry_until_done(store, "database available, schema up to date", |store| {
        store.migrate()
    })
    .await;
}

/// Logs that the process waits for the database. Needed for `odds`, which otherwise reads it only
/// on request.
pub(super) async fn log_when_available(store: Arc<dyn Store>) {
    retry_until_done(store, "database available", |store| store.ping()).await;
}

/// Loads the epoch of the sequence numbers as soon as the database is available. Until then clients
/// cannot resume.
pub(super) async fn load_stream_epoch(store: Arc<dyn Store>, epoch: Arc<CurrentEpoch>) {
    let mut backoff = Backoff::new(EPOCH_RETRY, Timestamp::now().micros() as u64);
    let database = HealthCell::default();
    loop {
        let attempted = store.clone();
        match blocking(move || attempted.stream_epoch()).await {
            Ok(loaded) => return epoch.set(loaded),
            // Logged by others.
            Err(StoreError::Unavailable(cause)) => debug!("the epoch is not known yet: {cause}"),
            Err(failure) => {
                if database.record_failure(&failure) {
                    warn!("clients cannot resume, because the epoch is not known: {failure}");
                }
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn retry_until_done(
    store: Arc<dyn Store>,
    done: &'static str,
    step: fn(&dyn Store) -> Result<(), StoreError>,
) {
    let mut backoff = Backoff::new(RETRY, Timestamp::now().micros() as u64);
    let database = HealthCell::default();
    loop {
        let attempted = store.clone();
        match blocking(move || step(&*attempted)).await {
            Ok(()) => {
                if database.record_success() {
                    info!("{done}");
                }
                return;
            }
            Err(failure) => {
                // Log each cause once, however long the outage lasts.
                if database.record_failure(&failure) {
                    warn!("waiting for the database: {failure}");
                }
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::sqlite::SqliteStore;

    static TRIES: AtomicUsize = AtomicUsize::new(0);

    #[actix_web::test]
    async fn step_is_retried_until_database_is_available() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = SqliteStore::open(&folder.path().join("test.db").to_string_lossy()).unwrap();
        let step = |_: &dyn Store| match TRIES.fetch_add(1, Ordering::SeqCst) {
            0 => Err(StoreError::Unavailable("test".to_owned())),
            _ => Ok(()),
        };
        retry_until_done(Arc::new(store), "done", step).await;
        assert_eq!(TRIES.load(Ordering::SeqCst), 2);
    }
}
