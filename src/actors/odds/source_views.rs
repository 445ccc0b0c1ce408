//! Unites what several processors know about the sources.
//!
//! A processor that cannot read the reports takes every source for lost. It must not shut out the
//! others, so the best state counts. Each processor judges silence by its own clock, so a view of
//! the last `SOURCE_SILENCE` is as current as the processor is able to be.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::cache::SourceView;
use crate::domain::ids::Source;
use crate::domain::odds::source_status::SourceStatus;

/// Maximum number of processors whose views are kept. The views of further ones are ignored.
const MAX_PROCESSORS: usize = 256;

/// The latest view of each processor.
pub(super) struct SourceViews {
    silence: Duration,
    views: HashMap<String, (Instant, BTreeMap<Source, SourceStatus>)>,
}

impl SourceViews {
    /// No view yet. A view counts for `silence`, or until another one of its processor arrives.
    pub(super) fn new(silence: Duration) -> SourceViews {
        SourceViews {
            silence,
            views: HashMap::new(),
        }
    }

    /// A heartbeat with this view arrived. Returns the state of every source that a processor
    /// knows.
    pub(super) fn heard(
        &mut self,
        view: SourceView,
        now: Instant,
    ) -> BTreeMap<Source, SourceStatus> {
        let SourceView { processor, sources } = view;
        self.views
            .retain(|_, (heard_at, _)| now.saturating_duration_since(*heard_at) < self.silence);
        if self.views.len() < MAX_PROCESSORS || self.views.contains_key(&processor) {
            self.views.insert(processor, (now, sources));
        }
        self.united()
    }

    fn united(&self) -> BTreeMap<Source, SourceStatus> {
        let mut united: BTreeMap<Source, SourceStatus> = BTreeMap::new();
        for (source, status) in self.views.values().flat_map(|(_, sources)| sources) {
            match united.get_mut(source) {
                Some(best) => {
                    best.state = best.state.max(status.state);
                    best.at = best.at.max(status.at);
                }
                None => drop(united.insert(source.clone(), status.clone())),
            }
        }
        united
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::odds::source_status::SourceState;
    use crate::domain::timestamp::Timestamp;

    const SILENCE: Duration = Duration::from_secs(3);

    fn view(processor: &str, state: SourceState, micros: i64) -> SourceView {
        let at = Timestamp::from_micros(micros);
        SourceView {
            processor: processor.to_owned(),
            sources: [(Source::new("a").unwrap(), SourceStatus { state, at })].into(),
        }
    }

    fn state(sources: &BTreeMap<Source, SourceStatus>) -> (SourceState, i64) {
        let status = &sources[&Source::new("a").unwrap()];
        (status.state, status.at.map_or(0, Timestamp::micros))
    }

    #[test]
    fn best_state_of_current_views_counts() {
        use SourceState::{Live, Recovering, Stale};
        let start = Instant::now();
        let mut views = SourceViews::new(SILENCE);
        assert_eq!(state(&views.heard(view("1", Stale, 1), start)), (Stale, 1));
        assert_eq!(state(&views.heard(view("2", Live, 2), start)), (Live, 2));
        assert_eq!(
            state(&views.heard(view("1", Recovering, 3), start)),
            (Live, 3)
        );
        // The latest view of a processor replaces its earlier one.
        assert_eq!(
            state(&views.heard(view("2", Stale, 2), start)),
            (Recovering, 3)
        );
    }

    /// A killed processor does not keep a source alive that died with it.
    #[test]
    fn silent_processor_does_not_count() {
        let start = Instant::now();
        let mut views = SourceViews::new(SILENCE);
        views.heard(view("1", SourceState::Live, 1), start);
        let before = start + SILENCE - Duration::from_millis(1);
        let stale = || view("2", SourceState::Stale, 0);
        assert_eq!(state(&views.heard(stale(), before)), (SourceState::Live, 1));
        let after = start + SILENCE;
        assert_eq!(state(&views.heard(stale(), after)), (SourceState::Stale, 0));
    }

    #[test]
    fn processors_know_different_sources() {
        let now = Instant::now();
        let mut views = SourceViews::new(SILENCE);
        views.heard(view("1", SourceState::Live, 1), now);
        let other = SourceView {
            processor: "2".to_owned(),
            sources: BTreeMap::new(),
        };
        assert_eq!(views.heard(other, now).len(), 1);
    }

    #[test]
    fn views_are_bounded() {
        let now = Instant::now();
        let mut views = SourceViews::new(SILENCE);
        for number in 0..MAX_PROCESSORS + 5 {
            views.heard(view(&number.to_string(), SourceState::Live, 1), now);
        }
        assert_eq!(views.views.len(), MAX_PROCESSORS);
    }
}
