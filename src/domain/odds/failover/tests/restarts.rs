//! A process that takes over the markets of another one.

use proptest::prelude::*;

use super::steps::{SENDERS, Sender, SourceStep, any_source_step};
use super::*;

/// A restarted process reads the first reports after a moment.
#[test]
fn start_does_not_take_sources_for_lost() {
    let published = [Arc::new(update_of("a", 1))];
    let mut rig = Rig::starting(&published);
    rig.report("a", SourceState::Stale);
    rig.read(update_of("b", 2));
    assert_eq!(rig.shown(), open(&update_of("a", 1)));
    rig.wait(5);
    assert_eq!(rig.shown(), open(&update_of("b", 2)));
}

#[test]
fn published_owner_stays_after_restart() {
    // The clock of b is late: its state was published with a later revision than its own.
    let mut shown = update_of("b", 3);
    shown.revision.updated_at = update_of("a", 10).revision.updated_at;
    let mut rig = Rig::starting(&[Arc::new(shown)]);
    for time in 1..=3 {
        rig.replay(rig.heard(update_of("b", time), Standing::Current));
    }
    rig.wait(3);
    assert_eq!(rig.published.len(), 1, "it is published already");
    rig.read(update_of("b", 2));
    assert_eq!(rig.count(&Effect::Dropped(DroppedRecord::Late)), 1);
    rig.read(update_of("b", 4));
    assert_eq!(rig.shown(), open(&update_of("b", 4)));
    assert!(rig.published[1].revision > update_of("a", 10).revision);
}

/// Without the replay the next state would be unknown until its source speaks again.
#[test]
fn replayed_state_follows_lost_owner() {
    let mut rig = Rig::starting(&[Arc::new(update_of("a", 2))]);
    for update in [update_of("b", 1), update_of("a", 1), update_of("a", 2)] {
        rig.replay(rig.heard(update, Standing::Current));
    }
    rig.report("a", SourceState::Live);
    assert_eq!(rig.published.len(), 1);
    rig.report("a", SourceState::Stale);
    rig.wait(3);
    assert_eq!(rig.shown(), open(&update_of("b", 1)));
}

/// A process takes over partitions while their sources are lost already.
#[test]
fn source_lost_before_replay_is_followed() {
    let mut rig = Rig::starting(&[]);
    rig.report("a", SourceState::Live);
    rig.report("a", SourceState::Stale);
    rig.selection.forget(&[0]);
    rig.load(&[Arc::new(update_of("a", 2))], true);
    for update in [update_of("b", 1), update_of("a", 2)] {
        rig.replay(rig.heard(update, Standing::Current));
    }
    rig.wait(3);
    assert_eq!(rig.shown(), open(&update_of("b", 1)));
}

#[test]
fn replayed_hand_over_is_remembered() {
    let shown = Arc::new(suspended(update_of("a", 2)));
    let mut rig = Rig::starting(std::slice::from_ref(&shown));
    rig.replay(rig.heard((*shown).clone(), Standing::HandedOver));
    rig.read(update_of("b", 1));
    rig.wait(3);
    assert_eq!(rig.shown(), open(&update_of("b", 1)));
}

/// The suspension of a lost source is kept until its next update, although the open state before it
/// is read again.
#[test]
fn replay_does_not_reopen_withdrawn_market() {
    let mut shown = suspended(update_of("a", 1));
    shown.revision.updated_at = shown.revision.updated_at.later_by(Duration::from_micros(1));
    let mut rig = Rig::starting(&[Arc::new(shown)]);
    rig.replay(rig.heard(update_of("a", 1), Standing::Current));
    rig.report("a", SourceState::Live);
    rig.wait(60);
    assert_eq!(rig.published.len(), 1);
    rig.read(update_of("a", 2));
    assert_eq!(rig.shown(), open(&update_of("a", 2)));
}

/// More may have been published than was loaded. What replaces it is not before the decision.
#[test]
fn new_owner_follows_everything_published_before() {
    let clock = update_of("a", 100).revision.updated_at;
    let mut rig = Rig::starting_at(Instant::now(), clock, &[Arc::new(update_of("a", 5))]);
    rig.report("a", SourceState::Live);
    rig.replay(rig.heard(update_of("b", 1), Standing::Current));
    rig.report("a", SourceState::Stale);
    rig.wait(3);
    let published = rig.published.last().unwrap();
    assert_eq!(published.source, source("b"));
    assert!(published.revision.updated_at > clock);
}

/// What was handled and not committed is read again. An older price of the owner must not be
/// published once more, although its revision is unknown.
#[test]
fn handled_records_are_not_published_again() {
    let mut rig = Rig::starting(&[Arc::new(update_of("a", 5))]);
    for time in [3, 4, 5] {
        rig.read(update_of("a", time));
    }
    rig.wait(10);
    assert_eq!(rig.published.len(), 1);
    rig.read(update_of("a", 6));
    assert_eq!(**rig.published.last().unwrap(), update_of("a", 6));
    assert_eq!(rig.published.len(), 2);
}

/// The state that was published with a later revision is found by its content: an earlier record
/// with a lower revision is not taken for it.
#[test]
fn own_revision_belongs_to_published_content() {
    let mut shown = update_of("b", 3);
    shown.revision.updated_at = update_of("a", 10).revision.updated_at;
    let mut rig = Rig::starting(&[Arc::new(shown)]);
    for time in 1..=4 {
        rig.replay(rig.heard(update_of("b", time), Standing::Current));
    }
    rig.wait(3);
    // It was handled, and the loaded state does not show it.
    assert_eq!(rig.shown(), open(&update_of("b", 4)));
    rig.read(update_of("b", 4));
    assert_eq!(rig.published.len(), 2, "a repetition");
}

/// A repetition opens a withdrawn market after a restart as it does without one.
#[test]
fn repetition_opens_withdrawn_market() {
    let mut shown = suspended(update_of("a", 1));
    shown.revision.updated_at = shown.revision.updated_at.later_by(Duration::from_micros(1));
    let mut rig = Rig::starting(&[Arc::new(shown)]);
    rig.replay(rig.heard(update_of("a", 1), Standing::Current));
    rig.wait(3);
    rig.read(update_of("a", 1));
    assert_eq!(rig.shown(), open(&update_of("a", 1)));
}

/// No process runs while the source repeats its last update: the record is not handled yet.
#[test]
fn repetition_after_withdrawal_opens_market() {
    let mut shown = suspended(update_of("a", 1));
    shown.revision.updated_at = update_of("a", 10).revision.updated_at;
    let clock = update_of("a", 20).revision.updated_at;
    for (second, status) in [(9, MarketStatus::Suspended), (11, MarketStatus::Open)] {
        let mut rig = Rig::starting_at(Instant::now(), clock, &[Arc::new(shown.clone())]);
        rig.report("a", SourceState::Live);
        rig.receive(SourceUpdate {
            published_at: update_of("a", second).revision.updated_at,
            ..rig.heard(update_of("a", 1), Standing::Current)
        });
        rig.wait(3);
        assert_eq!(rig.shown().1, status, "published at {second}");
    }
}

/// A record that was set aside is shown although the record after it is late.
#[test]
fn late_record_ends_reading_again() {
    let mut rig = Rig::starting(&[Arc::new(update_of("a", 5))]);
    rig.replay(rig.heard(update_of("a", 4), Standing::Current));
    rig.now += 3 * SECOND;
    rig.read(update_of("a", 3));
    assert_eq!(rig.shown(), open(&update_of("a", 4)));
    assert_eq!(rig.count(&Effect::Dropped(DroppedRecord::Late)), 1);
}

/// What was found while records were read again is decided about when they have been read, also if
/// the record that shows this is late itself.
#[test]
fn late_record_lets_lost_owner_be_followed() {
    let mut rig = Rig::starting(&[Arc::new(update_of("a", 5))]);
    rig.report("a", SourceState::Live);
    rig.replay(rig.heard(update_of("b", 1), Standing::Current));
    rig.replay(rig.heard(update_of("a", 5), Standing::Current));
    rig.report("a", SourceState::Stale);
    assert_eq!(rig.published.len(), 1);
    rig.now += 3 * SECOND;
    rig.read(update_of("a", 4));
    assert_eq!(rig.count(&Effect::Dropped(DroppedRecord::Late)), 1);
    assert_eq!(rig.shown(), open(&update_of("b", 1)));
}

/// With many markets, a decision about all of them after each load takes too long. The loaded state
/// of the other market is that of a lost source, so a decision about it would suspend it.
#[test]
fn only_market_that_was_read_again_is_decided_about() {
    let clock = update_of("a", 20).revision.updated_at;
    let mut rig = Rig::unloaded(Instant::now(), clock);
    rig.selection = SourceSelection::new(rules(), GRACE, rig.now).on_memory_bus();
    rig.report("a", SourceState::Live);
    rig.report("a", SourceState::Stale);
    rig.wait(60);
    let untouched = update_of("a", 1);
    rig.load(&[Arc::new(untouched.clone())], true);
    let mut finished = update_of("b", 2);
    finished.market.name = "btts".parse().unwrap();
    rig.replay(rig.heard(finished.clone(), Standing::Current));
    rig.wait(3);
    let published: Vec<_> = rig.published.iter().map(|one| (**one).clone()).collect();
    assert_eq!(published, [untouched, finished]);
    // A change of the sources concerns every market.
    rig.report("c", SourceState::Stale);
    assert_eq!(rig.count(&Effect::Withdrawn), 1);
}

/// Nothing is decided about a market that the load did not show before its records are read again.
#[test]
fn replayed_suspension_of_unknown_market_waits() {
    let mut rig = Rig::starting(&[]);
    rig.wait(1);
    rig.replay(rig.heard(suspended(update_of("a", 1)), Standing::Unconfirmed));
    rig.wait(1);
    assert_eq!(rig.published, []);
    rig.replay(rig.heard(update_of("a", 2), Standing::Current));
    rig.wait(3);
    assert_eq!(rig.published, [Arc::new(update_of("a", 2))]);
}

/// A suspension that a process reads right after it has taken over leads to nothing before it is
/// certain that no earlier process has handled it.
#[test]
fn suspension_after_takeover_is_decided_later() {
    let mut rig = Rig::starting(&[Arc::new(update_of("a", 1))]);
    rig.observe();
    rig.read_as(unconfirmed(update_of("a", 1), 2), Standing::Unconfirmed);
    rig.observe();
    assert_eq!(rig.published.len(), 1);
    assert!(!rig.selection.is_decided());
    rig.wait(3);
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
    assert!(rig.selection.is_decided());
}

/// What the source sends after a restart is new if the bus keeps nothing, or long after the process
/// has taken over.
#[test]
fn repetition_counts_where_nothing_is_read_again() {
    let mut shown = suspended(update_of("a", 1));
    shown.revision.updated_at = shown.revision.updated_at.later_by(Duration::from_micros(1));
    let shown = [Arc::new(shown)];
    let mut rig = Rig::unloaded(Instant::now(), EARLY.parse().unwrap());
    rig.selection = SourceSelection::new(rules(), GRACE, rig.now).on_memory_bus();
    rig.load(&shown, true);
    rig.read(update_of("a", 1));
    assert_eq!(rig.shown(), open(&update_of("a", 1)));

    let mut rig = Rig::starting(&[]);
    rig.wait(60);
    rig.selection.sweep(SECOND, rig.now);
    rig.load(&shown, true);
    rig.read(update_of("a", 1));
    assert_eq!(rig.shown(), open(&update_of("a", 1)));
}

/// How far the clocks of the sources are ahead of the platform's, in seconds.
const CLOCKS: [i64; SENDERS.len()] = [3, -5, 0];
/// The second of the updates at which the tests start.
const START: i64 = 1_000;

/// An update has the time of its source, or is late.
fn any_step() -> impl Strategy<Value = SourceStep> {
    any_source_step(-2..1)
}

/// A process that selects from the beginning, and one that takes over from it.
struct Succession {
    first: Rig,
    second: Rig,
    log: Vec<SourceUpdate>,
}

impl Succession {
    /// Both follow the reports from the beginning.
    fn new() -> Succession {
        let (now, clock) = (Instant::now(), update_of("a", START).revision.updated_at);
        let mut succession = Succession {
            first: Rig::starting_at(now, clock, &[]),
            second: Rig::unloaded(now, clock),
            log: Vec::new(),
        };
        for sender in SENDERS {
            succession.both(|rig| rig.report(sender.name(), SourceState::Live));
        }
        succession.both(|rig| rig.wait(60));
        succession
    }

    fn both(&mut self, act: impl Fn(&mut Rig)) {
        act(&mut self.first);
        act(&mut self.second);
    }

    /// Takes a step. Returns the record to read, if there is one.
    fn step(&mut self, step: &SourceStep, millis: u64) -> Option<SourceUpdate> {
        self.both(|rig| {
            rig.now += Duration::from_millis(millis);
            rig.observe_while(false);
            rig.report_step(step);
        });
        let passed = (self.first.now - self.first.started).as_secs() as i64;
        let time = |from: Sender, ahead| START + passed + CLOCKS[from as usize] + ahead;
        let (update, standing) = step.record(&self.log, time)?;
        let heard = self.first.heard(update, standing);
        self.log.push(heard.clone());
        Some(heard)
    }

    /// The second process takes over. The last records of the log are not committed.
    fn hand_over(&mut self, uncommitted: usize) {
        let last = self.first.published.last().cloned();
        self.second.load(last.as_slice(), true);
        let committed = self.log.len().saturating_sub(uncommitted);
        let (committed, rest) = self.log.split_at(committed);
        committed
            .iter()
            .for_each(|heard| self.second.replay(heard.clone()));
        rest.iter()
            .for_each(|heard| self.second.receive(heard.clone()));
    }
}

proptest! {
    /// Cut anywhere, with any part read again: a process that takes over publishes what the
    /// first one would have published, with the same revisions, and repeats nothing else.
    #[test]
    fn takeover_changes_no_update(
        before in proptest::collection::vec((any_step(), 1u64..500), 0..30),
        uncommitted in 0usize..6,
        after in proptest::collection::vec((any_step(), 1u64..500), 0..20),
    ) {
        let mut succession = Succession::new();
        for (step, millis) in &before {
            if let Some(heard) = succession.step(step, *millis) {
                succession.first.receive(heard);
            }
        }
        let published = succession.first.published.len();
        succession.hand_over(uncommitted);
        succession.both(|rig| rig.wait(3));
        for (step, millis) in &after {
            if let Some(heard) = succession.step(step, *millis) {
                succession.both(|rig| rig.receive(heard.clone()));
            }
        }
        let Succession { first, second, .. } = succession;
        let loaded = usize::from(published > 0);
        prop_assert_eq!(&second.published[loaded..], &first.published[published..]);
    }

    /// The same if records wait that the first process did not handle: at the end both show the same.
    #[test]
    fn takeover_with_backlog_ends_alike(
        steps in proptest::collection::vec((any_step(), 1u64..500), 1..40),
        cut in 0usize..40,
        uncommitted in 0usize..6,
    ) {
        let mut succession = Succession::new();
        let mut waiting = Vec::new();
        for (index, (step, millis)) in steps.iter().enumerate() {
            if index == cut {
                succession.hand_over(uncommitted);
            }
            let Some(heard) = succession.step(step, *millis) else { continue };
            succession.first.receive(heard.clone());
            if index >= cut {
                waiting.push(heard);
            }
        }
        if steps.len() <= cut {
            succession.hand_over(uncommitted);
        }
        for heard in waiting {
            succession.second.receive(heard);
        }
        for sender in SENDERS {
            succession.both(|rig| rig.report(sender.name(), SourceState::Live));
        }
        succession.both(|rig| rig.wait(40));
        for (sender, time) in SENDERS.into_iter().zip(2 * START..) {
            succession.both(|rig| rig.read(update_of(sender.name(), time)));
        }
        let Succession { first, second, .. } = succession;
        prop_assert_eq!(first.shown(), second.shown());
        let last = update_of("a", 2 * START);
        prop_assert_eq!(first.shown(), open(&last));
    }
}
