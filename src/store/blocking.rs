//! Runs blocking database calls on their own threads.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::StoreError;
use crate::telemetry::role;

/// Runs blocking work on a thread of the blocking pool. A panic becomes an error.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    blocking_with(work).await
}

/// Runs blocking work within a time limit. Waiting for one of the `turns` is part of that time. Work
/// that is not waited for any more keeps its turn and its thread until the database ends it.
pub(crate) async fn blocking_within<T: Send + 'static>(
    turns: Arc<Semaphore>,
    limit: Duration,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let working = async {
        let turn = turns.acquire_owned().await;
        blocking(move || {
            let _turn = turn;
            work()
        })
        .await
    };
    let late = |_| StoreError::Unavailable(format!("the database has not responded for {limit:?}"));
    tokio::time::timeout(limit, working)
        .await
        .map_err(late)
        .flatten()
}

/// Like [`blocking`], for errors other than [`StoreError`].
pub(crate) async fn blocking_with<T: Send + 'static, E: From<StoreError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(role::carry(work)).await {
        Ok(result) => result,
        Err(failure) => {
            Err(StoreError::Unavailable(format!("the database thread failed: {failure}")).into())
        }
    }
}
