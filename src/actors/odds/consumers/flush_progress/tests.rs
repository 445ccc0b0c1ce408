use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn position(partition: u32, next: u64) -> Position {
    let mut position = Position::default();
    position.advance(partition, next);
    position
}

#[test]
fn position_is_committed_after_confirmation() {
    let mut progress = FlushProgress::default();
    assert!(!progress.begin() && progress.is_complete());
    progress.applied(&position(0, 5));
    assert!(progress.begin());
    progress.applied(&position(0, 9));
    assert!(!progress.begin(), "one flush at a time");
    assert_eq!(progress.confirmed(), Some(position(0, 5)));
    assert!(!progress.is_complete() && progress.begin());
    assert_eq!(progress.confirmed(), Some(position(0, 9)));
    assert!(progress.is_complete());
}

#[test]
fn failed_flush_is_repeated() {
    let mut progress = FlushProgress::default();
    progress.applied(&position(0, 5));
    assert!(progress.begin());
    progress.failed();
    assert!(progress.begin());
    assert_eq!(progress.confirmed(), Some(position(0, 5)));
}

#[derive(Clone, Debug)]
enum Step {
    Applied(u32, u64),
    Begin,
    Confirmed,
    Failed,
    Forget(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u32, 1..9_u64).prop_map(|(partition, count)| Step::Applied(partition, count)),
        Just(Step::Begin),
        Just(Step::Confirmed),
        Just(Step::Failed),
        (0..3_u32).prop_map(Step::Forget),
    ]
}

proptest! {
    /// Only what was applied before the start of a confirmed flush is committed, nothing of a
    /// revoked partition, and in the end everything.
    #[test]
    fn commits_are_applied_and_flushed(steps in prop::collection::vec(step(), 0..40)) {
        let mut progress = FlushProgress::default();
        let mut applied = BTreeMap::<u32, u64>::new();
        let mut flushable = BTreeMap::<u32, u64>::new();
        let mut committed = BTreeMap::<u32, u64>::new();
        for step in steps {
            match step {
                Step::Applied(partition, count) => {
                    let next = applied.entry(partition).or_default();
                    *next += count;
                    progress.applied(&position(partition, *next));
                }
                Step::Begin => {
                    if progress.begin() {
                        flushable = applied.clone();
                    }
                }
                Step::Confirmed => {
                    for (partition, next) in progress.confirmed().iter().flat_map(Position::iter) {
                        prop_assert!(flushable.get(&partition).is_some_and(|most| next <= *most));
                        committed.insert(partition, next);
                    }
                }
                Step::Failed => progress.failed(),
                Step::Forget(partition) => {
                    progress.forget(&[partition]);
                    applied.remove(&partition);
                    flushable.remove(&partition);
                    committed.remove(&partition);
                }
            }
        }
        while !progress.is_complete() {
            progress.begin();
            committed.extend(progress.confirmed().iter().flat_map(Position::iter));
        }
        prop_assert_eq!(committed, applied);
    }
}
