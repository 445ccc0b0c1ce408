//! Sources without current reports.

use proptest::prelude::*;

use super::*;

/// The reports of all sources do not arrive for a while: the bus is busy, or the reader is late.
#[test]
fn interruption_of_reports_changes_nothing() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.read(update_of("b", 2));
    rig.silence(&["a", "b"]);
    rig.wait(600);
    rig.report("b", SourceState::Live);
    rig.wait(1);
    rig.report("a", SourceState::Live);
    rig.wait(60);
    assert_eq!(rig.shown(), open(&update_of("a", 1)));
    assert_eq!(rig.published.len(), 1);
}

/// Updates of a silent owner are published. The readers of prices suspend the market.
#[test]
fn updates_of_silent_owner_are_published() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.silence(&["a", "b"]);
    rig.read(update_of("a", 2));
    assert_eq!(rig.shown(), open(&update_of("a", 2)));
}

/// F1, if the process that reports the owner ends.
#[test]
fn silent_owner_is_followed_by_live_source() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.read(update_of("b", 2));
    rig.silence(&["a"]);
    assert_eq!(rig.shown(), open(&update_of("b", 2)));
    assert_eq!(rig.count(&Effect::Moved(FailoverCause::Lost)), 1);
    // The same reporter goes on: what it has passed on before counts.
    rig.report("a", SourceState::Live);
    rig.wait(29);
    assert_eq!(rig.shown(), open(&update_of("b", 2)));
    rig.wait(1);
    assert_eq!(rig.shown(), open(&update_of("a", 1)));
}

/// A source whose own reports are overdue, or have only just arrived again, may be as silent as the
/// owner.
#[test]
fn source_off_time_does_not_follow_silent_owner() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.read(update_of("b", 2));
    rig.reported.get_mut(&source("b")).unwrap().is_overdue = true;
    rig.observe();
    rig.silence(&["a"]);
    assert_eq!(rig.shown(), open(&update_of("a", 1)));
    rig.report("b", SourceState::Live);
    assert_eq!(rig.shown(), open(&update_of("a", 1)));
    rig.wait(2);
    assert_eq!(rig.shown(), open(&update_of("b", 2)));
}

/// Nobody knows what was missed before another process reports the source.
#[test]
fn states_do_not_count_for_another_reporter() {
    for is_silent in [false, true] {
        let mut rig = Rig::new();
        rig.read(update_of("a", 1));
        if is_silent {
            rig.silence(&["a", "b"]);
        }
        rig.replace_reporter("a");
        assert_eq!(rig.shown().1, MarketStatus::Suspended);
        rig.read(update_of("a", 1));
        assert_eq!(rig.shown(), open(&update_of("a", 1)));
    }
}

/// The selector reads the latest reports only, and may miss that a source was not live for a moment.
#[test]
fn missed_loss_shows_in_live_period() {
    let mut rig = Rig::new();
    rig.read(update_of("a", 1));
    rig.reported
        .get_mut(&source("a"))
        .unwrap()
        .live_periods
        .clear();
    rig.report("a", SourceState::Live);
    assert_eq!(rig.shown().1, MarketStatus::Suspended);
}

#[derive(Clone, Debug)]
enum Step {
    /// No report arrives for this many seconds; then those of the sources arrive again, in this
    /// order.
    Interruption(u32, [&'static str; 3]),
    /// The owner sends an update.
    Update,
    Wait(u32),
}

fn any_step() -> impl Strategy<Value = Step> {
    let order = Just(["a", "b", "c"]).prop_shuffle();
    prop_oneof![
        (0u32..120, order).prop_map(|(seconds, order)| Step::Interruption(seconds, order)),
        Just(Step::Update),
        (1u32..40).prop_map(Step::Wait),
    ]
}

proptest! {
    /// However often and long the reports of all sources are interrupted: the owner stays, and
    /// exactly its updates are published.
    #[test]
    fn interruptions_change_nothing(steps in proptest::collection::vec(any_step(), 1..30)) {
        let mut rig = Rig::new();
        rig.report("c", SourceState::Live);
        let mut sent = vec![update_of("a", 1)];
        rig.read(update_of("a", 1));
        rig.read(update_of("b", 1));
        rig.read(update_of("c", 1));
        for step in steps {
            match step {
                Step::Interruption(seconds, order) => {
                    // They are found to be silent one after the other.
                    for reports in rig.reported.values_mut() {
                        reports.is_overdue = true;
                    }
                    for name in order {
                        rig.silence(&[name]);
                        rig.pass(SECOND / 4);
                    }
                    rig.wait(seconds);
                    for name in order {
                        rig.report(name, SourceState::Live);
                        rig.pass(SECOND / 2);
                    }
                }
                Step::Update => {
                    sent.push(update_of("a", 1 + sent.len() as i64));
                    rig.read(sent.last().unwrap().clone());
                }
                Step::Wait(seconds) => rig.wait(seconds),
            }
        }
        let published: Vec<_> = rig.published.iter().map(|one| (**one).clone()).collect();
        prop_assert_eq!(published, sent);
    }
}
