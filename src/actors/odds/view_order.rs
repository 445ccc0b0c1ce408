//! Keeps what processors say about the sources in order with the changes, without actors and I/O.
//!
//! A processor says that a source is live after it has broadcast the suspensions of the markets that
//! the source does not confirm. The books may still be applying them, so the better state of a
//! source waits until they have. A worse one does not wait.

use std::collections::{BTreeMap, VecDeque};

use crate::domain::ids::Source;
use crate::domain::odds::source_status::SourceStatus;

/// The states of the sources.
type Sources = BTreeMap<Source, SourceStatus>;

/// Maximum number of views that wait. They arrive about once a second and processor.
const MAX_WAITING: usize = 16;

/// The views that arrived while the books were applying batches. Batches have growing numbers.
#[derive(Debug, Default)]
pub(super) struct ViewOrder {
    /// The last view without a batch before it.
    passed: Sources,
    /// The later views, each with the number of the next batch when it arrived.
    waiting: VecDeque<(u64, Sources)>,
}

impl ViewOrder {
    /// A view arrived before the batch with the number `next`; `first` is the first batch that is
    /// not applied. Returns the states that hold now.
    pub(super) fn heard(&mut self, sources: Sources, next: u64, first: Option<u64>) -> Sources {
        if self.waiting.len() >= MAX_WAITING {
            self.join_last();
        }
        self.waiting.push_back((next, sources));
        self.pass(first);
        self.lowest()
    }

    /// The books have applied a batch, or have not and are reloaded; `first` is the first of the
    /// others. Returns the states that hold now, if that may have changed them.
    pub(super) fn advanced(&mut self, first: Option<u64>) -> Option<Sources> {
        self.pass(first).then(|| self.lowest())
    }

    /// Joins the last two views that wait: the worse states count.
    fn join_last(&mut self) {
        if let Some((_, last)) = self.waiting.pop_back()
            && let Some((_, earlier)) = self.waiting.back_mut()
        {
            for (source, status) in last {
                let joined = earlier.entry(source).or_insert_with(|| status.clone());
                joined.state = joined.state.min(status.state);
            }
        }
    }

    /// Passes the views whose batches are all applied. Returns whether there are any.
    fn pass(&mut self, first: Option<u64>) -> bool {
        let mut has_passed = false;
        while let Some((_, sources)) = self
            .waiting
            .pop_front_if(|(next, _)| first.is_none_or(|first| first >= *next))
        {
            self.passed = sources;
            has_passed = true;
        }
        has_passed
    }

    /// The latest states, each lowered to the worst one since the last view that has passed.
    fn lowest(&self) -> Sources {
        let Some((_, latest)) = self.waiting.back() else {
            return self.passed.clone();
        };
        let earlier = self.waiting.iter().map(|(_, sources)| sources);
        let mut lowest = latest.clone();
        for (source, status) in earlier.chain([&self.passed]).flatten() {
            if let Some(lowest) = lowest.get_mut(source) {
                lowest.state = lowest.state.min(status.state);
            }
        }
        lowest
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use strum::VariantArray;

    use super::*;
    use crate::domain::odds::source_status::SourceState::{self, Live, Recovering, Stale};

    fn source() -> Source {
        Source::new("a").unwrap()
    }

    fn view(state: SourceState) -> Sources {
        [(source(), SourceStatus { state, at: None })].into()
    }

    #[test]
    fn better_state_waits_for_batches_before_it() {
        let mut order = ViewOrder::default();
        assert_eq!(order.heard(view(Stale), 0, None), view(Stale));
        // Batches 0 and 1 are in flight, then also 2.
        assert_eq!(order.heard(view(Live), 2, Some(0)), view(Stale));
        assert_eq!(order.advanced(Some(0)), None, "batch 1 is applied");
        assert_eq!(order.advanced(Some(2)), Some(view(Live)));
        assert_eq!(order.advanced(None), None, "it came after the view");
    }

    #[test]
    fn worse_state_does_not_wait() {
        let mut order = ViewOrder::default();
        order.heard(view(Live), 0, None);
        assert_eq!(order.heard(view(Stale), 1, Some(0)), view(Stale));
        assert_eq!(order.heard(view(Recovering), 1, Some(0)), view(Stale));
        assert_eq!(order.advanced(None), Some(view(Recovering)));
    }

    /// A source that no view names any more is not restricted.
    #[test]
    fn latest_view_names_the_sources() {
        let mut order = ViewOrder::default();
        order.heard(view(Stale), 0, None);
        assert_eq!(order.heard(Sources::new(), 1, Some(0)), Sources::new());
    }

    #[test]
    fn waiting_views_are_bounded() {
        let mut order = ViewOrder::default();
        order.heard(view(Live), 0, None);
        let most = MAX_WAITING as u64;
        for batch in 0..most {
            assert_eq!(order.heard(view(Live), batch + 1, Some(0)), view(Live));
        }
        assert_eq!(order.heard(view(Stale), most, Some(0)), view(Stale));
        for last in most..most + 2 {
            assert_eq!(order.heard(view(Live), last + 1, Some(0)), view(Stale));
            assert_eq!(order.waiting.len(), MAX_WAITING);
            assert_eq!(order.advanced(Some(0)), None);
        }
        assert_eq!(order.advanced(None), Some(view(Live)));
    }

    proptest! {
        /// The state that holds is never better than any view since the last one whose batches are
        /// applied, and it is the latest once all are.
        #[test]
        fn no_view_overtakes_a_batch(steps in proptest::collection::vec(0_usize..6, 0..80)) {
            let mut order = ViewOrder::default();
            let mut unfinished = BTreeSet::new();
            let mut next = 0;
            // The views with the batches that were unfinished when they arrived.
            let mut views: Vec<(BTreeSet<u64>, SourceState)> = Vec::new();
            let mut holds = None;
            for step in steps {
                match step {
                    0..3 => {
                        let state = SourceState::VARIANTS[step];
                        views.push((unfinished.clone(), state));
                        let first = unfinished.first().copied();
                        holds = Some(order.heard(view(state), next, first));
                    }
                    3 => {
                        unfinished.insert(next);
                        next += 1;
                    }
                    // Batches end in any order.
                    _ => {
                        let ended = if step == 4 { unfinished.pop_first() } else { unfinished.pop_last() };
                        if ended.is_none() {
                            continue;
                        }
                        holds = order.advanced(unfinished.first().copied()).or(holds);
                    }
                }
                let is_passed = |(before, _): &&(BTreeSet<u64>, SourceState)| before.is_disjoint(&unfinished);
                let passed = views.iter().rposition(|view| is_passed(&view));
                let since = views.get(passed.unwrap_or(0)..).unwrap_or_default();
                let worst = since.iter().map(|(_, state)| *state).min();
                prop_assert!(order.waiting.len() <= MAX_WAITING);
                let shown = holds.as_ref().map(|sources| sources[&source()].state);
                prop_assert!(shown <= worst, "{shown:?} {worst:?}");
                if unfinished.is_empty() {
                    prop_assert_eq!(shown, views.last().map(|(_, state)| *state));
                }
            }
        }
    }
}
