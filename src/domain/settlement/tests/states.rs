//! The state of a leg by the records of its market.

use serde_json::json;

use crate::domain::ids::SelectionId;
use crate::domain::odds::update::Revision;
use crate::domain::settlement::effective::*;
use crate::domain::settlement::market_results::{Inserted, MarketResults};
use crate::domain::settlement::record::{Certainty, RecordKind, ResultRecord, Won};
use crate::domain::settlement::reductions::Reductions;
use crate::domain::settlement::testing::*;

const WON: LegState = LegState::Decided(Decision::Won {
    won: Won::WHOLE,
    reduced: None,
});

fn at_5<'a>(records: impl IntoIterator<Item = &'a ResultRecord>) -> LegState {
    state(&results(records), "1x2", "home", at(5), &rules())
}

fn is_lost(state: &LegState) -> bool {
    matches!(state, LegState::Decided(Decision::Lost { .. }))
}

#[test]
fn later_revision_counts_by_time_then_version() {
    assert_eq!(at_5([]), LegState::Open);
    assert!(is_lost(&at_5(&[home(60, 9, "won"), home(61, 1, "lost")])));
    assert_eq!(at_5(&[home(60, 2, "won"), home(60, 1, "lost")]), WON);
    assert_eq!(
        at_5(&[home(60, 1, "won"), home(60, 2, "undecided")]),
        LegState::Open
    );
}

#[test]
fn rollback_concerns_named_selections() {
    let rollback = |selections| record("rollback_settlement", 61, 1, selections);
    let won = home(60, 1, "won");
    assert_eq!(
        at_5([&won, &rollback(json!({"selections": ["away"]}))]),
        WON
    );
    assert_eq!(
        at_5([&won, &rollback(json!({"selections": ["home"]}))]),
        LegState::Open
    );
    assert_eq!(at_5([&won, &rollback(json!({}))]), LegState::Open);
    assert_eq!(at_5([&won, &rollback(json!({})), &home(62, 1, "won")]), WON);
}

#[test]
fn cancellation_covers_its_window() {
    let cancel = |from, until| record("cancel", 50, 1, json!({"from": from, "until": until}));
    let won = home(60, 1, "won");
    for (from, until, expected) in [
        (Some(at(5)), Some(at(6)), LegState::Cancelled),
        (Some(at(4)), Some(at(5)), WON),
        (Some(at(6)), None, WON),
        (Some(at(5)), None, LegState::Cancelled),
        (None, Some(at(5)), WON),
        (None, Some(at(6)), LegState::Cancelled),
        (None, None, LegState::Cancelled),
    ] {
        assert_eq!(
            at_5([&won, &cancel(from, until)]),
            expected,
            "{from:?} {until:?}"
        );
    }
}

#[test]
fn rollback_of_part_of_window_undoes_that_part() {
    let cancel = record("cancel", 60, 1, json!({}));
    let undo = record(
        "rollback_cancel",
        60,
        2,
        json!({"from": at(10), "until": at(20)}),
    );
    let again = record("cancel", 60, 3, json!({"from": at(15)}));
    let results = results([&again, &undo, &cancel]);
    let state = |second| state(&results, "1x2", "home", at(second), &rules());
    assert_eq!(state(9), LegState::Cancelled);
    assert_eq!(state(10), LegState::Open);
    assert_eq!(state(15), LegState::Cancelled);
    assert_eq!(state(20), LegState::Cancelled);
}

#[test]
fn late_bet_is_void_by_result_that_counts() {
    let until = |second: i64, version, bets_until: i64| {
        let selections = json!([{"id": "home", "result": "won"}]);
        let fields = json!({"selections": selections, "bets_until": at(bets_until)});
        record("settlement", second, version, fields)
    };
    assert_eq!(at_5(&[until(60, 1, 5)]), LegState::LateBet);
    assert_eq!(at_5(&[until(60, 1, 6)]), WON);
    assert_eq!(at_5(&[until(60, 1, 5), until(60, 2, 6)]), WON);
    let rollback = record("rollback_settlement", 61, 1, json!({}));
    assert_eq!(at_5(&[until(60, 1, 5), rollback]), LegState::Open);
}

#[test]
fn scouted_settlement_counts_only_if_set() {
    let scouted = |second, result: &str| {
        let selections = json!([{"id": "home", "result": result}]);
        record(
            "settlement",
            second,
            1,
            json!({"selections": selections, "certainty": "scouted"}),
        )
    };
    let early = SettlementRules {
        settle_on: Certainty::Scouted,
        ..rules()
    };
    let records = [scouted(50, "won")];
    assert_eq!(at_5(&records), LegState::Open);
    assert_eq!(state(&results(&records), "1x2", "home", at(5), &early), WON);
    let records = [home(50, 1, "won"), scouted(60, "lost")];
    assert_eq!(at_5(&records), WON);
    assert!(is_lost(&state(
        &results(&records),
        "1x2",
        "home",
        at(5),
        &early
    )));
}

#[test]
fn untrusted_source_is_kept_and_not_paid() {
    let stranger = by("stranger", home(60, 1, "won"));
    assert_eq!(at_5([&stranger]), LegState::Open);
    let cancelled = by("stranger", record("cancel", 60, 1, json!({})));
    assert_eq!(at_5([&stranger, &cancelled]), LegState::Open);
    let nobody = SettlementRules::default();
    assert_eq!(
        state(
            &results(&[home(60, 1, "won")]),
            "1x2",
            "home",
            at(5),
            &nobody
        ),
        LegState::Open
    );
    let operator = by("operator:ann", home(60, 1, "won"));
    assert_eq!(
        state(&results([&operator]), "1x2", "home", at(5), &nobody),
        WON
    );
}

#[test]
fn same_revision_with_other_contents_is_held() {
    let [won, lost] = ["won", "lost"].map(|result| home(60, 1, result));
    let mut market = MarketResults::default();
    assert_eq!(market.insert(won.clone()), Inserted::New);
    assert_eq!(market.insert(won.clone()), Inserted::Known);
    assert_eq!(market.insert(lost.clone()), Inserted::Conflict);
    assert_eq!(market.insert(lost.clone()), Inserted::Known);
    assert_eq!(market.conflicts().count(), 1);
    let key = market.conflicts().next().unwrap();
    assert_eq!(
        (key.revision, key.kind),
        (won.revision, RecordKind::Settlement)
    );
    assert_eq!(
        market,
        results([&lost, &won]),
        "in whatever order they arrive"
    );
    let held = LegState::Held(HeldReason::Conflict(Revision {
        updated_at: at(60),
        version: 1,
    }));
    assert_eq!(at_5([&won, &lost]), held);
    // An earlier record does not count in its place, a later one does.
    assert_eq!(at_5([&won, &lost, &home(59, 1, "won")]), held);
    assert!(is_lost(&at_5([&won, &lost, &home(61, 1, "lost")])));
    assert_eq!(
        at_5([&won, &lost, &by("operator:ann", home(61, 1, "won"))]),
        WON
    );
    assert_eq!(
        state(&results([&won, &lost]), "1x2", "away", at(5), &rules()),
        LegState::Open
    );
}

#[test]
fn conflict_of_certainty_or_kind_is_held() {
    let selections = json!([{"id": "home", "result": "won"}]);
    let scouted = record(
        "settlement",
        60,
        1,
        json!({"selections": selections, "certainty": "scouted"}),
    );
    let rollback = record("rollback_settlement", 60, 1, json!({}));
    let won = home(60, 1, "won");
    assert!(matches!(
        at_5([&won, &scouted]),
        LegState::Held(HeldReason::Conflict(_))
    ));
    assert!(matches!(
        at_5([&won, &rollback]),
        LegState::Held(HeldReason::Conflict(_))
    ));
}

#[test]
fn conflicting_cancellation_is_held_within_either_window() {
    let cancel = |until| record("cancel", 60, 1, json!({"until": until}));
    let market = results(&[cancel(at(5)), cancel(at(10)), home(50, 1, "won")]);
    let state = |second| state(&market, "1x2", "home", at(second), &rules());
    assert!(matches!(state(4), LegState::Held(HeldReason::Conflict(_))));
    assert!(matches!(state(9), LegState::Held(HeldReason::Conflict(_))));
    assert_eq!(state(10), WON);
    let undo = record("rollback_cancel", 60, 1, json!({}));
    assert_eq!(
        at_5(&[record("cancel", 60, 1, json!({})), undo]),
        LegState::Held(HeldReason::Disagreement)
    );
}

#[test]
fn trusted_sources_that_disagree_are_held() {
    let first = home(60, 1, "won");
    let second = |result| by("native-2", home(61, 1, result));
    assert_eq!(at_5([&first, &second("won")]), WON);
    let held = LegState::Held(HeldReason::Disagreement);
    assert_eq!(at_5([&first, &second("lost")]), held);
    assert_eq!(at_5([&first, &second("void")]), held);
    assert_eq!(at_5([&first, &second("undecided")]), WON);
    let rollback = by("native-2", record("rollback_settlement", 62, 1, json!({})));
    assert_eq!(
        at_5([&first, &second("lost"), &rollback]),
        WON,
        "it said so no more"
    );
}

#[test]
fn operator_overrides_earlier_records_only() {
    let operator = |second, result| by("operator:ann", home(second, 1, result));
    let disagreeing = [home(60, 1, "won"), by("native-2", home(60, 1, "lost"))];
    let with = |record| {
        let [first, second] = disagreeing.clone();
        at_5(&[first, second, record])
    };
    assert_eq!(with(operator(60, "won")), WON);
    assert!(is_lost(&with(operator(70, "lost"))));
    assert_eq!(
        with(operator(59, "won")),
        LegState::Held(HeldReason::Disagreement)
    );
    let rollback = by(
        "operator:ann",
        record("rollback_settlement", 70, 1, json!({})),
    );
    assert_eq!(with(rollback), LegState::Open);
    // A source that says something else afterwards is for the operator to judge.
    let records = [operator(70, "won"), home(80, 1, "lost")];
    assert_eq!(at_5(&records), LegState::Held(HeldReason::Disagreement));
    assert_eq!(at_5(&[operator(70, "won"), home(80, 1, "won")]), WON);
    let other = by("operator:bob", home(71, 1, "lost"));
    assert!(is_lost(&at_5(&[operator(70, "won"), other])));
}

#[test]
fn disagreement_about_removal_holds_reduced_bets() {
    let removed = |reduction: f64| {
        let removed =
            json!({"id": "away", "result": "void", "reduction": reduction, "removed_at": at(10)});
        settlement(60, 1, json!([{"id": "home", "result": "won"}, removed]))
    };
    let records = [removed(10.0), by("native-2", removed(20.0))];
    let with = |selection, reductions| {
        let rules = SettlementRules {
            reductions,
            ..rules()
        };
        state(&results(&records), "win", selection, at(5), &rules)
    };
    let held = LegState::Held(HeldReason::Disagreement);
    assert_eq!(with("home", Reductions::Exchange), held);
    assert_eq!(with("home", Reductions::None), WON);
    assert_eq!(
        with("away", Reductions::Exchange),
        LegState::Decided(Decision::Void)
    );
}

#[test]
fn selection_without_result_is_missing_once_market_is_settled() {
    let [home_id, away] = ["home", "away"].map(|id| SelectionId::new(id).unwrap());
    let missing = |records: &[ResultRecord]| {
        let found = results(records);
        let found = found.missing_selections([&home_id, &away], &rules());
        found.into_iter().cloned().collect::<Vec<_>>()
    };
    assert_eq!(missing(&[]), []);
    assert_eq!(
        missing(&[home(60, 1, "void")]),
        [],
        "a removal settles no market"
    );
    assert_eq!(missing(&[home(60, 1, "won")]), std::slice::from_ref(&away));
    let rollback = record("rollback_settlement", 61, 1, json!({}));
    assert_eq!(missing(&[home(60, 1, "won"), rollback]), []);
    let named = settlement(61, 1, json!([{"id": "away", "result": "undecided"}]));
    assert_eq!(missing(&[home(60, 1, "won"), named]), []);
}
