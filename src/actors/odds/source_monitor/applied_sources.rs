//! Which sources may be passed on as live, without actors and I/O.
//!
//! Before `ingest` reports a source as live, it suspends the markets that the source has not
//! confirmed. The report and the suspensions are on different topics. So a source becomes live only
//! after the books have applied what the odds topic held when the report was read.
//!
//! That is checked for each live period: an `ingest` that starts while another one has the source
//! live, or while the last report of its predecessor still counts, has suspended markets, too.

use std::collections::BTreeSet;

use crate::domain::ids::Source;
use crate::domain::odds::source_status::LivePeriod;

/// The live periods of the sources, as far as the books have applied the updates before them.
#[derive(Debug, Default)]
pub(super) struct AppliedSources {
    applied: BTreeSet<(Source, LivePeriod)>,
    /// The periods of the check in progress.
    checking: Option<BTreeSet<(Source, LivePeriod)>>,
}

impl AppliedSources {
    /// Only these periods of the source last: if another one goes on, it needs another check.
    pub(super) fn retain(&mut self, source: &Source, periods: &BTreeSet<LivePeriod>) {
        let lasts = |(of, period): &(Source, LivePeriod)| of != source || periods.contains(period);
        self.applied.retain(lasts);
        if let Some(checking) = &mut self.checking {
            checking.retain(lasts);
        }
    }

    /// Whether the books have what was published before one of these periods of the source.
    pub(super) fn contains_any(&self, source: &Source, periods: &BTreeSet<LivePeriod>) -> bool {
        let mut periods = periods.iter();
        periods.any(|period| self.applied.contains(&(source.clone(), *period)))
    }

    /// Starts a check for the periods of `live` that need one. Returns whether there is one to
    /// start: none is in progress, and a period needs it.
    pub(super) fn begin<'a>(
        &mut self,
        live: impl Iterator<Item = (&'a Source, BTreeSet<LivePeriod>)>,
    ) -> bool {
        if self.checking.is_some() {
            return false;
        }
        let live = live.flat_map(|(source, periods)| {
            let of_source = move |period| (source.clone(), period);
            periods.into_iter().map(of_source)
        });
        let unapplied: BTreeSet<_> = live.filter(|it| !self.applied.contains(it)).collect();
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
        Source::new(&format!("s{}", number / 2)).unwrap()
    }

    /// One of two periods of each source.
    fn period(number: usize) -> BTreeSet<LivePeriod> {
        [LivePeriod(number as u64 % 2)].into()
    }

    fn begin(sources: &mut AppliedSources, live: &[usize]) -> bool {
        let names: Vec<_> = live.iter().map(|number| source(*number)).collect();
        let periods = live.iter().map(|number| period(*number));
        sources.begin(names.iter().zip(periods))
    }

    fn contains(sources: &AppliedSources, number: usize) -> bool {
        sources.contains_any(&source(number), &period(number))
    }

    #[test]
    fn failed_check_is_repeated() {
        let mut sources = AppliedSources::default();
        for is_applied in [false, true] {
            assert!(begin(&mut sources, &[1]));
            assert!(!begin(&mut sources, &[1, 2]), "in progress");
            sources.finish(is_applied);
            assert_eq!(contains(&sources, 1), is_applied);
        }
        assert!(!begin(&mut sources, &[1]));
        assert!(begin(&mut sources, &[1, 2]));
    }

    /// Two of each of two sources.
    const PERIODS: usize = 4;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Live(usize),
        NotLive(usize),
        Begin,
        Finish(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..PERIODS).prop_map(Step::Live),
            (0..PERIODS).prop_map(Step::NotLive),
            Just(Step::Begin),
            any::<bool>().prop_map(Step::Finish),
        ]
    }

    proptest! {
        /// A period is applied only if a check that started after its beginning has succeeded.
        #[test]
        fn check_starts_after_source_is_live(steps in proptest::collection::vec(step(), 0..60)) {
            let mut sources = AppliedSources::default();
            // When each period began, and the start of the check in progress.
            let mut live_since = [None; PERIODS];
            let mut check = None;
            let mut expected = [false; PERIODS];
            for (time, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Live(number) => {
                        live_since[number].get_or_insert(time);
                    }
                    Step::NotLive(number) => {
                        live_since[number] = None;
                        expected[number] = false;
                        let other = number ^ 1;
                        let lasts = live_since[other].map(|_| period(other));
                        sources.retain(&source(number), &lasts.unwrap_or_default());
                    }
                    Step::Begin => {
                        let live = (0..PERIODS).filter(|number| live_since[*number].is_some());
                        let needed = live.clone().any(|number| !expected[number]);
                        let is_started = begin(&mut sources, &live.collect::<Vec<_>>());
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
                    prop_assert_eq!(contains(&sources, number), *is_applied);
                }
            }
        }
    }
}
