//! Limits how many threads do something at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A counting semaphore for blocking callers, with a deadline.
pub(super) struct Gate {
    size: u32,
    free: Mutex<u32>,
    left: Condvar,
}

impl Gate {
    pub(super) fn new(size: u32) -> Gate {
        let size = size.max(1);
        Gate {
            size,
            free: Mutex::new(size),
            left: Condvar::new(),
        }
    }

    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// Waits for a place until then.
    pub(super) fn enter(&self, until: Instant) -> Option<Entry<'_>> {
        let patience = until.saturating_duration_since(Instant::now());
        let waited = self
            .left
            .wait_timeout_while(self.lock(), patience, |free| *free == 0);
        let (mut free, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(1)?;
        Some(Entry(self))
    }

    pub(super) fn try_enter(&self) -> Option<Entry<'_>> {
        let mut free = self.lock();
        *free = free.checked_sub(1)?;
        Some(Entry(self))
    }

    fn lock(&self) -> MutexGuard<'_, u32> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, given back when it is dropped.
pub(super) struct Entry<'a>(&'a Gate);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        *self.0.lock() += 1;
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn waits_until_a_place_is_free() {
        let gate = Gate::new(1);
        let held = gate.try_enter().unwrap();
        assert!(gate.try_enter().is_none());
        assert!(
            gate.enter(Instant::now() + Duration::from_millis(5))
                .is_none()
        );
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                gate.enter(Instant::now() + Duration::from_secs(60))
                    .is_some()
            });
            drop(held);
            assert!(waiting.join().unwrap());
        });
        assert!(gate.try_enter().is_some());
    }
}
