//! A selector that reads the repetitions of a market which its source does not send again.

use std::sync::Arc;

use super::*;
use crate::domain::odds::failover::{
    Effect, FailoverRules, PublishedStates, SourceSelection, SourceUpdate, Standing,
};
use crate::domain::odds::source_status::{CurrentReports, LivePeriod};
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::odds::update::testing::update;
use crate::domain::timestamp::Timestamp;

/// A feed, and the selector that reads its reports and updates on different topics.
struct Selected {
    repetitions: Repetitions,
    selection: SourceSelection,
    quiet: OddsUpdate,
    started: Instant,
    now: Instant,
    /// What the selector has published.
    published: Vec<MarketStatus>,
}

impl Selected {
    /// The source is live, and has sent its market.
    fn new() -> Selected {
        let quiet = update(1, 1, 1);
        let rules = FailoverRules {
            priority: vec![quiet.source.clone()],
            max_age: 30 * SECOND,
            failback_after: 30 * SECOND,
        };
        let now = Instant::now();
        let selection = SourceSelection::new(rules, Duration::ZERO, now.into_std());
        let mut selected = Selected {
            repetitions: Repetitions::new(4 * SECOND),
            selection,
            quiet,
            started: now,
            now,
            published: Vec::new(),
        };
        selected.load();
        selected.read_report(SourceState::Live, 1);
        for _ in 0..10 {
            selected.report(SourceState::Live);
        }
        assert_eq!(selected.published, [MarketStatus::Open]);
        selected
    }

    fn load(&mut self) {
        let nothing = PublishedStates {
            updates: Vec::new(),
            is_complete: true,
        };
        let (event, now) = (self.quiet.event_id.clone(), self.now.into_std());
        let effects = self.selection.load(&event, 0, nothing, now, self.clock());
        assert_eq!(effects, []);
    }

    fn clock(&self) -> Timestamp {
        let sent = self.quiet.revision.updated_at;
        sent.later_by(self.now - self.started)
    }

    /// A second passes, and the feed reports this state. The selector reads the repetition at once,
    /// if there is one.
    fn report(&mut self, state: SourceState) {
        self.now += SECOND;
        let states = [(self.quiet.source.clone(), state)];
        for _ in self.repetitions.due(&states, self.now) {
            let repeated = SourceUpdate {
                update: Arc::new(self.quiet.clone()),
                partition: 0,
                published_at: self.clock(),
                heard_at: self.now.into_std(),
                standing: Standing::Current,
                is_replayed: false,
            };
            let effects = self.selection.receive(repeated, self.now.into_std());
            self.record(effects);
        }
    }

    /// The selector reads a report.
    fn read_report(&mut self, state: SourceState, live_period: u64) {
        let is_live = state == SourceState::Live;
        let reports = CurrentReports {
            state: Some(state),
            live_periods: is_live
                .then_some(LivePeriod(live_period))
                .into_iter()
                .collect(),
            is_overdue: false,
        };
        let reported = [(self.quiet.source.clone(), reports)].into();
        let (now, clock) = (self.now.into_std(), self.clock());
        let effects = self.selection.observe(&reported, true, now, clock);
        self.record(effects);
    }

    fn record(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Publish(update) = effect {
                self.published.push(update.status);
            }
        }
    }

    fn last(&self) -> Option<MarketStatus> {
        self.published.last().copied()
    }
}

/// The selector has discarded the state of the source, which does not send it again.
#[test]
fn quiet_market_opens_with_repetition() {
    let mut selected = Selected::new();
    selected.report(SourceState::Recovering);
    selected.read_report(SourceState::Recovering, 1);
    assert_eq!(selected.last(), Some(MarketStatus::Suspended));
    selected.read_report(SourceState::Live, 2);
    assert_eq!(selected.last(), Some(MarketStatus::Suspended));
    selected.report(SourceState::Live);
    assert_eq!(selected.last(), Some(MarketStatus::Open));
}

/// The first repetition reaches the selector before the reports, which discard it.
#[test]
fn quiet_market_opens_with_second_repetition() {
    let mut selected = Selected::new();
    selected.report(SourceState::Recovering);
    selected.report(SourceState::Live);
    assert_eq!(selected.published, [MarketStatus::Open]);
    selected.read_report(SourceState::Recovering, 1);
    selected.read_report(SourceState::Live, 2);
    assert_eq!(selected.last(), Some(MarketStatus::Suspended));
    for _ in 0..3 {
        selected.report(SourceState::Live);
    }
    assert_eq!(selected.last(), Some(MarketStatus::Open));
}

/// The source counts as stale in the meantime if its reports stop.
#[test]
fn quiet_market_opens_after_missing_reports() {
    let mut selected = Selected::new();
    selected.now += 4 * SECOND;
    selected.read_report(SourceState::Stale, 1);
    assert_eq!(selected.last(), Some(MarketStatus::Suspended));
    selected.read_report(SourceState::Live, 2);
    selected.report(SourceState::Live);
    assert_eq!(selected.last(), Some(MarketStatus::Open));
}
