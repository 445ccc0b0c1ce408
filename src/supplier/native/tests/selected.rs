//! A decoder and the selector that reads its updates.

use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::domain::odds::failover::{
    Effect, FailoverRules, PublishedStates, SourceSelection, SourceUpdate, Standing,
};
use crate::domain::odds::source_status::{CurrentReports, LivePeriod};

const SECOND: Duration = Duration::from_secs(1);
/// An update of the market that cannot be read.
const REFUSED: &str = r#"{"event_id":"MATCH_001","market":"a"}"#;

/// The only source is live, and its feed reads it.
struct Rig {
    decoder: NativeDecoder,
    /// The state that is reported.
    state: Option<SourceState>,
    selection: SourceSelection,
    /// What waits on the bus; `None` while a selector runs.
    waiting: Option<Vec<SourceUpdate>>,
    live_periods: u64,
    started: Instant,
    now: Instant,
    /// What the selector has published last.
    shown: Option<Arc<OddsUpdate>>,
}

fn new_selection(now: Instant) -> SourceSelection {
    let rules = FailoverRules {
        priority: vec![update(1, 1, 1).source],
        max_age: 30 * SECOND,
        failback_after: 30 * SECOND,
    };
    SourceSelection::new(rules, Duration::ZERO, now)
}

impl Rig {
    fn new() -> Rig {
        let now = Instant::now();
        let mut rig = Rig {
            decoder: NativeDecoder::new(true, true),
            state: None,
            selection: new_selection(now),
            waiting: None,
            live_periods: 0,
            started: now,
            now,
            shown: None,
        };
        rig.load();
        let _ = rig.decoder.on_connected();
        rig.recovered(1);
        rig
    }

    fn clock(&self) -> Timestamp {
        let started = update(1, 1_000, 1).revision.updated_at;
        started.later_by(self.now - self.started)
    }

    /// The selector loads what was published.
    fn load(&mut self) {
        let published = PublishedStates {
            updates: self.shown.iter().cloned().collect(),
            is_complete: true,
        };
        let event = update(1, 1, 1).event_id;
        let clock = self.clock();
        let _ = self.selection.load(&event, 0, published, self.now, clock);
    }

    fn stop_selector(&mut self) {
        self.waiting = Some(Vec::new());
    }

    /// A new selector reads what waits on the bus.
    fn start_selector(&mut self) {
        self.selection = new_selection(self.now);
        self.load();
        for heard in self.waiting.take().into_iter().flatten() {
            self.receive(heard);
        }
        self.now += 3 * SECOND;
        self.report();
    }

    fn record(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Publish(update) = effect {
                self.shown = Some(update);
            }
        }
    }

    fn select(&mut self, updates: Vec<OddsUpdate>, standing: Standing) {
        for update in updates {
            let heard = SourceUpdate {
                update: Arc::new(update),
                partition: 0,
                published_at: self.clock(),
                heard_at: self.now,
                standing,
                is_replayed: false,
            };
            match &mut self.waiting {
                Some(waiting) => waiting.push(heard),
                None => self.receive(heard),
            }
        }
    }

    fn receive(&mut self, heard: SourceUpdate) {
        let effects = self.selection.receive(heard, self.now);
        self.record(effects);
    }

    /// Reports the state of the source, as its feed does after everything that it handles.
    fn report(&mut self) {
        self.now += SECOND / 10;
        let heard = self.decoder.sources();
        let Some((source, state)) = heard.first().cloned() else {
            return;
        };
        let is_live = state == SourceState::Live;
        let becomes_live = is_live && self.state.replace(state) != Some(state);
        self.state = Some(state);
        self.live_periods += u64::from(becomes_live);
        let period = LivePeriod(self.live_periods);
        let reports = CurrentReports {
            state: Some(state),
            live_periods: is_live.then_some(period).into_iter().collect(),
            is_overdue: false,
        };
        let reported = [(source.clone(), reports)].into();
        if self.waiting.is_none() {
            let clock = self.clock();
            let effects = self.selection.observe(&reported, true, self.now, clock);
            self.record(effects);
        }
        if becomes_live {
            self.select(self.decoder.confirmed_open(&source), Standing::Current);
        }
    }

    fn read(&mut self, frame: &str) {
        let decoded = self.decoder.on_frame(frame.as_bytes()).unwrap();
        self.select(decoded.updates, Standing::Current);
        self.report();
    }

    fn send(&mut self, time: i64) {
        self.read(&market("a", time).to_json());
    }

    fn recovered(&mut self, request: u64) {
        self.read(&format!(r#"{{"type":"recovered","request":"r{request}"}}"#));
    }

    fn reconnect(&mut self) {
        self.decoder.record_loss(false);
        let _ = self.decoder.on_connected();
        self.report();
    }

    fn suspend(&mut self) {
        self.decoder.record_silence();
        let suspended = self.decoder.suspend_unconfirmed(&|_| false);
        self.select(suspended, Standing::Unconfirmed);
        self.report();
    }

    fn resume(&mut self) {
        let opened = self.decoder.on_resumed();
        self.select(opened, Standing::Current);
        self.report();
    }

    fn refuse(&mut self) {
        self.read(REFUSED);
    }

    fn status(&self) -> Option<MarketStatus> {
        self.shown.as_ref().map(|shown| shown.status)
    }
}

/// The selector discards the states of a source that recovers; `ingest` had suspended nothing.
#[test]
fn quiet_market_opens_after_recovery() {
    let mut rig = Rig::new();
    rig.send(10);
    assert_eq!(rig.status(), Some(OPEN));
    rig.reconnect();
    assert_eq!(rig.status(), Some(SUSPENDED));
    rig.recovered(2);
    assert_eq!(rig.status(), Some(OPEN));
}

/// A repetition of the state before the rejected update opens nothing, also after a restart.
#[test]
fn repetition_does_not_open_market_in_doubt() {
    let mut rig = Rig::new();
    rig.send(10);
    rig.refuse();
    assert_eq!(rig.status(), Some(SUSPENDED));
    rig.send(10);
    rig.reconnect();
    rig.send(10);
    rig.recovered(2);
    assert_eq!(rig.status(), Some(SUSPENDED));
    rig.decoder = NativeDecoder::new(true, true);
    rig.reconnect();
    rig.send(10);
    assert_eq!(rig.status(), Some(SUSPENDED));
    rig.send(11);
    assert_eq!(rig.status(), Some(OPEN));
}

/// The repetition, or the opening, waits on the bus: no selector has handled it.
#[test]
fn market_opens_that_was_reopened_without_selector() {
    type Act = fn(&mut Rig);
    let cases: [(Act, Act); 2] = [
        (Rig::reconnect, |rig| rig.recovered(2)),
        (Rig::suspend, Rig::resume),
    ];
    for (lose, regain) in cases {
        let mut rig = Rig::new();
        rig.send(10);
        lose(&mut rig);
        assert_eq!(rig.status(), Some(SUSPENDED));
        rig.stop_selector();
        regain(&mut rig);
        rig.start_selector();
        assert_eq!(rig.status(), Some(OPEN));
    }
}

/// A new selector does not know what the source has sent, so it would show the repetition.
#[test]
fn new_selector_does_not_open_market_in_doubt() {
    let mut rig = Rig::new();
    rig.send(10);
    rig.refuse();
    rig.stop_selector();
    rig.send(10);
    rig.start_selector();
    rig.send(10);
    assert_eq!(rig.status(), Some(SUSPENDED));
    rig.reconnect();
    rig.send(10);
    rig.recovered(2);
    assert_eq!(rig.decoder.confirmed_open(&update(1, 1, 1).source), []);
    assert_eq!(rig.status(), Some(SUSPENDED));
    rig.send(11);
    assert_eq!(rig.status(), Some(OPEN));
}

/// The suspension of a market in doubt is repeated as one that nothing confirms if the bus has
/// refused it.
#[test]
fn unpublished_doubt_opens_with_next_update() {
    let mut rig = Rig::new();
    rig.send(10);
    let refused = rig.decoder.on_frame(REFUSED.as_bytes()).unwrap();
    assert_eq!(refused.updates.len(), 1);
    let repeated = rig.decoder.on_unpublished();
    rig.select(repeated, Standing::Unconfirmed);
    rig.send(10);
    assert_eq!(rig.status(), Some(SUSPENDED));
    rig.send(11);
    assert_eq!(rig.status(), Some(OPEN));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The source sends a new state, or repeats the last one.
    Send(bool),
    Refuse,
    Silence,
    Resume,
    Reconnect,
    Recovered,
    Restart,
}

const STEPS: [Step; 8] = [
    Step::Send(true),
    Step::Send(false),
    Step::Refuse,
    Step::Silence,
    Step::Resume,
    Step::Reconnect,
    Step::Recovered,
    Step::Restart,
];

proptest! {
    /// A live source that offers the market is shown open, without any new update; a market in doubt
    /// is not.
    #[test]
    fn live_source_is_shown_open(
        steps in proptest::collection::vec(proptest::sample::select(&STEPS[..]), 1..40),
    ) {
        let mut rig = Rig::new();
        let (mut time, mut connection, mut is_refused) = (10, 1, false);
        rig.send(time);
        for step in steps {
            match step {
                Step::Send(is_new) => {
                    time += i64::from(is_new);
                    is_refused &= !is_new;
                    rig.send(time);
                }
                Step::Refuse => {
                    rig.refuse();
                    is_refused = rig.status() == Some(SUSPENDED);
                }
                Step::Silence => rig.suspend(),
                Step::Resume => rig.resume(),
                Step::Reconnect => {
                    connection += 1;
                    rig.reconnect();
                }
                Step::Recovered => rig.recovered(connection),
                Step::Restart => {
                    connection = 1;
                    rig.decoder = NativeDecoder::new(true, true);
                    rig.state = None;
                    rig.reconnect();
                    // A new process is sent what is open.
                    rig.send(time);
                }
            }
            prop_assert!(!is_refused || rig.status() == Some(SUSPENDED));
        }
        rig.resume();
        rig.recovered(connection);
        rig.send(time);
        prop_assert_eq!(rig.status(), Some(if is_refused { SUSPENDED } else { OPEN }));
    }
}
