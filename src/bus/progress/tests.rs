use proptest::prelude::*;

use super::*;

fn position(progress: &CommitTracker) -> Vec<(u32, u64)> {
    progress.position().iter().collect()
}

#[test]
fn unfinished_head_holds_only_its_partition() {
    let mut progress = CommitTracker::default();
    let tokens: Vec<_> = (5..9).map(|offset| progress.begin(1, offset)).collect();
    let other = progress.begin(2, 0);
    assert_eq!(
        (position(&progress), progress.ahead()),
        (vec![(1, 5), (2, 0)], 5)
    );
    [tokens[1], tokens[3], other]
        .into_iter()
        .for_each(|token| progress.done(token));
    assert_eq!(
        (position(&progress), progress.ahead()),
        (vec![(1, 5), (2, 1)], 4)
    );
    progress.done(tokens[0]);
    assert_eq!(position(&progress), [(1, 7), (2, 1)]);
    progress.done(tokens[2]);
    assert_eq!(
        (position(&progress), progress.ahead()),
        (vec![(1, 9), (2, 1)], 0)
    );
}

#[test]
fn token_from_before_revocation_is_ignored() {
    let mut progress = CommitTracker::default();
    let before = progress.begin(0, 5);
    progress.forget(&[0, 7]);
    assert_eq!(position(&progress), []);
    // The topic was recreated and the partition assigned again: the offset is now another
    // record.
    let again = progress.begin(0, 5);
    progress.done(before);
    assert_eq!(position(&progress), [(0, 5)]);
    progress.done(again);
    assert_eq!(position(&progress), [(0, 6)]);
}

#[derive(Clone, Debug)]
enum Step {
    Begin {
        partition: u32,
        gap: u64,
    },
    /// Index into all tokens issued, modulo their number.
    Done(usize),
    Forget(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..3_u32, 0..3_u64).prop_map(|(partition, gap)| Step::Begin { partition, gap }),
        5 => any::<usize>().prop_map(Step::Done),
        1 => (0..3_u32).prop_map(Step::Forget),
    ]
}

/// A record of the model: its index, its partition, its offset, and whether it is done. Records
/// of a revoked partition are removed.
type Model = Vec<(usize, u32, u64, bool)>;

proptest! {
    #[test]
    fn tracker_agrees_with_linear_model(steps in proptest::collection::vec(step(), 0..80)) {
        let mut progress = CommitTracker::default();
        let mut model = Model::new();
        let mut tokens = Vec::new();
        let mut ends = [0_u64; 3];
        for step in steps {
            match step {
                Step::Begin { partition, gap } => {
                    let offset = ends[partition as usize] + gap;
                    ends[partition as usize] = offset + 1;
                    model.push((tokens.len(), partition, offset, false));
                    tokens.push(progress.begin(partition, offset));
                }
                Step::Done(place) if !tokens.is_empty() => {
                    let place = place % tokens.len();
                    progress.done(tokens[place]);
                    model.iter_mut().filter(|(token, ..)| *token == place).for_each(|(.., done)| *done = true);
                }
                Step::Done(_) => {}
                Step::Forget(partition) => {
                    progress.forget(&[partition]);
                    model.retain(|(_, of, ..)| *of != partition);
                    // The partition was recreated: offsets start at 0.
                    ends[partition as usize] = 0;
                }
            }
            let mut expected = Vec::new();
            for partition in 0..3 {
                let of: Vec<_> = model.iter().filter(|(_, of, ..)| *of == partition).collect();
                let Some(last) = of.last() else { continue };
                let open = of.iter().find(|(.., done)| !done);
                expected.push((partition, open.map_or(last.2 + 1, |(_, _, offset, _)| *offset)));
            }
            prop_assert_eq!(position(&progress), expected);
        }
    }
}
