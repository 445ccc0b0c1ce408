//! Decides what a feed does because something did not arrive in time. Time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// The timeouts of a feed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// The silence after which prices count as stale.
    pub stale_after: Duration,
    /// The silence after which the connection counts as lost.
    pub read_timeout: Duration,
    /// The time between two pings. `None` if the format has no pings.
    pub ping_interval: Option<Duration>,
}

/// What a feed last received, and when.
#[derive(Debug)]
pub(super) struct FeedTimers {
    timeouts: Timeouts,
    /// When the supplier last sent anything readable, on this connection or an earlier one.
    last_live: Instant,
    /// Whether staleness has been reported since then.
    is_stale: bool,
    /// Something that cannot be read arrived since then, and nothing else.
    is_blind: bool,
    unnamed: Option<UnnamedRefusals>,
    /// The number of unnamed refusals whose period is over.
    unnamed_handled: u64,
    link: Option<LinkTimers>,
}

/// Rejected updates that could concern any market.
#[derive(Clone, Copy, Debug)]
struct UnnamedRefusals {
    /// When the first of them arrived.
    since: Instant,
    /// The number of all so far.
    count: u64,
}

/// The timers of an open connection.
#[derive(Clone, Copy, Debug)]
struct LinkTimers {
    last_received: Instant,
    last_ping: Instant,
}

impl FeedTimers {
    /// The timers of a feed that is not connected yet.
    pub(super) fn new(timeouts: Timeouts, now: Instant) -> FeedTimers {
        FeedTimers {
            timeouts,
            last_live: now,
            is_stale: false,
            is_blind: false,
            unnamed: None,
            unnamed_handled: 0,
            link: None,
        }
    }

    /// Records that the supplier is connected.
    pub(super) fn connected(&mut self, now: Instant) {
        self.link = Some(LinkTimers {
            last_received: now,
            last_ping: now,
        });
    }

    /// Records that the connection has ended.
    pub(super) fn disconnected(&mut self) {
        self.link = None;
    }

    /// Records that the connection carries data.
    pub(super) fn received(&mut self, now: Instant) {
        if let Some(link) = &mut self.link {
            link.last_received = now;
        }
    }

    /// Records that the supplier sent something readable: its prices are live. Returns whether they
    /// were stale.
    pub(super) fn live(&mut self, now: Instant) -> bool {
        self.last_live = now;
        self.is_blind = false;
        std::mem::take(&mut self.is_stale)
    }

    /// Records that the supplier sent something that cannot be read: that the connection works does
    /// not make prices live any more, until something readable arrives.
    pub(super) fn unreadable(&mut self) {
        self.is_blind = true;
    }

    /// Whether nothing could be read since the last unreadable frame, so that a reply does not show
    /// that prices are live.
    pub(super) fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// Whether prices are stale.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Excludes time that the feed spent waiting for the bus from the supplier's silence.
    pub(super) fn exclude_wait(&mut self, wait: Duration) {
        self.last_live += wait;
        if let Some(unnamed) = &mut self.unnamed {
            unnamed.since += wait;
        }
        if let Some(link) = &mut self.link {
            link.last_received += wait;
        }
    }

    /// Records the number of all rejected updates that may have concerned any market. A new one
    /// starts the period in which each open market must be updated again.
    pub(super) fn unnamed_refusals(&mut self, count: u64, now: Instant) {
        if self.unnamed.is_none() && count > self.unnamed_handled {
            self.unnamed = Some(UnnamedRefusals { since: now, count });
        }
    }

    /// Returns `true` once per silence, when prices become stale.
    pub(super) fn become_stale(&mut self, now: Instant) -> bool {
        let is_stale = now.duration_since(self.last_live) >= self.timeouts.stale_after;
        let was_stale = self.is_stale;
        self.is_stale |= is_stale;
        self.is_stale && !was_stale
    }

    /// If the period after unnamed refusals is over, ends it and returns their number: markets not
    /// updated since are in doubt.
    pub(super) fn end_unnamed_period(&mut self, now: Instant) -> Option<u64> {
        let UnnamedRefusals { since, count } = self.unnamed?;
        if now.duration_since(since) < self.timeouts.stale_after {
            return None;
        }
        self.unnamed = None;
        self.unnamed_handled = count;
        Some(count)
    }

    /// Whether an open connection counts as lost.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.link.is_some_and(|link| {
            now.duration_since(link.last_received) >= self.timeouts.read_timeout
        })
    }

    /// Whether to send a ping now. Assumes that it is sent.
    pub(super) fn ping_due(&mut self, now: Instant) -> bool {
        let Some((link, interval)) = self.link.as_mut().zip(self.timeouts.ping_interval) else {
            return false;
        };
        let is_due = now.duration_since(link.last_ping) >= interval;
        if is_due {
            link.last_ping = now;
        }
        is_due
    }
}

#[cfg(test)]
mod tests;
