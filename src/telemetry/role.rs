//! The role for which code runs. Each log line names it.
//!
//! A role is handed in where the platform starts a part, and inherited from there: an actor runs
//! for the role that starts it, and work for another thread or task takes the role along with
//! [`carry`] or [`inherit`]. A thread that works for one role has it from its start
//! ([`set_for_thread`]), so what runs there, such as thousands of sessions, costs nothing.

use std::cell::Cell;
use std::future::poll_fn;

/// The name of a role; `None` outside of all roles.
pub(crate) type RoleName = Option<&'static str>;

thread_local! {
    static CURRENT: Cell<RoleName> = const { Cell::new(None) };
}

/// The role for which the calling code runs.
pub(crate) fn current() -> RoleName {
    CURRENT.get()
}

/// Sets the role of everything on this thread that has no role of its own.
pub(crate) fn set_for_thread(role: RoleName) {
    CURRENT.set(role);
}

/// Calls `work` for a role.
pub(crate) fn within<T>(role: RoleName, work: impl FnOnce() -> T) -> T {
    let _restore = Restore(CURRENT.replace(role));
    work()
}

/// Runs a future for a role, whichever thread polls it. Boxed once, never per poll.
pub(crate) fn scope<F: Future>(role: RoleName, future: F) -> impl Future<Output = F::Output> {
    let mut future = Box::pin(future);
    poll_fn(move |context| within(role, || future.as_mut().poll(context)))
}

/// Runs a future, which is about to be spawned, for the caller's role.
pub(crate) fn inherit<F: Future>(future: F) -> impl Future<Output = F::Output> {
    scope(current(), future)
}

/// Calls `work`, which is about to be moved to another thread, for the caller's role.
pub(crate) fn carry<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let role = current();
    move || within(role, work)
}

/// Restores the previous role, also after a panic.
struct Restore(RoleName);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_role_ends_with_its_work() {
        assert_eq!(current(), None);
        within(Some("odds"), || {
            assert_eq!(within(Some("bets"), current), Some("bets"));
            assert_eq!(current(), Some("odds"));
            let panicked = std::panic::catch_unwind(|| within(Some("bets"), || panic!("test")));
            assert!(panicked.is_err());
            assert_eq!(current(), Some("odds"));
        });
        assert_eq!(current(), None);
    }

    #[tokio::test]
    async fn interleaved_tasks_keep_their_roles() {
        let seen = |role| {
            scope(role, async {
                let mut seen = Vec::new();
                for _ in 0..3 {
                    seen.push(current());
                    tokio::task::yield_now().await;
                }
                seen
            })
        };
        let seen = tokio::join!(seen(Some("odds")), seen(None), seen(Some("bets")));
        assert_eq!(
            seen,
            (vec![Some("odds"); 3], vec![None; 3], vec![Some("bets"); 3])
        );
        assert_eq!(current(), None);
    }

    #[tokio::test]
    async fn spawned_work_inherits_role() {
        let task = within(Some("odds"), || {
            tokio::spawn(inherit(async {
                let nested = tokio::spawn(inherit(async { current() }));
                let blocking = tokio::task::spawn_blocking(carry(current));
                let thread = std::thread::spawn(carry(current));
                (
                    nested.await.unwrap(),
                    blocking.await.unwrap(),
                    thread.join().unwrap(),
                )
            }))
        });
        assert_eq!(
            task.await.unwrap(),
            (Some("odds"), Some("odds"), Some("odds"))
        );
    }

    #[test]
    fn thread_role_is_the_outermost() {
        let thread = std::thread::spawn(|| {
            set_for_thread(Some("odds"));
            (within(Some("processor"), current), current())
        });
        assert_eq!(thread.join().unwrap(), (Some("processor"), Some("odds")));
        assert_eq!(current(), None);
    }
}
