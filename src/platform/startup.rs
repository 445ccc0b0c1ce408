//! What is done once an engine is there, and waited for until then.

use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};

use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::runtime::blocking::blocking;
use crate::store::{Store, StoreError};

/// Delays between tries while a database is away. Its store spares the server: most of these do not
/// reach it.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(200),
    most: Duration::from_millis(500),
};

/// Brings the tables to this version, as soon as the database lets it. Until then whoever uses the
/// store is told that it is unavailable, and tries again.
pub(super) async fn migrate(store: Arc<dyn Store>) {
    until(
        store,
        "the database is there, its tables are up to date",
        |store| store.migrate(),
    )
    .await;
}

/// Says in the log that the database is waited for, where nobody else does: `odds` only reads it
/// when it is asked.
pub(super) async fn log_when_available(store: Arc<dyn Store>) {
    until(store, "the database is there", |store| store.ping()).await;
}

async fn until(
    store: Arc<dyn Store>,
    there: &'static str,
    step: fn(&dyn Store) -> Result<(), StoreError>,
) {
    let mut backoff = Backoff::new(RETRY, Timestamp::now().micros() as u64);
    let mut said = None;
    loop {
        let asked = store.clone();
        match blocking(move || step(&*asked)).await {
            Ok(()) => {
                if said.is_some() {
                    info!("{there}");
                }
                return;
            }
            Err(failure) => {
                // Once a cause, however long it takes.
                let failure = failure.to_string();
                if said.as_ref() != Some(&failure) {
                    warn!("waiting for the database: {failure}");
                    said = Some(failure);
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
    async fn it_is_tried_until_the_database_is_there() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = SqliteStore::open(&folder.path().join("test.db").to_string_lossy()).unwrap();
        let step = |_: &dyn Store| match TRIES.fetch_add(1, Ordering::SeqCst) {
            0 => Err(StoreError::Unavailable("test".to_owned())),
            _ => Ok(()),
        };
        until(Arc::new(store), "there", step).await;
        assert_eq!(TRIES.load(Ordering::SeqCst), 2);
    }
}
