use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use self::steps::SourceStep;
use super::*;
use crate::domain::ids::EventId;
use crate::domain::odds::source_status::{CurrentReports, LivePeriod, SourceState};
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::odds::update::testing::update;
use crate::domain::timestamp::Timestamp;

mod interleavings;
mod loads;
mod restarts;
mod silence;
mod steps;

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(5);
/// Before every update of the tests.
const EARLY: &str = "2020-01-01T00:00:00Z";

fn rules() -> FailoverRules {
    FailoverRules {
        priority: vec![source("a"), source("b")],
        max_age: 30 * SECOND,
        failback_after: 30 * SECOND,
    }
}

fn source(name: &str) -> Source {
    Source::new(name).unwrap()
}

/// An update of `source` at this second.
fn update_of(from: &str, time: i64) -> OddsUpdate {
    OddsUpdate {
        source: source(from),
        ..update(1, time, time)
    }
}

fn suspended(update: OddsUpdate) -> OddsUpdate {
    OddsUpdate {
        status: MarketStatus::Suspended,
        ..update
    }
}

/// The suspension of the last state by `ingest`, which knows only a published revision of it.
fn unconfirmed(last: OddsUpdate, published_at: i64) -> OddsUpdate {
    let mut update = suspended(last);
    update.revision.updated_at = update_of("a", published_at).revision.updated_at;
    update
}

/// Selects for one event, on a clock that the test moves.
struct Rig {
    selection: SourceSelection,
    reported: BTreeMap<Source, CurrentReports>,
    /// The number of live periods so far.
    periods: u64,
    started: Instant,
    /// The time of day of the start.
    clock: Timestamp,
    now: Instant,
    published: Vec<Arc<OddsUpdate>>,
    effects: Vec<Effect>,
}

impl Rig {
    /// The sources a and b have been live for a minute, and nothing was published.
    fn new() -> Rig {
        let mut rig = Rig::starting(&[]);
        rig.report("a", SourceState::Live);
        rig.report("b", SourceState::Live);
        rig.wait(60);
        rig
    }

    /// A process that starts, and finds these updates published.
    fn starting(published: &[Arc<OddsUpdate>]) -> Rig {
        Rig::starting_at(Instant::now(), EARLY.parse().unwrap(), published)
    }

    fn starting_at(now: Instant, clock: Timestamp, published: &[Arc<OddsUpdate>]) -> Rig {
        let mut rig = Rig::unloaded(now, clock);
        rig.load(published, true);
        rig
    }

    /// A process that has loaded nothing.
    fn unloaded(now: Instant, clock: Timestamp) -> Rig {
        Rig {
            selection: SourceSelection::new(rules(), GRACE, now),
            reported: BTreeMap::new(),
            periods: 0,
            started: now,
            clock,
            now,
            published: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Loads the event. Not complete: the cache or the store could not be read.
    fn load(&mut self, published: &[Arc<OddsUpdate>], is_complete: bool) {
        let event = update_of("a", 1).event_id;
        let states = PublishedStates {
            updates: published.to_vec(),
            is_complete,
        };
        self.published.extend_from_slice(published);
        let clock = self.clock();
        let effects = self.selection.load(&event, 0, states, self.now, clock);
        self.record(effects);
    }

    /// The time of day.
    fn clock(&self) -> Timestamp {
        self.clock.later_by(self.now - self.started)
    }

    fn wait(&mut self, seconds: u32) {
        self.pass(seconds * SECOND);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.observe();
    }

    fn observe(&mut self) {
        self.observe_while(true);
    }

    fn observe_while(&mut self, is_idle: bool) {
        let clock = self.clock();
        let selection = &mut self.selection;
        let effects = selection.observe(&self.reported, is_idle, self.now, clock);
        self.record(effects);
    }

    fn report(&mut self, name: &str, state: SourceState) {
        let periods = match state {
            SourceState::Live => self.live_periods(name),
            _ => BTreeSet::new(),
        };
        self.set_reported(name, Some(state), periods);
    }

    /// The live periods that go on when the source is reported as live again.
    fn live_periods(&mut self, name: &str) -> BTreeSet<LivePeriod> {
        let known = self.reported.get(&source(name));
        let known = known.map(|reports| reports.live_periods.clone());
        known
            .filter(|periods| !periods.is_empty())
            .unwrap_or_else(|| {
                self.periods += 1;
                [LivePeriod(self.periods)].into()
            })
    }

    /// Another reporter reports the source as live.
    fn replace_reporter(&mut self, name: &str) {
        self.periods += 1;
        let periods = [LivePeriod(self.periods)].into();
        self.set_reported(name, Some(SourceState::Live), periods);
    }

    /// The reports about these sources do not arrive. The live periods stay in the rig for the next
    /// report; the selection does not use those of a silent source.
    fn silence(&mut self, names: &[&str]) {
        for name in names {
            if let Some(reports) = self.reported.get_mut(&source(name)) {
                reports.state = None;
                reports.is_overdue = true;
            }
        }
        self.observe();
    }

    fn set_reported(
        &mut self,
        name: &str,
        state: Option<SourceState>,
        live_periods: BTreeSet<LivePeriod>,
    ) {
        let reports = CurrentReports {
            state,
            live_periods,
            is_overdue: false,
        };
        self.reported.insert(source(name), reports);
        self.observe();
    }

    /// The reports that belong to a step.
    fn report_step(&mut self, step: &SourceStep) {
        match step {
            SourceStep::State(source, state) => self.report(source.name(), *state),
            SourceStep::Silence(source) => self.silence(&[source.name()]),
            _ => {}
        }
    }

    fn read(&mut self, update: OddsUpdate) {
        self.read_as(update, Standing::Current);
    }

    fn read_as(&mut self, update: OddsUpdate, standing: Standing) {
        let heard = self.heard(update, standing);
        self.receive(heard);
    }

    fn receive(&mut self, heard: SourceUpdate) {
        let effects = self.selection.receive(heard, self.now);
        self.record(effects);
    }

    /// Reads a record again that was committed before.
    fn replay(&mut self, heard: SourceUpdate) {
        let heard = SourceUpdate {
            is_replayed: true,
            ..heard
        };
        let effects = self.selection.receive(heard, self.now);
        assert_eq!(effects, []);
    }

    fn heard(&self, update: OddsUpdate, standing: Standing) -> SourceUpdate {
        SourceUpdate {
            update: Arc::new(update),
            partition: 0,
            published_at: self.clock(),
            heard_at: self.now,
            standing,
            is_replayed: false,
        }
    }

    fn record(&mut self, effects: Vec<Effect>) {
        for effect in &effects {
            if let Effect::Publish(update) = effect {
                let last = self.published.last().map(|last| last.revision);
                assert!(last < Some(update.revision), "revisions grow");
                self.published.push(update.clone());
            }
        }
        self.effects.extend(effects);
    }

    /// The source, status and home price that are shown.
    fn shown(&self) -> (&str, MarketStatus, u32) {
        let shown = self.published.last().unwrap();
        let price = shown.price_of("home").unwrap().thousandths();
        (shown.source.as_str(), shown.status, price)
    }

    fn count(&self, effect: &Effect) -> usize {
        self.effects.iter().filter(|seen| *seen == effect).count()
    }
}

fn price(update: &OddsUpdate) -> u32 {
    update.price_of("home").unwrap().thousandths()
}

fn open(update: &OddsUpdate) -> (&str, MarketStatus, u32) {
    (update.source.as_str(), MarketStatus::Open, price(update))
}

#[test]
fn owner_is_shown_unchanged() {
    let mut rig = Rig::new();
    for time in 1..5 {
        rig.read(update_of("a", 2 * time));
        rig.read(update_of("b", 2 * time + 1));
    }
    let expected: Vec<_> = (1..5).map(|time| update_of("a", 2 * time)).collect();
    let published: Vec<_> = rig.published.iter().map(|one| (**one).clone()).collect();
    assert_eq!(published, expected);
}

/// F1: the next source's state is shown as soon as the owner is lost.
#[test]
fn lost_owner_is_followed_by_next_source() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 10));
    rig.read(update_of("b", 1));
    rig.report("a", SourceState::Stale);
    assert_eq!(rig.shown(), open(&update_of("b", 1)));
    assert_eq!(rig.count(&Effect::Moved(FailoverCause::Lost)), 1);
    // Its own revision is earlier than what was published, and so is that of its next update.
    rig.read(update_of("b", 2));
    assert_eq!(rig.shown(), open(&update_of("b", 2)));
    rig.read(update_of("b", 20));
    assert_eq!(**rig.published.last().unwrap(), update_of("b", 20));
    // Late updates of the lost source change nothing.
    rig.read(update_of("a", 30));
    assert_eq!(rig.shown(), open(&update_of("b", 20)));
}

#[test]
fn state_that_is_too_old_does_not_follow() {
    let mut rig = Rig::new();
    rig.read(update_of("b", 1));
    rig.read(update_of("a", 2));
    rig.wait(30);
    rig.report("a", SourceState::Stale);
    assert_eq!(
        rig.shown(),
        ("a", MarketStatus::Suspended, price(&update_of("a", 2)))
    );
    assert_eq!(rig.count(&Effect::Refused(FailoverRefusal::TooOld)), 1);
    assert_eq!(rig.count(&Effect::Withdrawn), 1);
    rig.read(update_of("b", 3));
    assert_eq!(rig.shown(), open(&update_of("b", 3)));
}

/// F2 and F3: a source gets its markets back after thirty seconds of unbroken life.
#[test]
fn market_goes_back_after_unbroken_life() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.read(update_of("b", 2));
    rig.report("a", SourceState::Stale);
    rig.report("a", SourceState::Live);
    rig.read(update_of("a", 3));
    rig.wait(10);
    rig.report("a", SourceState::Stale);
    assert_eq!(rig.shown(), open(&update_of("b", 2)));
    rig.report("a", SourceState::Live);
    rig.read(update_of("a", 4));
    rig.wait(29);
    assert_eq!(rig.shown(), open(&update_of("b", 2)));
    rig.wait(1);
    assert_eq!(rig.shown(), open(&update_of("a", 4)));
    assert_eq!(rig.count(&Effect::Moved(FailoverCause::Back)), 1);
}

/// What a source sent before it was lost does not count when it is back.
#[test]
fn market_goes_back_only_after_new_update() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.read(update_of("b", 2));
    rig.report("a", SourceState::Stale);
    rig.report("a", SourceState::Live);
    rig.wait(60);
    assert_eq!(rig.shown(), open(&update_of("b", 2)));
    // A repetition is an update.
    rig.read(update_of("a", 1));
    assert_eq!(rig.shown(), open(&update_of("a", 1)));
}

#[test]
fn withdrawn_market_waits_for_update() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.report("a", SourceState::Stale);
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
    rig.report("a", SourceState::Recovering);
    rig.read(update_of("a", 2));
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
    rig.report("a", SourceState::Live);
    assert_eq!(rig.shown(), open(&update_of("a", 2)));
    rig.report("a", SourceState::Stale);
    rig.report("a", SourceState::Live);
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
}

/// F4: a suspension is a statement about the market.
#[test]
fn suspension_is_not_failed_over() {
    let mut rig = Rig::new();
    rig.read(update_of("b", 1));
    rig.read(suspended(update_of("a", 2)));
    rig.read(update_of("b", 3));
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
    rig.read_as(suspended(update_of("a", 4)), Standing::Unconfirmed);
    assert_eq!(rig.shown(), open(&update_of("b", 3)), "the platform's own");
}

#[test]
fn ended_market_is_not_reopened() {
    let mut rig = Rig::new();
    rig.read(OddsUpdate {
        status: MarketStatus::Settled,
        ..update_of("a", 1)
    });
    rig.read(update_of("b", 2));
    rig.report("a", SourceState::Stale);
    rig.read(update_of("b", 3));
    assert_eq!(rig.published.len(), 1);
    rig.selection.sweep(3_600 * SECOND, rig.now);
    assert_eq!(rig.selection.markets(), 0);
}

/// `ingest` may know only a published revision of the market, so its suspensions do not count as
/// what the source has sent.
#[test]
fn source_is_compared_with_its_own_revisions() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.read_as(unconfirmed(update_of("a", 1), 90), Standing::Unconfirmed);
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
    rig.read(update_of("a", 1));
    assert_eq!(
        rig.shown(),
        open(&update_of("a", 1)),
        "its last update, again"
    );
    rig.read_as(unconfirmed(update_of("a", 1), 90), Standing::Unconfirmed);
    rig.read(update_of("a", 3));
    assert_eq!(rig.shown(), open(&update_of("a", 3)));
    // The same after a restart, without an update of the source.
    let shown = rig.published.last().cloned();
    let mut rig = Rig::starting(shown.as_slice());
    rig.wait(3);
    rig.read_as(unconfirmed(update_of("a", 3), 90), Standing::Unconfirmed);
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
    rig.read(update_of("a", 3));
    assert_eq!(rig.shown(), open(&update_of("a", 3)));
    // A source that is not known.
    rig.read_as(suspended(update_of("b", 90)), Standing::Unconfirmed);
    rig.report("a", SourceState::Live);
    rig.report("a", SourceState::Stale);
    rig.read(update_of("b", 4));
    assert_eq!(rig.shown(), open(&update_of("b", 4)));
}

/// A suspension with a version of its own is ended only by a later update of the source.
#[test]
fn repetition_does_not_follow_later_version() {
    let mut doubted = suspended(update_of("a", 1));
    doubted.revision.version += 1;
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.read_as(doubted, Standing::Unconfirmed);
    rig.read(update_of("a", 1));
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
    assert_eq!(rig.count(&Effect::Dropped(DroppedRecord::Late)), 1);
    rig.read(update_of("a", 2));
    assert_eq!(rig.shown(), open(&update_of("a", 2)));
}

/// `ingest` may suspend a market that the source has suspended, because it knows only an earlier
/// state. The market is not failed over for that.
#[test]
fn suspension_by_source_stays_its_own() {
    let mut rig = Rig::new();
    rig.read(update_of("b", 1));
    rig.read(suspended(update_of("a", 2)));
    rig.read_as(unconfirmed(update_of("a", 1), 90), Standing::Unconfirmed);
    rig.read(update_of("b", 3));
    assert_eq!(rig.shown().0, "a");
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
}

/// A record that was held, or read late, may be from before a loss.
#[test]
fn record_from_before_loss_does_not_count() {
    for (millis, status) in [
        (2_000, MarketStatus::Suspended),
        // The clocks may differ by so much.
        (500, MarketStatus::Open),
    ] {
        let mut rig = Rig::new();
        rig.read(update_of("a", 1));
        let late = rig.heard(update_of("a", 2), Standing::Current);
        rig.pass(Duration::from_millis(millis));
        rig.report("a", SourceState::Stale);
        rig.report("a", SourceState::Live);
        rig.receive(late);
        assert_eq!(rig.shown(), ("a", status, price(&update_of("a", 2))));
        rig.read(update_of("a", 2));
        assert_eq!(rig.shown(), open(&update_of("a", 2)));
    }
}

/// F5: a source that gives up a market is followed by the next one that offers it.
#[test]
fn handed_over_market_moves_or_is_suspended() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.read(update_of("b", 2));
    rig.wait(100);
    rig.read_as(suspended(update_of("a", 3)), Standing::HandedOver);
    assert_eq!(rig.shown(), open(&update_of("b", 2)), "at any age");
    assert_eq!(rig.count(&Effect::Moved(FailoverCause::HandedOver)), 1);
    rig.read_as(update_of("b", 4), Standing::HandedOver);
    assert_eq!(
        rig.shown(),
        ("b", MarketStatus::Suspended, price(&update_of("b", 4)))
    );
    rig.read(update_of("a", 5));
    assert_eq!(rig.shown(), open(&update_of("a", 5)));
}

/// F6: bets refer to selections by their ids.
#[test]
fn other_selections_are_refused() {
    let mut rig = Rig::new();
    let mut other = update_of("b", 2);
    other.selections.pop();
    rig.read(update_of("a", 1));
    rig.read(other.clone());
    rig.report("a", SourceState::Stale);
    assert_eq!(
        rig.shown(),
        ("a", MarketStatus::Suspended, price(&update_of("a", 1)))
    );
    other.revision = update_of("b", 3).revision;
    rig.read(other);
    let refused = Effect::Refused(FailoverRefusal::Selections);
    assert_eq!(rig.count(&refused), 1, "once for each cause");
    rig.read(update_of("b", 4));
    assert_eq!(rig.shown(), open(&update_of("b", 4)));
}

#[test]
fn unlisted_sources_rank_last() {
    let mut rig = Rig::new();
    rig.read(update_of("d", 1));
    rig.read(update_of("c", 2));
    assert_eq!(rig.shown().0, "c", "by name");
    rig.read(update_of("b", 3));
    assert_eq!(rig.shown().0, "b");
    rig.read(update_of("d", 4));
    assert_eq!(rig.shown().0, "b");
}

#[test]
fn late_records_and_further_sources_are_dropped() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 2));
    rig.read(update_of("a", 1));
    assert_eq!(rig.count(&Effect::Dropped(DroppedRecord::Late)), 1);
    for number in 0..MAX_SOURCES {
        rig.read(update_of(&format!("c{number}"), 3));
    }
    let dropped = Effect::Dropped(DroppedRecord::TooManySources);
    assert_eq!(rig.count(&dropped), 1);
    assert_eq!(rig.published.len(), 1);
}

#[test]
fn new_market_of_lost_source_is_suspended() {
    let mut rig = Rig::new();
    rig.report("a", SourceState::Stale);
    rig.read(update_of("a", 1));
    assert_eq!(
        rig.shown(),
        ("a", MarketStatus::Suspended, price(&update_of("a", 1)))
    );
}

/// A source that was never reported is trusted: its `ingest` may be of an earlier version.
#[test]
fn unreported_source_counts_as_live() {
    let mut rig = Rig::starting(&[]);
    rig.wait(60);
    rig.read(update_of("b", 1));
    rig.read(update_of("a", 2));
    rig.wait(60);
    assert_eq!(rig.shown(), open(&update_of("a", 2)));
}

/// The published state does not show that a market was handed over, so it is kept.
#[test]
fn hand_over_is_remembered_while_idle() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.read_as(suspended(update_of("a", 2)), Standing::HandedOver);
    rig.now += 3_600 * SECOND;
    rig.selection.sweep(SECOND, rig.now);
    assert_eq!(rig.selection.markets(), 1);
    rig.read(update_of("b", 1));
    assert_eq!(rig.shown(), open(&update_of("b", 1)));
    // Its owner offers it now.
    rig.selection.sweep(SECOND, rig.now + SECOND);
    assert_eq!(rig.selection.markets(), 0);
}

#[test]
fn remembered_hand_overs_are_bounded() {
    let mut rig = Rig::new();
    let clock = rig.clock();
    let events = MAX_IDLE_HANDED_OVER as u32 + 3;
    for number in 0..events {
        let mut handed_over = suspended(update_of("a", 1));
        handed_over.event_id = EventId::new(&format!("E{number}")).unwrap();
        let complete = PublishedStates {
            updates: Vec::new(),
            is_complete: true,
        };
        let event = handed_over.event_id.clone();
        let _ = rig.selection.load(&event, 0, complete, rig.now, clock);
        rig.now += Duration::from_millis(1);
        let heard = rig.heard(handed_over, Standing::HandedOver);
        let _ = rig.selection.receive(heard, rig.now);
    }
    rig.selection.sweep(SECOND, rig.now + 2 * SECOND);
    assert_eq!(rig.selection.markets(), MAX_IDLE_HANDED_OVER);
    let forgotten = |number: u32| {
        let mut update = update_of("a", 1);
        update.event_id = EventId::new(&format!("E{number}")).unwrap();
        rig.selection.needs(&update)
    };
    assert!(
        forgotten(0) && forgotten(2) && !forgotten(3),
        "the oldest ones"
    );
}

#[test]
fn idle_and_revoked_events_are_forgotten() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.selection.forget(&[1]);
    assert_eq!(rig.selection.markets(), 1);
    rig.selection.sweep(SECOND, rig.now);
    assert_eq!(rig.selection.markets(), 1);
    rig.selection.sweep(SECOND, rig.now + SECOND);
    assert!(rig.selection.needs(&update_of("a", 1)));
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.selection.forget(&[0]);
    assert_eq!(rig.selection.markets(), 0);
}
