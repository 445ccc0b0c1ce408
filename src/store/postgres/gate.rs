//! Limits how many threads run something at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A counting semaphore for blocking callers, with a deadline.
pub(super) struct Gate {
    size: u32,
    free: Mutex<u32>,
    released: Condvar,
}

impl Gate {
    pub(super) fn new(size: u32) -> Gate {
        let size = size.max(1);
        Gate {
            size,
            free: Mutex::new(size),
            released: Condvar::new(),
        }
    }

    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// Waits for a permit until the deadline.
    pub(super) fn enter(&self, deadline: Instant) -> Option<Entry<'_>> {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let waited = self
            .released
            .wait_timeout_while(self.lock(), timeout, |free| *free == 0);
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

/// A permit, released on drop.
pub(super) struct Entry<'a>(&'a Gate);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        *self.0.lock() += 1;
        self.0.released.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn enter_waits_for_a_free_permit() {
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
