//! Runs calls of the money store: transfers one at a time per user, reads concurrently.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::domain::ids::UserId;
use crate::store::StoreError;
use crate::store::blocking::{blocking, blocking_with};
use crate::store::money::WalletError;
use crate::store::user_turns::UserTurns;

/// Maximum number of queued requests per user.
const MAX_WAITING: usize = 256;
/// How long a request waits for the user's earlier requests, and then for a wallet lock held by
/// another transaction.
const WAIT_LIMIT: Duration = Duration::from_secs(3);
/// Delay between two attempts to lock a wallet.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Why a call for a user has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TurnError<E> {
    /// Too many calls of the user are waiting, or they take too long.
    #[error("too many requests are waiting for this wallet; retry")]
    WalletBusy,
    /// Another transaction held the wallet for longer than the limit.
    #[error("the wallet is locked by another request; retry")]
    WalletLocked,
    /// The call failed.
    #[error(transparent)]
    Failed(E),
}

/// An error of a store call, which may be a timeout on a wallet's lock.
pub trait LockTimeout: From<StoreError> + Send + 'static {
    /// Whether the call timed out on a lock that another transaction held.
    fn is_lock_timeout(&self) -> bool;
}

impl LockTimeout for StoreError {
    fn is_lock_timeout(&self) -> bool {
        StoreError::is_lock_timeout(self)
    }
}

impl LockTimeout for WalletError {
    fn is_lock_timeout(&self) -> bool {
        matches!(self, WalletError::Store(error) if error.is_lock_timeout())
    }
}

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
    ) -> Result<T, StoreError> {
        let store = self.store.clone();
        blocking(move || work(&*store)).await
    }

    /// Runs a transfer of a user in its turn. If the wallet is locked by another transaction, the
    /// call is retried. Between attempts its connection serves other calls, so locked wallets do
    /// not block other users.
    pub async fn for_user<T, E>(
        &self,
        user_id: &UserId,
        work: impl Fn(&S) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<T, TurnError<E>>
    where
        T: Send + 'static,
        E: LockTimeout,
    {
        let place = self
            .users
            .queue(user_id, MAX_WAITING)
            .ok_or(TurnError::WalletBusy)?;
        let turn = timeout_at(Instant::now() + WAIT_LIMIT, place.turn())
            .await
            .map_err(|_| TurnError::WalletBusy)?;
        // If the caller stops waiting, this future is dropped but the call continues: it holds its
        // permits until it returns.
        let place = Arc::new((turn, place));
        let work = Arc::new(work);
        let until = Instant::now() + WAIT_LIMIT;
        let mut is_locked = false;
        loop {
            let Ok(call) = timeout_at(until, place.1.call()).await else {
                return Err(if is_locked {
                    TurnError::WalletLocked
                } else {
                    TurnError::WalletBusy
                });
            };
            let store = self.store.clone();
            let work = work.clone();
            let held = (place.clone(), call);
            let done = blocking_with(move || {
                let done = work(&*store);
                drop(held);
                done
            });
            match done.await {
                Err(error) if error.is_lock_timeout() => is_locked = true,
                done => return done.map_err(TurnError::Failed),
            }
            if Instant::now() >= until {
                return Err(TurnError::WalletLocked);
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

#[cfg(test)]
mod tests;
