//! Runs money store calls for HTTP handlers, one at a time per user.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::domain::ids::UserId;
use crate::http::errors::ApiError;
use crate::store::StoreError;
use crate::store::blocking::blocking_with;
use crate::store::user_turns::UserTurns;

/// Maximum number of queued requests per user.
const MAX_WAITING: usize = 256;
/// How long a request waits for the user's earlier requests, and then for a wallet lock held by
/// another transaction.
const WAIT_LIMIT: Duration = Duration::from_secs(3);
/// Delay between two attempts to lock a wallet.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// A store whose calls move money. Transfers of one user run one after the other; users do not wait
/// for each other.
pub struct WalletExecutor<S: ?Sized> {
    store: Arc<S>,
    users: Arc<UserTurns>,
}

impl<S: ?Sized + Send + Sync + 'static> WalletExecutor<S> {
    /// Calls `store` within the limits of `users`.
    pub fn new(store: Arc<S>, users: Arc<UserTurns>) -> WalletExecutor<S> {
        WalletExecutor { store, users }
    }

    /// Runs a read, concurrently with everything else.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&S) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let store = self.store.clone();
        Ok(blocking_with(move || work(&*store)).await?)
    }

    /// Runs a transfer of a user in its turn. If the wallet is locked by another transaction, the
    /// call is retried. Between attempts its connection serves other calls, so locked wallets do
    /// not block other users.
    pub async fn for_user<T, E>(
        &self,
        user_id: &UserId,
        work: impl Fn(&S) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<T, ApiError>
    where
        T: Send + 'static,
        E: From<StoreError> + Into<ApiError> + Send + 'static,
    {
        let place = self
            .users
            .queue(user_id, MAX_WAITING)
            .ok_or(ApiError::WalletBusy)?;
        let turn = timeout_at(Instant::now() + WAIT_LIMIT, place.turn())
            .await
            .map_err(|_| ApiError::WalletBusy)?;
        // If the client disconnects, this future is dropped but the call continues: it holds its
        // permits until it returns.
        let place = Arc::new((turn, place));
        let (work, until) = (Arc::new(work), Instant::now() + WAIT_LIMIT);
        let mut is_held = false;
        loop {
            let (store, work) = (self.store.clone(), work.clone());
            let late = if is_held {
                ApiError::WalletHeld
            } else {
                ApiError::WalletBusy
            };
            let call = timeout_at(until, place.1.call()).await.map_err(|_| late)?;
            let held = (place.clone(), call);
            let done = blocking_with(move || {
                let done = work(&*store);
                drop(held);
                done
            });
            let done = done.await.map_err(Into::into);
            is_held = matches!(done, Err(ApiError::WalletHeld));
            if !is_held || Instant::now() >= until {
                return done;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

#[cfg(test)]
mod tests;
