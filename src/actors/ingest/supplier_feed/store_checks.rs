//! Decides when the stored markets of a source are read from the database, and until when the source
//! is not live: after this process has first heard the source, because what an earlier process left
//! open may have ended since. Time is an argument.
//!
//! A check has no time limit of its own: a source is not live before it ends. Each thing that a check
//! waits for has one, or is repeated until it succeeds. While this process hears no reports at all,
//! the markets of all sources are spared (`sources.rs`), so a check whose grace is over waits until
//! reports arrive again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ids::Source;
use crate::runtime::backoff::{Backoff, BackoffPolicy};

/// How long the source may take to send the markets that were found, before they are suspended.
const GRACE: Duration = Duration::from_secs(1);
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
    /// The number of checks so far.
    generations: u64,
}

/// A check of a source. One that vanishes and returns gets another check, and what the earlier one
/// has still in progress does not count for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckId {
    pub source: Source,
    generation: u64,
}

#[derive(Debug)]
struct SourceCheck {
    generation: u64,
    phase: Phase,
    backoff: Backoff,
}

/// The phases of a check, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The database is to be read at this time.
    ReadAt(Instant),
    Reading,
    /// Until this time the source may send the markets that were found.
    Grace(Instant),
    /// Those that it did not send are suspended, and not published yet.
    Suspended,
    /// The suspensions are on their way to the bus.
    Publishing,
    Done,
}

impl StoreChecks {
    /// No source yet. Without a database nothing is checked.
    pub(super) fn new(is_enabled: bool) -> StoreChecks {
        StoreChecks {
            is_enabled,
            sources: BTreeMap::new(),
            generations: 0,
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
                self.generations += 1;
                let check = SourceCheck {
                    generation: self.generations,
                    phase: Phase::ReadAt(now),
                    backoff: Backoff::new(RETRY, fastrand::u64(..)),
                };
                self.sources.insert(source.clone(), check);
            }
        }
    }

    /// The checks whose sources are to be read now. Assumes that they are read.
    pub(super) fn due(&mut self, now: Instant) -> Vec<CheckId> {
        let is_due = |phase| matches!(phase, Phase::ReadAt(at) if now >= at);
        self.advance(is_due, Phase::Reading)
    }

    /// Whether the check waits for its read: its source has not vanished in the meantime.
    pub(super) fn is_reading(&self, id: &CheckId) -> bool {
        let check = self.sources.get(&id.source);
        check.is_some_and(|check| check.is(id, Phase::Reading))
    }

    /// Records a successful read, which found `unsent` markets that the source had not sent.
    pub(super) fn succeeded(&mut self, id: &CheckId, unsent: usize, now: Instant) {
        if let Some(check) = self.check_in(id, Phase::Reading) {
            check.phase = if unsent > 0 {
                Phase::Grace(now + GRACE)
            } else {
                Phase::Done
            };
        }
    }

    /// Records a failed read.
    pub(super) fn failed(&mut self, id: &CheckId, now: Instant) {
        if let Some(check) = self.check_in(id, Phase::Reading) {
            check.phase = Phase::ReadAt(now + check.backoff.next_delay());
        }
    }

    /// Whether the source still may send the markets that were found.
    pub(super) fn is_in_grace(&self, source: &Source, now: Instant) -> bool {
        let check = self.sources.get(source);
        check.is_some_and(|check| matches!(check.phase, Phase::Grace(until) if now < until))
    }

    /// Records that the markets of these sources were suspended that they do not confirm, unless a
    /// source is in grace.
    pub(super) fn suspended(&mut self, is_suspended: &dyn Fn(&Source) -> bool, now: Instant) {
        for (source, check) in &mut self.sources {
            let is_over = matches!(check.phase, Phase::Grace(until) if now >= until);
            if is_over && is_suspended(source) {
                check.phase = Phase::Suspended;
            }
        }
    }

    /// The checks whose suspensions are in the batch that is published next. Call
    /// [`StoreChecks::published`] or [`StoreChecks::refused`] with them when the bus has answered.
    pub(super) fn publishing(&mut self) -> Vec<CheckId> {
        self.advance(|phase| phase == Phase::Suspended, Phase::Publishing)
    }

    /// The bus has the suspensions of these checks.
    pub(super) fn published(&mut self, checks: &[CheckId]) {
        self.end_publishing(checks, Phase::Done);
    }

    /// The bus has refused the suspensions of these checks; they are published again.
    pub(super) fn refused(&mut self, checks: &[CheckId]) {
        self.end_publishing(checks, Phase::Suspended);
    }

    /// Whether markets that the source does not confirm may still be open on the bus.
    pub(super) fn is_pending(&self, source: &Source) -> bool {
        let check = self.sources.get(source);
        check.is_some_and(|check| check.phase != Phase::Done)
    }

    fn check_in(&mut self, id: &CheckId, phase: Phase) -> Option<&mut SourceCheck> {
        let check = self.sources.get_mut(&id.source)?;
        check.is(id, phase).then_some(check)
    }

    /// Moves the selected checks to another phase. Returns them.
    fn advance(&mut self, is_selected: impl Fn(Phase) -> bool, to: Phase) -> Vec<CheckId> {
        let mut advanced = Vec::new();
        for (source, check) in &mut self.sources {
            if is_selected(check.phase) {
                check.phase = to;
                advanced.push(CheckId {
                    source: source.clone(),
                    generation: check.generation,
                });
            }
        }
        advanced
    }

    fn end_publishing(&mut self, checks: &[CheckId], to: Phase) {
        for id in checks {
            if let Some(check) = self.check_in(id, Phase::Publishing) {
                check.phase = to;
            }
        }
    }
}

impl SourceCheck {
    /// Whether it is this check, in this phase.
    fn is(&self, id: &CheckId, phase: Phase) -> bool {
        self.generation == id.generation && self.phase == phase
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

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

    /// The check of the only source, which is due now.
    fn due(checks: &mut StoreChecks, now: Instant) -> CheckId {
        let mut due = checks.due(now);
        assert_eq!(due.len(), 1);
        due.remove(0)
    }

    /// A source whose stored markets were read at `now`, and its check.
    fn read(unsent: usize, now: Instant) -> (StoreChecks, CheckId) {
        let mut checks = heard(now);
        let id = due(&mut checks, now);
        checks.succeeded(&id, unsent, now);
        (checks, id)
    }

    #[test]
    fn source_without_unsent_markets_is_read_once() {
        let now = Instant::now();
        let mut checks = heard(now);
        assert!(checks.is_pending(&source()));
        let id = due(&mut checks, now);
        assert!(checks.due(now).is_empty(), "it is being read");
        checks.succeeded(&id, 0, now);
        assert!(!checks.is_pending(&source()));
        assert!(checks.due(now + 10 * RETRY.most).is_empty());
    }

    #[test]
    fn source_is_pending_until_bus_has_suspensions() {
        let now = Instant::now();
        let (mut checks, id) = read(1, now);
        checks.suspended(&|_| true, now);
        assert!(checks.publishing().is_empty() && checks.is_in_grace(&source(), now));
        let over = now + GRACE;
        checks.suspended(&|_| false, over);
        assert!(checks.publishing().is_empty(), "its markets are spared");
        assert!(!checks.is_in_grace(&source(), over));
        checks.suspended(&|_| true, over);
        assert_eq!(checks.publishing(), slice::from_ref(&id));
        assert!(checks.publishing().is_empty(), "another batch");
        checks.refused(slice::from_ref(&id));
        assert_eq!(checks.publishing(), slice::from_ref(&id));
        assert!(checks.is_pending(&source()));
        checks.published(&[id]);
        assert!(!checks.is_pending(&source()));
    }

    #[test]
    fn failed_read_is_repeated_and_keeps_source_pending() {
        let now = Instant::now();
        let mut checks = heard(now);
        let id = due(&mut checks, now);
        checks.failed(&id, now);
        assert!(checks.is_pending(&source()) && checks.due(now).is_empty());
        let later = now + 2 * RETRY.first;
        assert_eq!(checks.due(later), slice::from_ref(&id));
        checks.succeeded(&id, 0, later);
        assert!(!checks.is_pending(&source()));
    }

    #[test]
    fn returned_source_is_checked_again() {
        let now = Instant::now();
        let (mut checks, earlier) = read(1, now);
        checks.heard(&[], now);
        checks.heard(&[source()], now);
        assert!(checks.is_pending(&source()));
        assert_ne!(due(&mut checks, now), earlier);
    }

    /// The source has vanished and returned while the bus and the database had not answered.
    #[test]
    fn late_answers_do_not_end_another_check() {
        let now = Instant::now();
        let mut checks = heard(now);
        let earlier = due(&mut checks, now);
        checks.heard(&[], now);
        checks.heard(&[source()], now);
        let id = due(&mut checks, now);
        checks.succeeded(&earlier, 0, now);
        assert!(checks.is_pending(&source()), "an earlier read");
        checks.failed(&earlier, now);
        assert!(checks.is_reading(&id) && !checks.is_reading(&earlier));
        checks.succeeded(&id, 1, now);
        checks.suspended(&|_| true, now + GRACE);
        assert_eq!(checks.publishing(), slice::from_ref(&id));
        checks.published(&[earlier]);
        assert!(checks.is_pending(&source()), "an earlier batch");
        checks.published(&[id]);
        assert!(!checks.is_pending(&source()));
    }

    #[test]
    fn nothing_is_checked_without_database() {
        let now = Instant::now();
        let mut checks = StoreChecks::new(false);
        checks.heard(&[source()], now);
        assert!(checks.due(now).is_empty() && !checks.is_pending(&source()));
    }

    proptest! {
        /// For any results of the reads, a source is pending until the first success, and then until
        /// its suspensions are published.
        #[test]
        fn checks_end(
            results in proptest::collection::vec(proptest::option::of(0_usize..3), 0..60),
            refusals in 0_usize..3,
        ) {
            let mut now = Instant::now();
            let mut checks = heard(now);
            for result in results.into_iter().chain([Some(0); 1]) {
                prop_assert!(checks.is_pending(&source()));
                now += 2 * RETRY.most;
                let id = due(&mut checks, now);
                let Some(unsent) = result else {
                    checks.failed(&id, now);
                    continue;
                };
                checks.succeeded(&id, unsent, now);
                prop_assert_eq!(checks.is_pending(&source()), unsent > 0);
                break;
            }
            now += GRACE;
            for _ in 0..refusals {
                checks.suspended(&|_| true, now);
                let publishing = checks.publishing();
                checks.refused(&publishing);
            }
            checks.suspended(&|_| true, now);
            let publishing = checks.publishing();
            checks.published(&publishing);
            prop_assert!(!checks.is_pending(&source()));
            prop_assert!(checks.due(now + 10 * RETRY.most).is_empty());
        }
    }
}
