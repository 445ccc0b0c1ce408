use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::*;
use crate::store::sqlite::SqliteStore;

fn executor(calls: usize) -> (Arc<WalletExecutor<SqliteStore>>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("money.db").to_string_lossy()).unwrap();
    (
        Arc::new(WalletExecutor::new(Arc::new(store), UserTurns::new(calls))),
        folder,
    )
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// Starts a call that runs until the returned sender is dropped.
async fn occupy(executor: &Arc<WalletExecutor<SqliteStore>>, name: &str) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let executor = executor.clone();
    let name = user(name);
    let held = Mutex::new(held);
    let (started, is_started) = tokio::sync::oneshot::channel();
    let started = Mutex::new(Some(started));
    actix_web::rt::spawn(async move {
        let wait = move |_: &SqliteStore| {
            started
                .lock()
                .unwrap()
                .take()
                .map(|started| started.send(()));
            let _ = held.lock().unwrap().recv();
            Ok::<_, StoreError>(())
        };
        executor.for_user(&name, wait).await
    });
    is_started.await.unwrap();
    release
}

/// Runs one call for each of `count` other users at once.
async fn assert_others_succeed(executor: &WalletExecutor<SqliteStore>, count: usize) {
    let names: Vec<_> = (0..count).map(|n| user(&format!("user {n}"))).collect();
    let others = names
        .iter()
        .map(|name| executor.for_user(name, |_| Ok::<_, StoreError>(())));
    assert!(
        join_all(others)
            .await
            .into_iter()
            .all(|done| done == Ok(()))
    );
}

#[actix_web::test]
async fn slow_user_delays_nobody_else() {
    let (executor, _folder) = executor(2);
    let _release = occupy(&executor, "slow").await;
    assert_others_succeed(&executor, 200).await;
}

#[actix_web::test]
async fn aborted_request_keeps_its_turn() {
    let (executor, _folder) = executor(1);
    let (release, held) = mpsc::channel::<()>();
    let (started, is_started) = tokio::sync::oneshot::channel();
    let held = Mutex::new(held);
    let started = Mutex::new(Some(started));
    let wait = move |_: &SqliteStore| {
        started
            .lock()
            .unwrap()
            .take()
            .map(|started| started.send(()));
        let _ = held.lock().unwrap().recv();
        Ok::<_, StoreError>(())
    };
    let aborted = executor.clone();
    let request = actix_web::rt::spawn(async move { aborted.for_user(&user("a"), wait).await });
    is_started.await.unwrap();
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    // The aborted call still holds the user's turn and the only call permit.
    let place = executor.users.queue(&user("a"), MAX_WAITING).unwrap();
    assert!(place.turn().now_or_never().is_none() && place.call().now_or_never().is_none());
    assert!(
        executor.users.queue(&user("a"), 2).is_none(),
        "the aborted call keeps its place in the queue"
    );
    drop(release);
    let _turn = place.turn().await;
    assert!(place.call().await.is_some());
}

#[actix_web::test]
async fn waiting_too_long_is_refused() {
    let (executor, _folder) = executor(4);
    let _release = occupy(&executor, "slow").await;
    let slow = user("slow");
    let waiting =
        (0..MAX_WAITING + 10).map(|_| executor.for_user(&slow, |_| Ok::<_, StoreError>(())));
    let refused = join_all(waiting).await;
    assert!(
        refused
            .iter()
            .all(|answer| *answer == Err(TurnError::WalletBusy))
    );
}

/// If more wallets are locked than there are connections, other users are still served.
#[actix_web::test]
async fn held_wallets_leave_room_for_others() {
    let (executor, _folder) = executor(2);
    let is_held = || StoreError::Unavailable("canceling statement due to lock timeout".to_owned());
    let tries = Arc::new(AtomicUsize::new(0));
    let held: Vec<_> = (0..8)
        .map(|n| {
            let executor = executor.clone();
            let tries = tries.clone();
            actix_web::rt::spawn(async move {
                let work = move |_: &SqliteStore| {
                    tries.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(20));
                    Err::<(), _>(is_held())
                };
                executor.for_user(&user(&format!("held {n}")), work).await
            })
        })
        .collect();
    while tries.load(Ordering::SeqCst) < 8 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_others_succeed(&executor, 20).await;
    assert!(
        held.iter().all(|held| !held.is_finished()),
        "other users did not wait for locked wallets"
    );
    for held in held {
        assert_eq!(held.await.unwrap(), Err(TurnError::WalletLocked));
    }
}

/// A lock that is released within the limit causes a delay but no error.
#[actix_web::test]
async fn released_wallet_is_tried_again() {
    let (executor, _folder) = executor(1);
    let tries = AtomicUsize::new(0);
    let work = move |_: &SqliteStore| match tries.fetch_add(1, Ordering::SeqCst) {
        0..3 => Err(StoreError::Unavailable("database is locked".to_owned())),
        n => Ok(n),
    };
    assert_eq!(executor.for_user(&user("a"), work).await, Ok(3));
}
