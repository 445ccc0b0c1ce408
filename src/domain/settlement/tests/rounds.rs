//! Rounds: the results of a market that is played again under the same event id.

use proptest::prelude::*;
use serde_json::json;

use crate::domain::ids::SelectionId;
use crate::domain::settlement::effective::*;
use crate::domain::settlement::market_results::{Inserted, MarketResults};
use crate::domain::settlement::record::{Certainty, RecordContent, ResultRecord, Won};
use crate::domain::settlement::reductions::Reductions;
use crate::domain::settlement::testing::*;

const WON: LegState = LegState::Decided(Decision::Won {
    won: Won::WHOLE,
    reduced: None,
});

/// A settlement of `home` in the round from second `from`, whose result could be known at `until`.
fn round(
    second: i64,
    version: i64,
    from: Option<i64>,
    until: Option<i64>,
    result: &str,
) -> ResultRecord {
    let fields = json!({
        "selections": [{"id": "home", "result": result}],
        "bets_from": from.map(at), "bets_until": until.map(at),
    });
    record("settlement", second, version, fields)
}

fn opening(second: i64, from: i64) -> ResultRecord {
    round(second, 1, Some(from), None, "undecided")
}

fn rollback(second: i64, from: Option<i64>) -> ResultRecord {
    record(
        "rollback_settlement",
        second,
        1,
        json!({"bets_from": from.map(at)}),
    )
}

fn states<'a>(
    records: impl IntoIterator<Item = &'a ResultRecord>,
    seconds: [i64; 3],
) -> [LegState; 3] {
    let results = results(records);
    seconds.map(|second| state(&results, "1x2", "home", at(second), &rules()))
}

fn is_lost(state: &LegState) -> bool {
    matches!(state, LegState::Decided(Decision::Lost { .. }))
}

/// Three rounds, from seconds 0, 20 and 40: the first one without a start, as a source sends that
/// plays no rounds yet.
fn three_rounds() -> [ResultRecord; 5] {
    [
        round(10, 1, None, Some(10), "won"),
        opening(11, 20),
        round(30, 1, Some(20), Some(30), "lost"),
        opening(31, 40),
        round(50, 1, Some(40), Some(50), "won"),
    ]
}

#[test]
fn each_round_has_its_own_result() {
    let rounds = three_rounds();
    let after = |count: usize| states(&rounds[..count], [5, 25, 45]);
    assert_eq!(after(0), [LegState::Open, LegState::Open, LegState::Open]);
    assert_eq!(
        after(1),
        [WON, LegState::LateBet, LegState::LateBet],
        "no round is open"
    );
    assert_eq!(after(2), [WON, LegState::Open, LegState::Open]);
    let [first, second, third] = after(3);
    assert_eq!((first, third), (WON, LegState::LateBet));
    assert!(is_lost(&second));
    let [first, second, third] = after(4);
    assert_eq!((first, third), (WON, LegState::Open));
    assert!(is_lost(&second));
    let [first, second, third] = after(5);
    assert_eq!((first, third), (WON, WON));
    assert!(is_lost(&second));
}

#[test]
fn round_starts_with_its_first_bet_and_ends_with_next_start() {
    let rounds = three_rounds();
    assert_eq!(
        states(&rounds, [9, 10, 19]),
        [WON, LegState::LateBet, LegState::LateBet]
    );
    let [start, late, last] = states(&rounds, [20, 30, 39]);
    assert!(is_lost(&start));
    assert_eq!([late, last], [LegState::LateBet, LegState::LateBet]);
    let results = results(&rounds);
    let starts = [0, 20, 39, 40, 99].map(|second| results.round_of(at(second), &rules()));
    assert_eq!(
        starts,
        [None, Some(at(20)), Some(at(20)), Some(at(40)), Some(at(40))]
    );
}

/// A later record of an earlier round is a correction of that round alone.
#[test]
fn correction_and_rollback_stay_within_round() {
    let rounds = three_rounds();
    let with = |record: ResultRecord| {
        let records: Vec<_> = rounds.iter().cloned().chain([record]).collect();
        states(&records, [5, 25, 45])
    };
    assert_eq!(
        with(round(60, 1, Some(20), Some(30), "won")),
        [WON, WON, WON]
    );
    assert_eq!(with(rollback(60, Some(20))), [WON, LegState::Open, WON]);
    let [first, second, third] = with(rollback(60, None));
    assert_eq!((first, third), (LegState::Open, WON));
    assert!(is_lost(&second));
    let [first, second, third] = with(rollback(60, Some(40)));
    assert_eq!((first, third), (WON, LegState::Open));
    assert!(is_lost(&second));
}

#[test]
fn conflict_holds_bets_of_its_rounds_only() {
    let is_held = |state: &LegState| matches!(state, LegState::Held(HeldReason::Conflict(_)));
    let conflict = [
        round(10, 1, None, None, "won"),
        round(30, 1, Some(20), None, "won"),
        round(30, 1, Some(20), None, "lost"),
        opening(31, 40),
    ];
    let [first, second, third] = states(&conflict, [5, 25, 45]);
    assert_eq!((first, third), (WON, LegState::Open));
    assert!(is_held(&second));
    // The same revision with another start concerns the bets of both rounds.
    let conflict = [
        round(10, 1, None, None, "won"),
        round(30, 1, Some(20), None, "won"),
        round(30, 1, Some(40), None, "won"),
    ];
    let [first, second, third] = states(&conflict, [5, 25, 45]);
    assert_eq!(first, WON);
    assert!(is_held(&second) && is_held(&third));
}

/// Only what counts opens a round: not a record of an untrusted source, nor one that is not certain
/// enough.
#[test]
fn round_of_uncounted_record_does_not_count() {
    let won = round(10, 1, None, None, "won");
    let stranger = by("stranger", opening(11, 20));
    let mut scouted = opening(12, 20);
    if let RecordContent::Settlement(settlement) = &mut scouted.content {
        settlement.certainty = Certainty::Scouted;
    }
    assert_eq!(
        states([&won, &stranger, &scouted], [5, 25, 45]),
        [WON, WON, WON]
    );
}

/// Sources of one market name the same rounds: a result without one does not concern their bets.
#[test]
fn sources_are_compared_within_round() {
    let records = [opening(11, 20), round(30, 1, Some(20), None, "won")];
    let with = |record: ResultRecord| {
        let [first, second] = records.clone();
        states(&[first, second, record], [5, 25, 45])
    };
    let held = LegState::Held(HeldReason::Disagreement);
    let other = |from, result| by("native-2", round(31, 1, from, None, result));
    assert_eq!(with(other(Some(20), "won")), [LegState::Open, WON, WON]);
    assert_eq!(
        with(other(Some(20), "void")),
        [LegState::Open, held.clone(), held]
    );
    assert_eq!(with(other(None, "won")), [WON, WON, WON]);
    let operator = |from| by("operator:ann", round(40, 1, from, None, "lost"));
    let [first, second, third] = with(operator(Some(20)));
    assert_eq!(first, LegState::Open);
    assert!(is_lost(&second) && is_lost(&third));
    let [first, second, third] = with(operator(None));
    assert!(is_lost(&first));
    assert_eq!([second, third], [WON, WON]);
}

#[test]
fn cancellation_is_independent_of_rounds() {
    let cancel = record("cancel", 60, 1, json!({"from": at(20), "until": at(40)}));
    let mut records = three_rounds().to_vec();
    records.push(cancel);
    assert_eq!(
        states(&records, [5, 25, 45]),
        [WON, LegState::Cancelled, WON]
    );
}

#[test]
fn removal_reduces_bets_of_its_round_only() {
    let settled = |second, from: i64, away| {
        let selections = json!([{"id": "home", "result": "won"}, away]);
        record(
            "settlement",
            second,
            1,
            json!({"selections": selections, "bets_from": at(from)}),
        )
    };
    let removed = json!({"id": "away", "result": "void", "reduction": 10, "removed_at": at(35)});
    let records = [
        settled(36, 0, removed),
        settled(60, 40, json!({"id": "away", "result": "lost"})),
    ];
    let rules = SettlementRules {
        reductions: Reductions::Rule4,
        ..rules()
    };
    let reductions = |records: &[ResultRecord], second| match state(
        &results(records),
        "1x2",
        "home",
        at(second),
        &rules,
    ) {
        LegState::Decided(Decision::Won { reduced, .. }) => reduced.unwrap().1.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(reductions(&records, 5), 1);
    assert_eq!(reductions(&records, 36), 0, "removed before the bet");
    // The removal is later than the bet, but belongs to another round.
    let late = json!({"id": "away", "result": "void", "reduction": 10, "removed_at": at(99)});
    let records = [
        settled(36, 0, late),
        settled(60, 40, json!({"id": "away", "result": "lost"})),
    ];
    assert_eq!(reductions(&records, 5), 1);
    assert_eq!(reductions(&records, 45), 0);
}

#[test]
fn selection_is_missing_in_the_round_that_is_settled() {
    let [home_id, away] = ["home", "away"].map(|id| SelectionId::new(id).unwrap());
    let missing = |records: &[ResultRecord]| {
        let found = results(records);
        let found = found.missing_selections([&home_id, &away], &rules());
        found.into_iter().cloned().collect::<Vec<_>>()
    };
    let both = |second, from: i64| {
        let selections = json!([{"id": "home", "result": "won"}, {"id": "away", "result": "lost"}]);
        record(
            "settlement",
            second,
            1,
            json!({"selections": selections, "bets_from": at(from)}),
        )
    };
    assert_eq!(missing(&[both(10, 0), opening(11, 20)]), []);
    let only_home = round(30, 1, Some(20), None, "won");
    let settled = [both(10, 0), opening(11, 20), only_home];
    assert_eq!(missing(&settled), std::slice::from_ref(&away));
    let later = [settled.to_vec(), vec![opening(31, 40)]].concat();
    assert_eq!(
        missing(&later),
        std::slice::from_ref(&away),
        "in an earlier round"
    );
    let corrected = [later, vec![both(35, 20)]].concat();
    assert_eq!(missing(&corrected), []);
}

fn any_round_record() -> impl Strategy<Value = ResultRecord> {
    let results = prop_oneof![Just("won"), Just("lost"), Just("void"), Just("undecided")];
    let starts = prop_oneof![Just(None), Just(Some(0)), Just(Some(10)), Just(Some(20))];
    let fields = (
        starts,
        results,
        proptest::option::of(21_i64..30),
        any::<bool>(),
    );
    (fields, 50_i64..54, 1_i64..4).prop_map(
        |((from, result, until, is_rollback), second, version)| {
            if is_rollback {
                let fields = json!({"bets_from": from.map(at)});
                record("rollback_settlement", second, version, fields)
            } else {
                round(second, version, from, until, result)
            }
        },
    )
}

proptest! {
    #[test]
    fn order_of_records_changes_no_round(
        (ordered, shuffled) in proptest::collection::vec(any_round_record(), 1..10).prop_flat_map(|records| {
            let twice = [records.clone(), records.clone()].concat();
            (Just(records), Just(twice).prop_shuffle())
        }),
        placed_at in 0_i64..35,
    ) {
        let of = |records: &[ResultRecord]| state(&results(records), "1x2", "home", at(placed_at), &rules());
        prop_assert_eq!(of(&ordered), of(&shuffled));
    }

    /// What is said about a round changes no bet of another one.
    #[test]
    fn record_of_later_round_changes_no_earlier_bet(
        records in proptest::collection::vec(any_round_record(), 0..10),
        later in any_round_record(),
        placed_at in 0_i64..35,
    ) {
        let leg = |market: &MarketResults| state(market, "1x2", "home", at(placed_at), &rules());
        let mut market = results(&records);
        let (before, round) = (leg(&market), market.round_of(at(placed_at), &rules()));
        let is_conflict = market.insert(later.clone()) == Inserted::Conflict;
        let starts = later.content.bets_from();
        let concerns = starts == round || (starts > round && starts <= Some(at(placed_at)));
        prop_assert!(concerns || is_conflict || leg(&market) == before);
    }
}
