//! Serialises the calls that move one user's money, and limits how many calls run at once. The row
//! lock of the wallet would serialise them too, but each waiting call would occupy a connection.
//! Here the calls of one user use at most one connection, and no call waits for another user's
//! wallet.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::domain::ids::UserId;

/// Users with running or waiting calls, each with a queue. A user without calls has no entry, so
/// the size of the map is bounded by the calls in flight.
#[derive(Debug)]
pub struct UserTurns {
    users: Mutex<HashMap<UserId, UserQueue>>,
    /// Permits for running calls, granted in the order of arrival.
    calls: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct UserQueue {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Running and waiting calls.
    calls: usize,
}

impl UserTurns {
    /// Allows at most `calls` calls at once, over all users.
    pub fn new(calls: usize) -> Arc<UserTurns> {
        Arc::new(UserTurns {
            users: Mutex::default(),
            calls: Arc::new(Semaphore::new(calls.max(1))),
        })
    }

    /// Joins a user's queue, unless it already holds `max` calls.
    pub fn queue(self: &Arc<Self>, user_id: &UserId, max: usize) -> Option<UserTurn> {
        let mut users = self.lock();
        if users.get(user_id).is_some_and(|queue| queue.calls >= max) {
            return None;
        }
        Some(self.place(&mut users, user_id))
    }

    /// Joins a user's queue. For callers whose number is bounded elsewhere.
    pub fn queue_unbounded(self: &Arc<Self>, user_id: &UserId) -> UserTurn {
        self.place(&mut self.lock(), user_id)
    }

    fn place(
        self: &Arc<Self>,
        users: &mut HashMap<UserId, UserQueue>,
        user_id: &UserId,
    ) -> UserTurn {
        let queue = users.entry(user_id.clone()).or_default();
        queue.calls += 1;
        UserTurn {
            turns: self.clone(),
            user_id: user_id.clone(),
            turn: queue.turn.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, UserQueue>> {
        self.users.lock()
    }
}

/// A place in a user's queue, released on drop.
#[derive(Debug)]
pub struct UserTurn {
    turns: Arc<UserTurns>,
    user_id: UserId,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl UserTurn {
    /// Waits for the user's earlier calls. The user's other calls wait until the guard is dropped.
    pub async fn turn(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }

    /// Waits for a permit to run a call, which is held until it is dropped. Wait for the user's
    /// turn first.
    pub async fn call(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.turns.calls.clone().acquire_owned().await.ok()
    }
}

impl Drop for UserTurn {
    fn drop(&mut self) {
        let mut users = self.turns.lock();
        if let Some(queue) = users.get_mut(&self.user_id) {
            queue.calls -= 1;
            if queue.calls == 0 {
                users.remove(&self.user_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[tokio::test]
    async fn calls_of_one_user_run_in_order() {
        let turns = UserTurns::new(8);
        let first = turns.queue(&user("a"), 2).unwrap();
        let second = turns.queue(&user("a"), 2).unwrap();
        assert!(turns.queue(&user("a"), 2).is_none(), "its queue is full");
        let held = first.turn().await;
        assert!(futures_util::FutureExt::now_or_never(second.turn()).is_none());
        // Another user does not wait.
        drop(turns.queue(&user("b"), 1).unwrap().turn().await);
        drop(held);
        drop(second.turn().await);
    }

    #[tokio::test]
    async fn idle_users_leave_no_entry() {
        let turns = UserTurns::new(1);
        let places: Vec<_> = (0..100)
            .map(|n| turns.queue(&user(&format!("u{}", n % 10)), 100).unwrap())
            .collect();
        assert_eq!(turns.lock().len(), 10);
        drop(places);
        assert_eq!(turns.lock().len(), 0);
    }

    #[tokio::test]
    async fn waiting_calls_are_served_in_order() {
        let turns = UserTurns::new(1);
        let places = ["a", "b", "c"].map(|name| turns.queue(&user(name), 1).unwrap());
        let running = places[0].call().await;
        let mut second = Box::pin(places[1].call());
        assert!(futures_util::FutureExt::now_or_never(second.as_mut()).is_none());
        let mut third = Box::pin(places[2].call());
        assert!(futures_util::FutureExt::now_or_never(third.as_mut()).is_none());
        drop(running);
        assert!(
            futures_util::FutureExt::now_or_never(third.as_mut()).is_none(),
            "the second came first"
        );
        drop(second.await);
        assert!(third.await.is_some());
    }
}
