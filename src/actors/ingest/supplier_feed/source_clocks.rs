//! Judges by its own silence each source that has sent an `alive` with its name. A connection may
//! carry several sources, so it may be live while one of them is not. Other sources are judged by
//! the connection. Time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ids::Source;
use crate::domain::timestamp::Timestamp;
use crate::supplier::FrameSource;
use crate::supplier::native::MAX_SOURCES;

/// The sources with a clock of their own.
#[derive(Debug)]
pub(super) struct SourceClocks {
    stale_after: Duration,
    clocks: BTreeMap<Source, Clock>,
}

#[derive(Debug)]
struct Clock {
    heard: Instant,
    /// The same by the wall clock.
    heard_at: Timestamp,
    is_stale: bool,
}

impl SourceClocks {
    /// No source. One is stale after a silence of `stale_after`.
    pub(super) fn new(stale_after: Duration) -> SourceClocks {
        SourceClocks {
            stale_after,
            clocks: BTreeMap::new(),
        }
    }

    /// Records a message of a source. Returns the source if it was stale.
    pub(super) fn heard<'a>(
        &mut self,
        from: &'a FrameSource,
        now: Instant,
        clock: Timestamp,
    ) -> Option<&'a Source> {
        let (FrameSource::Alive(source) | FrameSource::Message(source)) = from;
        let Some(known) = self.clocks.get_mut(source) else {
            let is_alive = matches!(from, FrameSource::Alive(_));
            if is_alive && self.clocks.len() < MAX_SOURCES {
                let new = Clock {
                    heard: now,
                    heard_at: clock,
                    is_stale: false,
                };
                self.clocks.insert(source.clone(), new);
            }
            return None;
        };
        known.heard = now;
        known.heard_at = clock;
        std::mem::take(&mut known.is_stale).then_some(source)
    }

    /// The sources that have become stale.
    pub(super) fn become_stale(&mut self, now: Instant) -> Vec<Source> {
        let mut stale = Vec::new();
        for (source, clock) in &mut self.clocks {
            if !clock.is_stale && now.duration_since(clock.heard) >= self.stale_after {
                clock.is_stale = true;
                stale.push(source.clone());
            }
        }
        stale
    }

    /// Whether the source is silent for too long.
    pub(super) fn is_stale(&self, source: &Source) -> bool {
        self.clocks.get(source).is_some_and(|clock| clock.is_stale)
    }

    /// When the source was last heard, if it has a clock of its own.
    pub(super) fn heard_at(&self, source: &Source) -> Option<Timestamp> {
        self.clocks.get(source).map(|clock| clock.heard_at)
    }

    /// Excludes time that the feed spent waiting for the bus from the silence of the sources.
    pub(super) fn exclude_wait(&mut self, wait: Duration) {
        for clock in self.clocks.values_mut() {
            clock.heard += wait;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE_AFTER: Duration = Duration::from_secs(3);

    fn source(name: &str) -> Source {
        Source::new(name).unwrap()
    }

    #[test]
    fn only_sources_with_alive_have_clocks() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let clock = Timestamp::now();
        let mut clocks = SourceClocks::new(STALE_AFTER);
        clocks.heard(&FrameSource::Message(source("quiet")), start, clock);
        clocks.heard(&FrameSource::Alive(source("a")), start, clock);
        assert_eq!(clocks.become_stale(after(2)), []);
        // Any message of the source counts.
        clocks.heard(&FrameSource::Message(source("a")), after(2), clock);
        assert_eq!(clocks.become_stale(after(4)), []);
        assert_eq!(clocks.become_stale(after(5)), [source("a")]);
        assert!(clocks.is_stale(&source("a")) && !clocks.is_stale(&source("quiet")));
        assert_eq!(clocks.become_stale(after(6)), [], "once per silence");
        let alive = FrameSource::Alive(source("a"));
        assert_eq!(clocks.heard(&alive, after(7), clock), Some(&source("a")));
        assert_eq!(clocks.heard(&alive, after(7), clock), None);
        assert!(!clocks.is_stale(&source("a")));
    }

    #[test]
    fn wait_for_bus_is_no_silence() {
        let start = Instant::now();
        let mut clocks = SourceClocks::new(STALE_AFTER);
        clocks.heard(&FrameSource::Alive(source("a")), start, Timestamp::now());
        clocks.exclude_wait(STALE_AFTER);
        assert_eq!(clocks.become_stale(start + STALE_AFTER), []);
        assert_eq!(clocks.become_stale(start + 2 * STALE_AFTER), [source("a")]);
    }

    #[test]
    fn clocks_are_bounded() {
        let now = Instant::now();
        let mut clocks = SourceClocks::new(STALE_AFTER);
        for number in 0..=MAX_SOURCES {
            let alive = FrameSource::Alive(source(&number.to_string()));
            clocks.heard(&alive, now, Timestamp::now());
        }
        assert_eq!(clocks.become_stale(now + STALE_AFTER).len(), MAX_SOURCES);
    }
}
