//! Decides what the live path may commit: positions that are applied and that the cache has
//! confirmed since. Pure.

use crate::bus::Position;

/// Applied positions on their way to the commit. One flush of the cache is in flight at a time.
#[derive(Debug, Default)]
pub(super) struct FlushProgress {
    /// Applied, and not part of a flush yet.
    applied: Position,
    /// To commit when the flush in flight is confirmed.
    flushing: Option<Position>,
}

impl FlushProgress {
    /// Adds a position up to which everything is applied.
    pub(super) fn applied(&mut self, position: &Position) {
        self.applied.merge(position);
    }

    /// Starts a flush if one is due. Returns whether it is.
    pub(super) fn begin(&mut self) -> bool {
        let is_due = self.flushing.is_none() && !self.applied.is_empty();
        if is_due {
            self.flushing = Some(std::mem::take(&mut self.applied));
        }
        is_due
    }

    /// Ends the flush in flight, which the cache has confirmed. Returns the position to commit.
    pub(super) fn confirmed(&mut self) -> Option<Position> {
        self.flushing.take()
    }

    /// Ends the flush in flight, which has failed. The next flush includes its position.
    pub(super) fn failed(&mut self) {
        if let Some(position) = self.flushing.take() {
            self.applied.merge(&position);
        }
    }

    /// Removes revoked partitions: they may return with lower offsets if the topic is recreated.
    pub(super) fn forget(&mut self, partitions: &[u32]) {
        self.applied.forget(partitions);
        if let Some(position) = &mut self.flushing {
            position.forget(partitions);
        }
    }

    /// Whether the cache has confirmed everything that is applied.
    pub(super) fn is_complete(&self) -> bool {
        self.flushing.is_none() && self.applied.is_empty()
    }
}

#[cfg(test)]
mod tests;
