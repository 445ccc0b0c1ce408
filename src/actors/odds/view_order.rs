//! Keeps what processors say about the sources in order with the changes, without actors and I/O.
//!
//! A processor says that a source is live after it has broadcast the suspensions of the markets that
//! the source does not confirm. The books may still be applying them, so the better state of a
//! source waits until they have. A worse one does not wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::domain::ids::Source;
use crate::domain::odds::source_status::SourceStatus;

/// The states of the sources.
type Sources = BTreeMap<Source, SourceStatus>;

/// Maximum number of views that wait. They arrive about once a second and processor.
const MAX_WAITING: usize = 16;

/// The batches that the books are applying, and the views that arrived meanwhile.
#[derive(Debug, Default)]
pub(super) struct ViewOrder {
    /// The number of the last batch.
    last: u64,
    unfinished: BTreeSet<u64>,
    /// The last view without a batch before it.
    passed: Sources,
    /// The later views, each with the number of the last batch before it.
    waiting: VecDeque<(u64, Sources)>,
}

impl ViewOrder {
    /// The books begin to apply a batch with this number. Numbers only grow.
    pub(super) fn begin(&mut self, batch: u64) {
        self.last = batch;
        self.unfinished.insert(batch);
    }

    /// A view arrived. Returns the states that hold now.
    pub(super) fn heard(&mut self, sources: Sources) -> Sources {
        if self.waiting.len() >= MAX_WAITING {
            self.join_last();
        }
        self.waiting.push_back((self.last, sources));
        self.pass();
        self.lowest()
    }

    /// The books have applied the batch with this number, or have not and are reloaded. Returns the
    /// states that hold now, if that may have changed them.
    pub(super) fn finished(&mut self, batch: u64) -> Option<Sources> {
        self.unfinished.remove(&batch);
        self.pass().then(|| self.lowest())
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
    fn pass(&mut self) -> bool {
        let first = self.unfinished.first().copied();
        let mut has_passed = false;
        while let Some((_, sources)) = self
            .waiting
            .pop_front_if(|(last, _)| first.is_none_or(|first| *last < first))
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
        assert_eq!(order.heard(view(Stale)), view(Stale));
        let [first, second, third] = [1, 2, 3];
        order.begin(first);
        order.begin(second);
        assert_eq!(order.heard(view(Live)), view(Stale));
        order.begin(third);
        assert_eq!(order.finished(second), None);
        assert_eq!(order.finished(first), Some(view(Live)));
        assert_eq!(order.finished(third), None, "it came after the view");
    }

    #[test]
    fn worse_state_does_not_wait() {
        let mut order = ViewOrder::default();
        order.heard(view(Live));
        order.begin(1);
        assert_eq!(order.heard(view(Stale)), view(Stale));
        assert_eq!(order.heard(view(Recovering)), view(Stale));
        assert_eq!(order.finished(1), Some(view(Recovering)));
    }

    /// A source that no view names any more is not restricted.
    #[test]
    fn latest_view_names_the_sources() {
        let mut order = ViewOrder::default();
        order.heard(view(Stale));
        order.begin(1);
        assert_eq!(order.heard(Sources::new()), Sources::new());
    }

    #[test]
    fn waiting_views_are_bounded() {
        let mut order = ViewOrder::default();
        order.heard(view(Live));
        let most = MAX_WAITING as u64;
        for batch in 0..most {
            order.begin(batch);
            assert_eq!(order.heard(view(Live)), view(Live));
        }
        assert_eq!(order.heard(view(Stale)), view(Stale));
        for last in most..most + 2 {
            order.begin(last);
            assert_eq!(order.heard(view(Live)), view(Stale));
            assert_eq!(order.waiting.len(), MAX_WAITING);
            order.finished(last);
        }
        for batch in 1..most {
            assert_eq!(order.finished(batch), None);
        }
        assert_eq!(order.finished(0), Some(view(Live)));
    }

    proptest! {
        /// The state that holds is never better than any view since the last one whose batches are
        /// applied, and it is the latest once all are.
        #[test]
        fn no_view_overtakes_a_batch(steps in proptest::collection::vec(0_usize..6, 0..80)) {
            let mut order = ViewOrder::default();
            let mut unfinished = BTreeSet::new();
            // The views with the batches that were unfinished when they arrived.
            let mut views: Vec<(BTreeSet<u64>, SourceState)> = Vec::new();
            let mut holds = None;
            for (batch, step) in (1..).zip(steps) {
                match step {
                    0..3 => {
                        let state = SourceState::VARIANTS[step];
                        views.push((unfinished.clone(), state));
                        holds = Some(order.heard(view(state)));
                    }
                    3 => {
                        order.begin(batch);
                        unfinished.insert(batch);
                    }
                    _ => {
                        let Some(batch) = unfinished.pop_first() else { continue };
                        holds = order.finished(batch).or(holds);
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
