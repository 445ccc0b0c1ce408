//! Checks of the outbox and of cancel requests.

use pretty_assertions::assert_eq;

use super::*;
use crate::domain::trace_parent::TraceParent;

/// Places this many bets; returns their outbox rows.
pub(crate) fn placed(store: &dyn MoneyStore, bets: u128) -> Vec<i64> {
    store.deposit(&order("A", 100_000, "d")).unwrap();
    let place =
        |number| match place_bet(store, &bet("A", bet_id(number), 1), None, &notice("")).unwrap() {
            BetAnswer::Placed { outbox, .. } => outbox.unwrap(),
            other => panic!("{other:?}"),
        };
    (0..bets).map(place).collect()
}

fn ids(rows: Vec<OutboxRow>) -> Vec<i64> {
    rows.into_iter().map(|row| row.id).collect()
}

pub(crate) fn outbox_row_has_one_owner(store: &dyn MoneyStore) {
    assert_eq!(store.outbox_depth(), Ok(OutboxDepth::default()));
    let rows = placed(store, 5);
    assert!(rows.is_sorted());
    assert_eq!(
        store.outbox_depth(),
        Ok(OutboxDepth {
            rows: 5,
            oldest: Some(at(0))
        })
    );
    let take =
        |seconds, until, limit| ids(store.take_outbox(at(seconds), at(until), limit).unwrap());
    assert_eq!(take(4, 9, 10), [0; 0], "still leased to the writer");
    assert_eq!(take(5, 9, 2), rows[..2]);
    assert_eq!(take(5, 9, 10), rows[2..]);
    assert_eq!(take(8, 9, 10), [0; 0]);
    store.published(&rows[1..2]).unwrap();
    store.published(&[]).unwrap();
    store.published(&[rows[1], i64::MAX]).unwrap();
    assert_eq!(
        take(9, 20, 10),
        [rows[0], rows[2], rows[3], rows[4]],
        "the lease has expired"
    );
    store.published(&rows).unwrap();
    assert_eq!(take(99, 100, 10), [0; 0]);
    assert_eq!(store.outbox_depth(), Ok(OutboxDepth::default()));
}

/// Both kinds of records keep their trace, alone and in a batch beside one without.
pub(crate) fn outbox_row_keeps_its_trace(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    store.deposit(&order("B", 1_000, "d")).unwrap();
    let parent = |number: u8| TraceParent {
        trace_id: [number; 16],
        span_id: [7; 8],
        is_sampled: true,
    };
    let traced = |number: u8| OutboxMessage {
        trace: Some(parent(number)),
        ..notice("")
    };
    place_bet(store, &bet("A", bet_id(1), 1), None, &traced(1)).unwrap();
    let placement = |owner: &str, id, notice| BetPlacement {
        bet: bet(owner, bet_id(id), 1),
        source: source(),
        key: None,
        notice,
    };
    let placements = [placement("A", 2, traced(2)), placement("B", 3, notice(""))];
    store.place_bets(&placements).unwrap();
    let decision = |id, notice| DecideBet {
        bet_id: bet_id(id),
        outcome: confirmed(),
        notice,
        at: at(1),
    };
    store
        .decide_bet(bet_id(1), &confirmed(), &traced(4), at(1))
        .unwrap();
    let decisions = [decision(2, traced(5)), decision(3, notice(""))];
    store.decide_bets(&decisions).unwrap();
    let rows = store.take_outbox(at(9), at(10), 10).unwrap();
    let mut traces: Vec<_> = rows.iter().map(|row| row.trace).collect();
    // Rows of one call have no defined order.
    traces.sort_by_key(|trace| trace.map(|it| it.trace_id));
    let expected = [None, None]
        .into_iter()
        .chain([1, 2, 4, 5].map(|number| Some(parent(number))));
    assert_eq!(traces, expected.collect::<Vec<_>>());
}

pub(crate) fn outbox_ids_are_never_reused(store: &dyn MoneyStore) {
    let rows = placed(store, 2);
    store.published(&rows).unwrap();
    let decided = store
        .decide_bet(bet_id(0), &confirmed(), &notice(""), at(1))
        .unwrap();
    let Decided::Now { outbox } = decided else {
        panic!("{decided:?}")
    };
    assert!(outbox > rows[1], "{outbox} {rows:?}");
    // A late repetition for published rows must not remove unpublished ones.
    store.published(&rows).unwrap();
    assert_eq!(store.outbox_depth().unwrap().rows, 1);
}

pub(crate) fn cancel_is_retried_until_done(store: &dyn MoneyStore) {
    placed(store, 3);
    for number in 0..3 {
        store
            .decide_bet(
                bet_id(number),
                &BetOutcome::TimedOut,
                &notice(""),
                at(number as i64),
            )
            .unwrap();
    }
    let take = |seconds, next, limit| -> Vec<_> {
        let mut taken = store.take_cancels(at(seconds), at(next), limit).unwrap();
        taken.sort_by_key(|cancel| cancel.bet_id);
        taken
            .into_iter()
            .map(|cancel| (cancel.bet_id, cancel.attempts))
            .collect()
    };
    assert_eq!(take(0, 50, 10), [(bet_id(0), 1)]);
    assert_eq!(take(9, 60, 1), [(bet_id(1), 1)], "longest waiting first");
    assert_eq!(take(9, 70, 10), [(bet_id(2), 1)]);
    assert_eq!(take(49, 99, 10), []);
    assert_eq!(take(60, 80, 10), [(bet_id(0), 2), (bet_id(1), 2)]);
    for _ in 0..2 {
        store.cancelled(bet_id(0), at(61)).unwrap();
        store.cancelled(bet_id(77), at(61)).unwrap();
        assert_eq!(store.open_cancels(), Ok(2));
    }
    assert_eq!(take(99, 100, 10), [(bet_id(1), 3), (bet_id(2), 2)]);
    store.cancelled(bet_id(1), at(100)).unwrap();
    store.cancelled(bet_id(2), at(100)).unwrap();
    assert_eq!(
        (store.open_cancels(), take(999, 1_000, 10)),
        (Ok(0), vec![])
    );
}
