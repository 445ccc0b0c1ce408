//! Decides when the stored markets of a source are read from the database: after this process has
//! first heard the source, because what an earlier process left open may have ended since. Time is an
//! argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ids::Source;
use crate::runtime::backoff::{Backoff, BackoffPolicy};

/// The database may lag behind the bus, so it is read several times.
const MIN_READS: u32 = 3;
/// The maximum number of reads, even if they still find markets.
const MAX_READS: u32 = 10;
/// The time between two reads.
const READ_INTERVAL: Duration = Duration::from_secs(5);
/// How long the source may take to send the markets that the first read found, before they are
/// suspended.
const GRACE: Duration = Duration::from_secs(1);
/// How long after that the feed may take to suspend them.
const SUSPEND_WITHIN: Duration = Duration::from_millis(500);
/// How long a source is not live after the markets that it did not send were suspended: the
/// suspensions must reach the readers before its other markets are open. A processor that lags by
/// more sends no heartbeat.
const SPREAD: Duration = Duration::from_secs(2);
/// Backoff after a failed read.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(500),
    most: Duration::from_secs(10),
};

/// The checks of all sources of a feed.
#[derive(Debug)]
pub(super) struct StoreChecks {
    is_enabled: bool,
    sources: BTreeMap<Source, SourceCheck>,
}

#[derive(Debug)]
struct SourceCheck {
    reads: u32,
    next: Next,
    grace_until: Option<Instant>,
    spread_until: Option<Instant>,
    backoff: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    ReadAt(Instant),
    Reading,
    Done,
}

impl SourceCheck {
    /// Whether the source still may send the markets that the first read found, or the feed suspends
    /// them.
    fn is_suspending(&self, now: Instant) -> bool {
        let grace_until = self.grace_until;
        grace_until.is_some_and(|until| now < until + SUSPEND_WITHIN)
    }
}

impl StoreChecks {
    /// No source yet. Without a database nothing is checked.
    pub(super) fn new(is_enabled: bool) -> StoreChecks {
        StoreChecks {
            is_enabled,
            sources: BTreeMap::new(),
        }
    }

    /// Records the sources that are heard. A source that is not among them any more is checked
    /// again when it returns.
    pub(super) fn heard(&mut self, sources: &[Source], now: Instant) {
        if !self.is_enabled {
            return;
        }
        self.sources.retain(|source, _| sources.contains(source));
        for source in sources {
            if !self.sources.contains_key(source) {
                let check = SourceCheck {
                    reads: 0,
                    next: Next::ReadAt(now),
                    grace_until: None,
                    spread_until: None,
                    backoff: Backoff::new(RETRY, fastrand::u64(..)),
                };
                self.sources.insert(source.clone(), check);
            }
        }
    }

    /// The sources to read now. Assumes that they are read.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Source> {
        let mut due = Vec::new();
        for (source, check) in &mut self.sources {
            if matches!(check.next, Next::ReadAt(at) if now >= at) {
                check.next = Next::Reading;
                due.push(source.clone());
            }
        }
        due
    }

    /// Records a successful read, which found `new` markets that the source had not sent.
    pub(super) fn succeeded(&mut self, source: &Source, new: usize, now: Instant) {
        let Some(check) = self.reading(source) else {
            return;
        };
        check.reads += 1;
        check.backoff.reset();
        if check.reads == 1 && new > 0 {
            check.grace_until = Some(now + GRACE);
        }
        let is_repeated = check.reads < MIN_READS || (new > 0 && check.reads < MAX_READS);
        check.next = if is_repeated {
            Next::ReadAt(now + READ_INTERVAL)
        } else {
            Next::Done
        };
    }

    /// Records a failed read.
    pub(super) fn failed(&mut self, source: &Source, now: Instant) {
        if let Some(check) = self.reading(source) {
            check.next = Next::ReadAt(now + check.backoff.next_delay());
        }
    }

    /// Whether the source still may send the markets that the first read found.
    pub(super) fn is_in_grace(&self, source: &Source, now: Instant) -> bool {
        let check = self.sources.get(source);
        check
            .and_then(|check| check.grace_until)
            .is_some_and(|until| now < until)
    }

    /// Records that markets of the source were suspended. If they are those that the first read
    /// found, the source is not live until readers have the suspensions.
    pub(super) fn suspended(&mut self, source: &Source, now: Instant) {
        if let Some(check) = self.sources.get_mut(source)
            && check.is_suspending(now)
        {
            check.spread_until.get_or_insert(now + SPREAD);
        }
    }

    /// Whether markets that the source does not confirm may still be open: it has not been
    /// checked, or what was found has not been suspended yet, or not everywhere.
    pub(super) fn is_pending(&self, source: &Source, now: Instant) -> bool {
        let Some(check) = self.sources.get(source) else {
            return false;
        };
        let is_spreading = check.spread_until.is_some_and(|until| now < until);
        check.reads == 0 || check.is_suspending(now) || is_spreading
    }

    fn reading(&mut self, source: &Source) -> Option<&mut SourceCheck> {
        let check = self.sources.get_mut(source)?;
        (check.next == Next::Reading).then_some(check)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source() -> Source {
        Source::new("a").unwrap()
    }

    fn heard(now: Instant) -> StoreChecks {
        let mut checks = StoreChecks::new(true);
        checks.heard(&[source()], now);
        checks
    }

    #[test]
    fn source_is_checked_until_nothing_is_found() {
        let mut now = Instant::now();
        let mut checks = heard(now);
        for (read, new) in [(1, 2), (2, 0), (3, 1), (4, 0)] {
            assert_eq!(checks.due(now), [source()], "read {read}");
            assert!(checks.due(now).is_empty(), "it is being read");
            checks.succeeded(&source(), new, now);
            assert_eq!(checks.is_pending(&source(), now), read == 1);
            assert!(!checks.is_pending(&source(), now + GRACE + SUSPEND_WITHIN));
            now += READ_INTERVAL;
        }
        assert!(checks.due(now + READ_INTERVAL).is_empty(), "done");
    }

    /// What readers do not have yet is not shown as live.
    #[test]
    fn source_is_pending_until_suspensions_have_spread() {
        let now = Instant::now();
        let mut checks = heard(now);
        checks.due(now);
        checks.succeeded(&source(), 1, now);
        let suspended = now + GRACE;
        checks.suspended(&source(), suspended);
        let before = suspended + SPREAD - Duration::from_millis(1);
        assert!(checks.is_pending(&source(), before));
        // Later suspensions do not keep it pending.
        checks.suspended(&source(), before);
        assert!(!checks.is_pending(&source(), suspended + SPREAD));
        assert_eq!(checks.due(now + READ_INTERVAL), [source()]);
        checks.succeeded(&source(), 1, now + READ_INTERVAL);
        checks.suspended(&source(), now + READ_INTERVAL);
        assert!(!checks.is_pending(&source(), now + READ_INTERVAL));
    }

    #[test]
    fn failed_read_is_repeated_and_keeps_source_pending() {
        let now = Instant::now();
        let mut checks = heard(now);
        assert_eq!(checks.due(now), [source()]);
        checks.failed(&source(), now);
        assert!(checks.is_pending(&source(), now) && checks.due(now).is_empty());
        let later = now + 2 * RETRY.first;
        assert_eq!(checks.due(later), [source()]);
        checks.succeeded(&source(), 0, later);
        assert!(!checks.is_pending(&source(), later));
    }

    #[test]
    fn returned_source_is_checked_again() {
        let now = Instant::now();
        let mut checks = heard(now);
        assert_eq!(checks.due(now), [source()]);
        checks.heard(&[], now);
        checks.succeeded(&source(), 3, now);
        checks.heard(&[source()], now);
        assert!(checks.is_pending(&source(), now));
        assert_eq!(checks.due(now), [source()]);
    }

    #[test]
    fn nothing_is_checked_without_database() {
        let now = Instant::now();
        let mut checks = StoreChecks::new(false);
        checks.heard(&[source()], now);
        assert!(checks.due(now).is_empty() && !checks.is_pending(&source(), now));
    }

    proptest! {
        /// For any results of the reads, a source is pending until the first success and the grace
        /// after it, and the reads end.
        #[test]
        fn checks_end(results in proptest::collection::vec(proptest::option::of(0_usize..3), 0..60)) {
            let mut now = Instant::now();
            let mut checks = heard(now);
            let mut reads = 0;
            for result in results.into_iter().chain([Some(0); 20]) {
                now += 2 * RETRY.most;
                let due = checks.due(now);
                if due.is_empty() {
                    break;
                }
                match result {
                    Some(new) => {
                        checks.succeeded(&source(), new, now);
                        reads += 1;
                    }
                    None => checks.failed(&source(), now),
                }
                let suspended = now + GRACE + SUSPEND_WITHIN;
                prop_assert_eq!(checks.is_pending(&source(), suspended), reads == 0);
            }
            prop_assert!((MIN_READS..=MAX_READS).contains(&reads));
            prop_assert!(checks.due(now + 10 * RETRY.most).is_empty());
        }
    }
}
