//! Limits how many threads run something at once.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};

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
        let mut free = self.free.lock();
        self.released
            .wait_while_for(&mut free, |free| *free == 0, timeout);
        *free = free.checked_sub(1)?;
        Some(Entry(self))
    }

    pub(super) fn try_enter(&self) -> Option<Entry<'_>> {
        let mut free = self.free.lock();
        *free = free.checked_sub(1)?;
        Some(Entry(self))
    }
}

/// A permit, released on drop.
pub(super) struct Entry<'a>(&'a Gate);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
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
