//! Runs blocking database calls on their own threads.

use super::StoreError;
use crate::telemetry::role;

/// Runs blocking work on a thread of the blocking pool. A panic becomes an error.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    blocking_with(work).await
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
