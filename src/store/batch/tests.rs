use pretty_assertions::assert_eq;

use super::*;
use crate::domain::odds::update::testing::*;

fn positioned(update: crate::domain::odds::update::OddsUpdate, position: u64) -> PositionedUpdate {
    PositionedUpdate {
        trace: None,
        update,
        partition: 0,
        position,
    }
}

#[test]
fn last_applied_update_is_current() {
    let updates = [
        positioned(market_update("A", "1x2", None, 1, 1), 10),
        positioned(market_update("A", "goals", Some("2.5"), 1, 1), 11),
        positioned(market_update("A", "1x2", None, 3, 1), 12),
        positioned(market_update("A", "1x2", None, 2, 1), 13),
        positioned(market_update("B", "1x2", None, 1, 1), 14),
        positioned(market_update("B", "1x2", None, 1, 1), 15),
    ];
    let batch = Batch::of(&updates);
    assert_eq!(
        batch
            .events()
            .iter()
            .map(|event| event.as_str())
            .collect::<Vec<_>>(),
        ["A", "B"]
    );
    assert_eq!(batch.markets().len(), 3);
    let folded = batch.fold(batch.no_heads()).unwrap();
    assert_eq!(
        (folded.applied, folded.current),
        (4, vec![None, Some(12), Some(13), None, Some(15), None])
    );
}

#[test]
fn details_outlast_updates_without_them() {
    let reported = |time, sport: Option<&str>, start| OddsUpdate {
        sport: sport.map(Into::into),
        start_time: Timestamp::from_millis(start).filter(|_| start > 0),
        ..update(1, time, 1)
    };
    let updates = [
        reported(1, Some("tennis"), 7),
        reported(3, Some("soccer"), 0),
        reported(4, None, 0),
        reported(2, Some("late"), 9),
    ];
    let updates = updates.map(|update| positioned(update, 0));
    let batch = Batch::of(&updates);
    let details = batch.fold(batch.no_heads()).unwrap().details;
    assert_eq!(
        details[2],
        Details {
            sport: Some("soccer"),
            start_time: Timestamp::from_millis(7)
        }
    );
}

#[test]
fn stored_heads_are_respected() {
    let updates = [
        positioned(update(1, 5, 1), 0),
        positioned(update(1, 6, 1), 1),
    ];
    let batch = Batch::of(&updates);
    let heads = || Heads {
        last_seqs: vec![1_000],
        revisions: vec![Some(updates[0].update.revision)],
        market_counts: vec![1],
    };
    let folded = batch.fold(heads()).unwrap();
    assert_eq!(
        (folded.applied, folded.current),
        (1, vec![None, Some(1_001)])
    );
}

#[test]
fn market_beyond_limit_is_skipped() {
    let updates = [
        positioned(update(1, 5, 1), 0),
        positioned(market_update("MATCH_001", "new", None, 5, 1), 1),
    ];
    let batch = Batch::of(&updates);
    let heads = |count| Heads {
        last_seqs: vec![0],
        revisions: vec![Some(update(1, 4, 1).revision), None],
        market_counts: vec![count],
    };
    let folded = batch.fold(heads(MAX_MARKETS)).unwrap();
    assert_eq!((folded.applied, folded.current), (1, vec![Some(1), None]));
    assert_eq!(batch.fold(heads(MAX_MARKETS - 1)).unwrap().applied, 2);
}

#[test]
fn oversized_position_is_rejected() {
    for position in [i64::MAX as u64, u64::MAX] {
        let updates = [positioned(update(1, 5, 1), position)];
        let batch = Batch::of(&updates);
        assert!(
            matches!(batch.fold(batch.no_heads()), Err(StoreError::Refused(_))),
            "{position}"
        );
    }
}

/// A market that the store holds with a later revision gets a number after all that were published.
#[test]
fn later_states_get_numbers_after_published_ones() {
    let states = [
        positioned(market_update("A", "1x2", None, 5, 1), 999),
        positioned(market_update("A", "btts", None, 5, 1), 1_004),
    ];
    let heads = |last_seq| Heads {
        last_seqs: vec![last_seq],
        revisions: vec![Some(update(1, 6, 1).revision), None],
        market_counts: vec![1],
    };
    let folded = Batch::of_states(&states).fold(heads(901)).unwrap();
    let raised = 1_005 + LOST_NUMBERS as i64;
    assert_eq!(folded.raised, [(0, raised)], "btts was published with 1005");
    assert_eq!(folded.current, [None, Some(raised + 1)]);
    let ahead = Batch::of_states(&states).fold(heads(1_006)).unwrap();
    assert_eq!(ahead.raised, [], "it has such a number already");
    let updates = Batch::of(&states).fold(heads(901)).unwrap();
    assert_eq!(updates.raised, [], "nothing was published");
}

#[test]
fn equal_state_gets_its_published_number() {
    let states = [positioned(update(1, 5, 1), 999)];
    let heads = |last_seq| Heads {
        last_seqs: vec![last_seq],
        revisions: vec![Some(states[0].update.revision)],
        market_counts: vec![1],
    };
    let batch = Batch::of_states(&states);
    assert_eq!(batch.fold(heads(901)).unwrap().raised, [(0, 1_000)]);
    assert_eq!(batch.fold(heads(1_000)).unwrap().raised, []);
}
