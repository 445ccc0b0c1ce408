//! A process that takes over the markets of another one.

use super::*;

/// A restarted process hears the first reports after a moment.
#[test]
fn start_does_not_take_sources_for_lost() {
    let published = [Arc::new(word("a", 1))];
    let mut rig = Rig::starting(&published);
    rig.report("a", SourceState::Stale);
    rig.hear(word("b", 2));
    assert_eq!(rig.shown(), open(&word("a", 1)));
    rig.wait(5);
    assert_eq!(rig.shown(), open(&word("b", 2)));
}

#[test]
fn published_owner_stays_after_restart() {
    // The clock of b is late: its state was published with a later revision than its own.
    let mut shown = word("b", 3);
    shown.revision = word("a", 10).revision;
    let mut rig = Rig::starting(&[Arc::new(shown)]);
    for time in 1..=3 {
        let heard = rig.heard(word("b", time), Standing::Current);
        rig.selection.replay(heard, rig.now);
    }
    rig.wait(1);
    assert_eq!(rig.published.len(), 1, "it is published already");
    rig.hear(word("b", 2));
    assert_eq!(rig.count(&Effect::Dropped(DroppedRecord::Late)), 1);
    rig.hear(word("b", 4));
    assert_eq!(rig.shown(), open(&word("b", 4)));
    assert!(rig.published[1].revision > word("a", 10).revision);
}

/// Without the replay the next state would be unknown until its source speaks again.
#[test]
fn replayed_state_follows_lost_owner() {
    let mut rig = Rig::starting(&[Arc::new(word("a", 2))]);
    for word in [word("b", 1), word("a", 1), word("a", 2)] {
        let heard = rig.heard(word, Standing::Current);
        rig.selection.replay(heard, rig.now);
    }
    rig.report("a", SourceState::Live);
    assert_eq!(rig.published.len(), 1);
    rig.report("a", SourceState::Stale);
    assert_eq!(rig.shown(), open(&word("b", 1)));
}

/// A process takes over partitions while their sources are lost already.
#[test]
fn source_lost_before_replay_is_followed() {
    let mut rig = Rig::starting(&[]);
    rig.report("a", SourceState::Live);
    rig.report("a", SourceState::Stale);
    let event = word("a", 1).event_id;
    let clock = Timestamp::from_micros(0).unwrap();
    let shown = Arc::new(word("a", 2));
    rig.published.push(shown.clone());
    rig.selection.load(&event, 0, [shown], rig.now, clock);
    for word in [word("b", 1), word("a", 2)] {
        let heard = rig.heard(word, Standing::Current);
        rig.selection.replay(heard, rig.now);
    }
    rig.observe();
    assert_eq!(rig.shown(), open(&word("b", 1)));
}

#[test]
fn replayed_hand_over_is_remembered() {
    let shown = Arc::new(suspended(word("a", 2)));
    let mut rig = Rig::starting(std::slice::from_ref(&shown));
    let heard = rig.heard((*shown).clone(), Standing::HandedOver);
    rig.selection.replay(heard, rig.now);
    rig.hear(word("b", 1));
    assert_eq!(rig.shown(), open(&word("b", 1)));
}

/// The suspension of a lost source is kept until its next word, although the open state before it
/// is read again.
#[test]
fn replay_does_not_reopen_withdrawn_market() {
    let mut shown = suspended(word("a", 1));
    shown.revision.updated_at = shown.revision.updated_at.later_by(Duration::from_micros(1));
    let mut rig = Rig::starting(&[Arc::new(shown)]);
    let heard = rig.heard(word("a", 1), Standing::Current);
    rig.selection.replay(heard, rig.now);
    rig.report("a", SourceState::Live);
    rig.wait(60);
    assert_eq!(rig.published.len(), 1);
    rig.hear(word("a", 2));
    assert_eq!(rig.shown(), open(&word("a", 2)));
}

/// More may have been published than was loaded. What replaces it is not before the start.
#[test]
fn new_owner_follows_everything_published_before() {
    let now = Instant::now();
    let clock = word("a", 100).revision.updated_at;
    let lives = SourceLives::new(SECOND, GRACE, now);
    let mut market = MarketSources::restored(Arc::new(word("a", 5)), true, now, clock);
    let heard = SourceUpdate {
        update: Arc::new(word("b", 1)),
        heard_at: now,
        standing: Standing::Current,
    };
    market.receive(heard).unwrap();
    market.lose(&source("a"));
    let decision = market.decide(&rules(), &lives, now);
    let published = decision.publish.unwrap();
    assert_eq!(published.source, source("b"));
    assert_eq!(published.revision.updated_at, clock);
}
