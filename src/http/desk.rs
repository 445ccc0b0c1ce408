//! How handlers get at the store of money.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};

use super::errors::ApiError;
use crate::actors::store_writer::blocking_with;
use crate::domain::ids::UserId;
use crate::store::StoreError;
use crate::store::money::MoneyStore;

/// Requests that may wait for one lane.
const MOST_WAITING: usize = 256;
/// How long one may wait.
const PATIENCE: Duration = Duration::from_secs(3);

/// The store of money, behind lanes: what moves one user's money goes through one of them, one after the other. The
/// database would have them wait for the user's row anyway, each with a connection in its hands; here a wallet that
/// everybody moves at once takes up a single one, and leaves the others to everybody else.
pub struct MoneyDesk {
    store: Arc<dyn MoneyStore>,
    lanes: Vec<Lane>,
}

struct Lane {
    turn: Mutex<()>,
    places: Semaphore,
}

impl MoneyDesk {
    /// A desk with so many lanes; more than there are connections are of no use.
    pub fn new(store: Arc<dyn MoneyStore>, lanes: usize) -> MoneyDesk {
        let lane = || Lane { turn: Mutex::new(()), places: Semaphore::new(MOST_WAITING) };
        MoneyDesk { store, lanes: std::iter::repeat_with(lane).take(lanes.max(1)).collect() }
    }

    /// Reads, beside everything else.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn MoneyStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let store = self.store.clone();
        Ok(blocking_with(move || work(&*store)).await?)
    }

    /// Moves a user's money, when its turn comes.
    pub async fn for_user<T, E>(
        &self,
        user_id: &UserId,
        work: impl FnOnce(&dyn MoneyStore) -> Result<T, E> + Send + 'static,
    ) -> Result<T, ApiError>
    where
        T: Send + 'static,
        E: From<StoreError> + Into<ApiError> + Send + 'static,
    {
        let mut hasher = DefaultHasher::new();
        user_id.hash(&mut hasher);
        let lane = &self.lanes[(hasher.finish() % self.lanes.len() as u64) as usize];
        let _place = lane.places.try_acquire().map_err(|_| ApiError::WalletBusy)?;
        let _turn = tokio::time::timeout(PATIENCE, lane.turn.lock()).await.map_err(|_| ApiError::WalletBusy)?;
        let store = self.store.clone();
        blocking_with(move || work(&*store)).await.map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::store::sqlite::SqliteStore;

    fn desk(lanes: usize) -> (MoneyDesk, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("money.db").to_string_lossy()).unwrap();
        (MoneyDesk::new(Arc::new(store), lanes), folder)
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[actix_web::test]
    async fn one_user_waits_for_itself_and_nobody_else() {
        let (desk, _folder) = desk(64);
        let desk = Arc::new(desk);
        let (release, held) = mpsc::channel::<()>();
        let busy = desk.clone();
        let slow = actix_web::rt::spawn(async move {
            let wait = move |_: &dyn MoneyStore| held.recv().map_err(|_| StoreError::Refused("ended".to_owned()));
            busy.for_user(&user("slow"), wait).await
        });
        // Users of other lanes go on; with 64 lanes one of 20 is in another one for sure.
        let done = Arc::new(AtomicUsize::new(0));
        for other in 0..20 {
            let (desk, done) = (desk.clone(), done.clone());
            actix_web::rt::spawn(async move {
                let count = move |_: &dyn MoneyStore| {
                    done.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, StoreError>(())
                };
                desk.for_user(&user(&format!("user {other}")), count).await
            });
        }
        while done.load(Ordering::SeqCst) < 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!slow.is_finished());
        release.send(()).unwrap();
        slow.await.unwrap().unwrap();
    }

    #[actix_web::test]
    async fn what_waits_too_long_or_too_many_is_told_so() {
        let (desk, _folder) = desk(1);
        let desk = Arc::new(desk);
        let (_release, held) = mpsc::channel::<()>();
        let busy = desk.clone();
        actix_web::rt::spawn(async move {
            let wait = move |_: &dyn MoneyStore| {
                let _ = held.recv_timeout(Duration::from_secs(20));
                Ok::<_, StoreError>(())
            };
            busy.for_user(&user("slow"), wait).await
        });
        while desk.lanes[0].places.available_permits() == MOST_WAITING {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let other = user("other");
        let waiting = (0..MOST_WAITING).map(|_| desk.for_user(&other, |_| Ok::<_, StoreError>(())));
        let answers = futures_util::future::join_all(waiting).await;
        assert_eq!(answers.len(), MOST_WAITING);
        assert!(answers.iter().all(|answer| *answer == Err(ApiError::WalletBusy)), "nobody waits for ever");
    }
}
