//! Blocking calls of the database, on threads of their own.

use crate::store::StoreError;

/// Runs what blocks on a thread for it. A panic in there is an error here.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    blocking_with(work).await
}

/// As [`blocking`], for work whose errors are more than the store's.
pub async fn blocking_with<T: Send + 'static, E: From<StoreError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failure) => {
            Err(StoreError::Unavailable(format!("the database thread failed: {failure}")).into())
        }
    }
}
