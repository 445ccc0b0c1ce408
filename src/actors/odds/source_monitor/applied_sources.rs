//! Which sources may be passed on as live, without actors and I/O.
//!
//! Before `ingest` reports a source as live, it suspends the markets that the source has not
//! confirmed. The report and the suspensions are on different topics. So a source becomes live only
//! after the books have applied what the odds topic held when the report was read.

use std::collections::BTreeSet;

use crate::domain::ids::Source;

/// The sources that are reported as live, as far as the books have applied their updates.
#[derive(Debug, Default)]
pub(super) struct AppliedSources {
    applied: BTreeSet<Source>,
    /// The sources of the check in progress.
    checking: Option<BTreeSet<Source>>,
}

impl AppliedSources {
    /// The source is not reported as live: it needs another check when it is.
    pub(super) fn not_live(&mut self, source: &Source) {
        self.applied.remove(source);
        if let Some(checking) = &mut self.checking {
            checking.remove(source);
        }
    }

    /// Whether the books have what was published before the source was reported as live.
    pub(super) fn contains(&self, source: &Source) -> bool {
        self.applied.contains(source)
    }

    /// Starts a check for the sources of `live` that need one. Returns whether there is one to
    /// start: none is in progress, and a source needs it.
    pub(super) fn begin<'a>(&mut self, live: impl Iterator<Item = &'a Source>) -> bool {
        if self.checking.is_some() {
            return false;
        }
        let unapplied = live.filter(|source| !self.contains(source));
        let unapplied: BTreeSet<_> = unapplied.cloned().collect();
        if unapplied.is_empty() {
            return false;
        }
        self.checking = Some(unapplied);
        true
    }

    /// The check in progress has ended: the books have applied everything, or that is not known.
    pub(super) fn finish(&mut self, is_applied: bool) {
        let checked = self.checking.take().unwrap_or_default();
        if is_applied {
            self.applied.extend(checked);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(number: usize) -> Source {
        Source::new(&format!("s{number}")).unwrap()
    }

    #[test]
    fn failed_check_is_repeated() {
        let mut sources = AppliedSources::default();
        for is_applied in [false, true] {
            assert!(sources.begin([source(1)].iter()));
            assert!(!sources.begin([source(1), source(2)].iter()), "in progress");
            sources.finish(is_applied);
            assert_eq!(sources.contains(&source(1)), is_applied);
        }
        assert!(!sources.begin([source(1)].iter()));
        assert!(sources.begin([source(1), source(2)].iter()));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Live(usize),
        NotLive(usize),
        Begin,
        Finish(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_usize..3).prop_map(Step::Live),
            (0_usize..3).prop_map(Step::NotLive),
            Just(Step::Begin),
            any::<bool>().prop_map(Step::Finish),
        ]
    }

    proptest! {
        /// A source is applied only if a check that started after it became live has succeeded.
        #[test]
        fn check_starts_after_source_is_live(steps in proptest::collection::vec(step(), 0..60)) {
            let mut sources = AppliedSources::default();
            // When each source became live, and the start of the check in progress.
            let mut live_since = [None; 3];
            let mut check = None;
            let mut expected = [false; 3];
            for (time, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Live(number) => {
                        live_since[number].get_or_insert(time);
                    }
                    Step::NotLive(number) => {
                        live_since[number] = None;
                        expected[number] = false;
                        sources.not_live(&source(number));
                    }
                    Step::Begin => {
                        let live = (0..3).filter(|number| live_since[*number].is_some());
                        let needed = live.clone().any(|number| !expected[number]);
                        let live: Vec<_> = live.map(source).collect();
                        let is_started = sources.begin(live.iter());
                        prop_assert_eq!(is_started, needed && check.is_none());
                        check = check.or(is_started.then_some(time));
                    }
                    Step::Finish(is_applied) => {
                        let started = check.take();
                        for (expected, since) in expected.iter_mut().zip(live_since) {
                            let was_live = since.is_some_and(|since| Some(since) < started);
                            *expected |= is_applied && was_live;
                        }
                        sources.finish(is_applied);
                    }
                }
                for (number, is_applied) in expected.iter().enumerate() {
                    prop_assert_eq!(sources.contains(&source(number)), *is_applied);
                }
            }
        }
    }
}
