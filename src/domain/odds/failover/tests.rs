use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::domain::odds::source_status::{SourceState, SourceStatus};
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::odds::update::testing::update;
use crate::domain::timestamp::Timestamp;

mod interleavings;
mod restarts;

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(5);

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
fn word(from: &str, time: i64) -> OddsUpdate {
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

/// Selects for one event, on a clock that the test moves.
struct Rig {
    selection: SourceSelection,
    reported: BTreeMap<Source, SourceStatus>,
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
        Rig::starting_at(Instant::now(), published)
    }

    fn starting_at(now: Instant, published: &[Arc<OddsUpdate>]) -> Rig {
        let mut selection = SourceSelection::new(rules(), GRACE, now);
        let event = word("a", 1).event_id;
        let clock = Timestamp::from_micros(0).unwrap();
        assert!(selection.needs(&event));
        selection.load(&event, 0, published.to_vec(), now, clock);
        Rig {
            selection,
            reported: BTreeMap::new(),
            now,
            published: published.to_vec(),
            effects: Vec::new(),
        }
    }

    fn wait(&mut self, seconds: u32) {
        self.now += seconds * SECOND;
        self.observe();
    }

    fn observe(&mut self) {
        let effects = self.selection.observe(&self.reported, self.now);
        self.record(effects);
    }

    fn report(&mut self, name: &str, state: SourceState) {
        let status = SourceStatus { state, at: None };
        self.reported.insert(source(name), status);
        self.observe();
    }

    fn hear(&mut self, update: OddsUpdate) {
        self.hear_as(update, Standing::Current);
    }

    fn hear_as(&mut self, update: OddsUpdate, standing: Standing) {
        let heard = self.heard(update, standing);
        let effects = self.selection.receive(heard, self.now);
        self.record(effects);
    }

    fn heard(&self, update: OddsUpdate, standing: Standing) -> SourceUpdate {
        SourceUpdate {
            update: Arc::new(update),
            heard_at: self.now,
            standing,
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
        rig.hear(word("a", 2 * time));
        rig.hear(word("b", 2 * time + 1));
    }
    let expected: Vec<_> = (1..5).map(|time| word("a", 2 * time)).collect();
    let published: Vec<_> = rig.published.iter().map(|one| (**one).clone()).collect();
    assert_eq!(published, expected);
}

/// F1: the next source's state is shown as soon as the owner is lost.
#[test]
fn lost_owner_is_followed_by_next_source() {
    let mut rig = Rig::new();
    rig.hear(word("a", 10));
    rig.hear(word("b", 1));
    rig.report("a", SourceState::Stale);
    assert_eq!(rig.shown(), open(&word("b", 1)));
    assert_eq!(rig.count(&Effect::Moved(FailoverCause::Lost)), 1);
    // Its own revision is earlier than what was published, and so is that of its next word.
    rig.hear(word("b", 2));
    assert_eq!(rig.shown(), open(&word("b", 2)));
    rig.hear(word("b", 20));
    assert_eq!(**rig.published.last().unwrap(), word("b", 20));
    // Late words of the lost source change nothing.
    rig.hear(word("a", 30));
    assert_eq!(rig.shown(), open(&word("b", 20)));
}

#[test]
fn state_that_is_too_old_does_not_follow() {
    let mut rig = Rig::new();
    rig.hear(word("b", 1));
    rig.hear(word("a", 2));
    rig.wait(30);
    rig.report("a", SourceState::Stale);
    assert_eq!(
        rig.shown(),
        ("a", MarketStatus::Suspended, price(&word("a", 2)))
    );
    assert_eq!(rig.count(&Effect::Refused(FailoverRefusal::TooOld)), 1);
    assert_eq!(rig.count(&Effect::Withdrawn), 1);
    rig.hear(word("b", 3));
    assert_eq!(rig.shown(), open(&word("b", 3)));
}

/// F2 and F3: a source gets its markets back after thirty seconds of unbroken life.
#[test]
fn market_goes_back_after_unbroken_life() {
    let mut rig = Rig::new();
    rig.hear(word("a", 1));
    rig.hear(word("b", 2));
    rig.report("a", SourceState::Stale);
    rig.report("a", SourceState::Live);
    rig.hear(word("a", 3));
    rig.wait(10);
    rig.report("a", SourceState::Stale);
    assert_eq!(rig.shown(), open(&word("b", 2)));
    rig.report("a", SourceState::Live);
    rig.hear(word("a", 4));
    rig.wait(29);
    assert_eq!(rig.shown(), open(&word("b", 2)));
    rig.wait(1);
    assert_eq!(rig.shown(), open(&word("a", 4)));
    assert_eq!(rig.count(&Effect::Moved(FailoverCause::Back)), 1);
}

/// What a source said before it was lost is not vouched for when it is back.
#[test]
fn market_goes_back_only_after_new_word() {
    let mut rig = Rig::new();
    rig.hear(word("a", 1));
    rig.hear(word("b", 2));
    rig.report("a", SourceState::Stale);
    rig.report("a", SourceState::Live);
    rig.wait(60);
    assert_eq!(rig.shown(), open(&word("b", 2)));
    // A repetition is a word.
    rig.hear(word("a", 1));
    assert_eq!(rig.shown(), open(&word("a", 1)));
}

#[test]
fn withdrawn_market_waits_for_word() {
    let mut rig = Rig::new();
    rig.hear(word("a", 1));
    rig.report("a", SourceState::Stale);
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
    rig.report("a", SourceState::Recovering);
    rig.hear(word("a", 2));
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
    rig.report("a", SourceState::Live);
    assert_eq!(rig.shown(), open(&word("a", 2)));
    rig.report("a", SourceState::Stale);
    rig.report("a", SourceState::Live);
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
}

/// F4: a suspension is a statement about the market.
#[test]
fn suspension_is_not_failed_over() {
    let mut rig = Rig::new();
    rig.hear(word("b", 1));
    rig.hear(suspended(word("a", 2)));
    rig.hear(word("b", 3));
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
    rig.hear_as(suspended(word("a", 4)), Standing::Unvouched);
    assert_eq!(rig.shown(), open(&word("b", 3)), "the platform's own");
}

#[test]
fn ended_market_is_not_reopened() {
    let mut rig = Rig::new();
    rig.hear(OddsUpdate {
        status: MarketStatus::Settled,
        ..word("a", 1)
    });
    rig.hear(word("b", 2));
    rig.report("a", SourceState::Stale);
    rig.hear(word("b", 3));
    assert_eq!(rig.published.len(), 1);
    rig.selection.sweep(3_600 * SECOND, rig.now);
    assert_eq!(rig.selection.markets(), 0);
}

/// `ingest` may know only a published revision of the market, so its suspensions do not count as
/// what the source has sent.
#[test]
fn source_is_compared_with_its_own_revisions() {
    let mut rig = Rig::new();
    rig.hear(word("a", 1));
    rig.hear_as(suspended(word("a", 90)), Standing::Unvouched);
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
    rig.hear(word("a", 1));
    assert_eq!(rig.shown(), open(&word("a", 1)), "its last word, again");
    rig.hear_as(suspended(word("a", 90)), Standing::Unvouched);
    rig.hear(word("a", 3));
    assert_eq!(rig.shown(), open(&word("a", 3)));
    // The same after a restart, without a word of the source.
    let shown = rig.published.last().cloned();
    let mut rig = Rig::starting(shown.as_slice());
    rig.hear_as(suspended(word("a", 90)), Standing::Unvouched);
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
    rig.hear(word("a", 3));
    assert_eq!(rig.shown(), open(&word("a", 3)));
    // A source that is not known.
    rig.hear_as(suspended(word("b", 90)), Standing::Unvouched);
    rig.report("a", SourceState::Live);
    rig.report("a", SourceState::Stale);
    rig.hear(word("b", 4));
    assert_eq!(rig.shown(), open(&word("b", 4)));
}

/// F5: a source that gives up a market is followed by the next one that offers it.
#[test]
fn handed_over_market_moves_or_is_suspended() {
    let mut rig = Rig::new();
    rig.hear(word("a", 1));
    rig.hear(word("b", 2));
    rig.wait(100);
    rig.hear_as(suspended(word("a", 3)), Standing::HandedOver);
    assert_eq!(rig.shown(), open(&word("b", 2)), "whatever its age");
    assert_eq!(rig.count(&Effect::Moved(FailoverCause::HandedOver)), 1);
    rig.hear_as(word("b", 4), Standing::HandedOver);
    assert_eq!(
        rig.shown(),
        ("b", MarketStatus::Suspended, price(&word("b", 4)))
    );
    rig.hear(word("a", 5));
    assert_eq!(rig.shown(), open(&word("a", 5)));
}

/// F6: bets refer to selections by their ids.
#[test]
fn other_selections_are_refused() {
    let mut rig = Rig::new();
    let mut other = word("b", 2);
    other.selections.pop();
    rig.hear(word("a", 1));
    rig.hear(other.clone());
    rig.report("a", SourceState::Stale);
    assert_eq!(
        rig.shown(),
        ("a", MarketStatus::Suspended, price(&word("a", 1)))
    );
    other.revision = word("b", 3).revision;
    rig.hear(other);
    let refused = Effect::Refused(FailoverRefusal::Selections);
    assert_eq!(rig.count(&refused), 1, "once for each cause");
    rig.hear(word("b", 4));
    assert_eq!(rig.shown(), open(&word("b", 4)));
}

#[test]
fn unlisted_sources_rank_last() {
    let mut rig = Rig::new();
    rig.hear(word("d", 1));
    rig.hear(word("c", 2));
    assert_eq!(rig.shown().0, "c", "by name");
    rig.hear(word("b", 3));
    assert_eq!(rig.shown().0, "b");
    rig.hear(word("d", 4));
    assert_eq!(rig.shown().0, "b");
}

#[test]
fn late_records_and_further_sources_are_dropped() {
    let mut rig = Rig::new();
    rig.hear(word("a", 2));
    rig.hear(word("a", 1));
    assert_eq!(rig.count(&Effect::Dropped(DroppedRecord::Late)), 1);
    for number in 0..MAX_SOURCES {
        rig.hear(word(&format!("c{number}"), 3));
    }
    let dropped = Effect::Dropped(DroppedRecord::TooManySources);
    assert_eq!(rig.count(&dropped), 1);
    assert_eq!(rig.published.len(), 1);
}

#[test]
fn new_market_of_lost_source_is_suspended() {
    let mut rig = Rig::new();
    rig.report("a", SourceState::Stale);
    rig.hear(word("a", 1));
    assert_eq!(
        rig.shown(),
        ("a", MarketStatus::Suspended, price(&word("a", 1)))
    );
}

/// A source that was never reported is trusted: its `ingest` may be of an earlier version.
#[test]
fn unreported_source_counts_as_live() {
    let mut rig = Rig::starting(&[]);
    rig.wait(60);
    rig.hear(word("b", 1));
    rig.hear(word("a", 2));
    rig.wait(60);
    assert_eq!(rig.shown(), open(&word("a", 2)));
}

#[test]
fn idle_and_revoked_events_are_forgotten() {
    let mut rig = Rig::new();
    rig.hear(word("a", 1));
    rig.selection.forget(&[1]);
    assert_eq!(rig.selection.markets(), 1);
    rig.selection.sweep(SECOND, rig.now);
    assert_eq!(rig.selection.markets(), 1);
    rig.selection.sweep(SECOND, rig.now + SECOND);
    assert!(rig.selection.needs(&word("a", 1).event_id));
    let mut rig = Rig::new();
    rig.hear(word("a", 1));
    rig.selection.forget(&[0]);
    assert_eq!(rig.selection.markets(), 0);
}
