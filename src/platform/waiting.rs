//! What is done once an engine is there, and waited for until then.

use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};

use crate::actors::store_writer::blocking;
use crate::domain::backoff::{Backoff, BackoffPolicy};
use crate::domain::timestamp::Timestamp;
use crate::store::Store;

/// Delays between tries while a database is away.
const RETRY: BackoffPolicy = BackoffPolicy { first: Duration::from_millis(200), most: Duration::from_secs(2) };

/// Brings the tables to this version, as soon as the database lets it. Until then whoever uses the store is told that
/// it is unavailable, and tries again.
pub(super) async fn migrate(store: Arc<dyn Store>) {
    let mut backoff = Backoff::new(RETRY, Timestamp::now().micros() as u64);
    let mut said = None;
    loop {
        let migrating = store.clone();
        match blocking(move || migrating.migrate()).await {
            Ok(()) => {
                if said.is_some() {
                    info!("the database is there, its tables are up to date");
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
