//! Decides which states of sources are published, and when. Time is an argument.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::actors::ingest::messages::{HeardSource, SourcesHeard};
use crate::domain::ids::Source;
use crate::domain::odds::source_status::{SourceReport, SourceState};
use crate::domain::timestamp::Timestamp;

/// How often a state is published that does not change.
const INTERVAL: Duration = Duration::from_secs(1);

/// The latest states of the sources, as the feeds report them.
#[derive(Debug)]
pub(super) struct ReportBook {
    /// What a feed has reported counts for this long.
    silence: Duration,
    entries: BTreeMap<(Source, Arc<str>), Entry>,
}

#[derive(Debug)]
struct Entry {
    state: SourceState,
    at: Timestamp,
    heard_at: Instant,
    published: Option<(SourceState, Instant)>,
}

impl ReportBook {
    /// No state yet.
    pub(super) fn new(silence: Duration) -> ReportBook {
        ReportBook {
            silence,
            entries: BTreeMap::new(),
        }
    }

    /// Records what a feed reports.
    pub(super) fn record(&mut self, heard: SourcesHeard, now: Instant) {
        for HeardSource { source, state, at } in heard.sources {
            let key = (source, heard.reporter.clone());
            let published = self.entries.get(&key).and_then(|entry| entry.published);
            let entry = Entry {
                state,
                at,
                heard_at: now,
                published,
            };
            self.entries.insert(key, entry);
        }
    }

    /// The reports to publish now: those that have changed, and those that were last published a
    /// second ago. Assumes that they are published.
    pub(super) fn due(&mut self, now: Instant) -> Vec<SourceReport> {
        let mut due = Vec::new();
        for ((source, reporter), entry) in &mut self.entries {
            let state = entry.state_at(now, self.silence);
            let is_due = entry.published.is_none_or(|(published, at)| {
                published != state || now.duration_since(at) >= INTERVAL
            });
            if is_due {
                entry.published = Some((state, now));
                due.push(SourceReport {
                    source: source.clone(),
                    reporter: reporter.to_string(),
                    state,
                    at: entry.at,
                });
            }
        }
        due
    }

    /// The number of sources in this state.
    pub(super) fn count(&self, state: SourceState, now: Instant) -> usize {
        let entries = self.entries.values();
        entries
            .filter(|entry| entry.state_at(now, self.silence) == state)
            .count()
    }
}

impl Entry {
    fn state_at(&self, now: Instant, silence: Duration) -> SourceState {
        if now.duration_since(self.heard_at) >= silence {
            SourceState::Stale
        } else {
            self.state
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(4);

    fn heard(state: SourceState) -> SourcesHeard {
        SourcesHeard {
            reporter: "r".into(),
            sources: vec![HeardSource {
                source: Source::new("a").unwrap(),
                state,
                at: Timestamp::now(),
            }],
        }
    }

    fn due(book: &mut ReportBook, now: Instant) -> Vec<SourceState> {
        book.due(now).iter().map(|report| report.state).collect()
    }

    #[test]
    fn states_are_published_at_changes_and_every_second() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut book = ReportBook::new(SILENCE);
        assert_eq!(due(&mut book, start), []);
        book.record(heard(SourceState::Live), start);
        assert_eq!(due(&mut book, start), [SourceState::Live]);
        book.record(heard(SourceState::Live), after(999));
        assert_eq!(due(&mut book, after(999)), []);
        assert_eq!(due(&mut book, after(1_000)), [SourceState::Live]);
        book.record(heard(SourceState::Recovering), after(1_001));
        assert_eq!(due(&mut book, after(1_001)), [SourceState::Recovering]);
    }

    /// A feed that waits for the bus reads nothing, so nothing that it heard before is current.
    #[test]
    fn report_of_silent_feed_becomes_stale() {
        let start = Instant::now();
        let mut book = ReportBook::new(SILENCE);
        book.record(heard(SourceState::Live), start);
        assert_eq!(due(&mut book, start), [SourceState::Live]);
        assert_eq!(due(&mut book, start + SILENCE), [SourceState::Stale]);
        assert_eq!(book.count(SourceState::Stale, start + SILENCE), 1);
    }

    proptest! {
        /// For any reports of the feeds, the last published state is never more than a second old, and
        /// equals the current one.
        #[test]
        fn published_state_is_current(steps in proptest::collection::vec((0_u64..3_000, 0_usize..4), 1..60)) {
            let states = [SourceState::Stale, SourceState::Recovering, SourceState::Live];
            let mut now = Instant::now();
            let mut book = ReportBook::new(SILENCE);
            let mut last = None;
            for (millis, kind) in steps {
                now += Duration::from_millis(millis);
                if let Some(state) = states.get(kind) {
                    book.record(heard(*state), now);
                }
                for report in book.due(now) {
                    last = Some((report.state, now));
                }
                for state in states {
                    let is_current = book.count(state, now) == 1;
                    prop_assert_eq!(is_current, last.is_some_and(|(published, _)| published == state));
                }
                prop_assert!(last.is_none_or(|(_, at)| now.duration_since(at) < INTERVAL));
            }
        }
    }
}
