//! Examples of a user's balances: deposit 5000, bet 1000 at 2.345, then some steps.

use serde_json::json;

use super::*;

/// Second of the tests' hour at which all bets are placed.
pub(crate) const PLACED_AT: i64 = 5;

/// A step of an example.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Confirm,
    Reject,
    Result(ResultRecord),
    Deposit(i64),
    Withdraw(i64),
    /// A bet on another market, which wins.
    OtherBetWins(i64, &'static str),
}

use Step::{Confirm, Deposit, OtherBetWins, Reject, Withdraw};

fn won(version: i64) -> Step {
    Step::Result(home(60, version, "won"))
}

fn lost(version: i64) -> Step {
    Step::Result(home(60, version, "lost"))
}

fn other(kind: &str, version: i64, fields: serde_json::Value) -> Step {
    Step::Result(record(kind, 60, version, fields))
}

fn rollback(version: i64) -> Step {
    other("rollback_settlement", version, json!({}))
}

fn cancel(version: i64) -> Step {
    other("cancel", version, json!({}))
}

/// The result of the other bet.
pub(crate) fn other_bet_wins() -> ResultRecord {
    let selections = json!([{"id": "home", "result": "won"}]);
    let fields = json!({"market": "other", "selections": selections});
    record("settlement", 60, 1, fields)
}

fn l10() -> Vec<Step> {
    vec![Confirm, won(1), Withdraw(6_000), lost(2)]
}

fn l11() -> Vec<Step> {
    [l10(), vec![Deposit(500), OtherBetWins(500, "3")]].concat()
}

fn scouted_lost(version: i64) -> Step {
    let selections = json!([{"id": "home", "result": "lost"}]);
    other(
        "settlement",
        version,
        json!({"selections": selections, "certainty": "scouted"}),
    )
}

fn half_lost() -> Step {
    let selections = json!([{"id": "home", "result": "lost", "void_factor": 0.5}]);
    other("settlement", 1, json!({"selections": selections}))
}

fn won_late() -> Step {
    let selections = json!([{"id": "home", "result": "won"}]);
    other(
        "settlement",
        1,
        json!({"selections": selections, "bets_until": at(PLACED_AT)}),
    )
}

fn earlier_cancel() -> Step {
    other("cancel", 1, json!({"until": at(PLACED_AT)}))
}

/// Name, steps, and the balances at the end: available, reserved, owed, stakes, payouts.
pub(crate) type Example = (&'static str, Vec<Step>, [i64; 5]);

/// The examples.
#[rustfmt::skip]
pub(crate) fn examples() -> Vec<Example> {
    vec![
        ("l0_placed", vec![], [4000, 1000, 0, 0, 0]),
        ("l0_confirmed", vec![Confirm], [4000, 0, 0, 1000, 0]),
        ("l1", vec![Confirm, won(1)], [6345, 0, 0, 0, -1345]),
        ("l2", vec![Confirm, won(1), rollback(2)], [4000, 0, 0, 1000, 0]),
        ("l3", vec![Confirm, won(1), rollback(2), lost(3)], [4000, 0, 0, 0, 1000]),
        ("l4", vec![Confirm, won(1), lost(2)], [4000, 0, 0, 0, 1000]),
        ("l5", vec![Confirm, won(1), cancel(2)], [5000, 0, 0, 0, 0]),
        ("l6", vec![Confirm, cancel(1)], [5000, 0, 0, 0, 0]),
        ("l7_cancelled", vec![Confirm, cancel(1), won(2)], [5000, 0, 0, 0, 0]),
        ("l7", vec![Confirm, cancel(1), won(2), other("rollback_cancel", 3, json!({}))], [6345, 0, 0, 0, -1345]),
        ("l8", vec![Confirm, won(1), won(1), won(1)], [6345, 0, 0, 0, -1345]),
        ("l9", vec![Confirm, rollback(2), won(1)], [4000, 0, 0, 1000, 0]),
        ("l10", l10(), [0, 0, 2000, 0, 1000]),
        ("l11", l11(), [0, 0, 500, 0, 0]),
        ("l12", [l11(), vec![won(3)]].concat(), [1845, 0, 0, 0, -2345]),
        ("l13", vec![won(1), Reject], [5000, 0, 0, 0, 0]),
        ("l14", vec![won(1), Confirm], [6345, 0, 0, 0, -1345]),
        ("l15", vec![Confirm, half_lost()], [4500, 0, 0, 0, 500]),
        ("l16", vec![Confirm, earlier_cancel(), won(2)], [6345, 0, 0, 0, -1345]),
        ("l17", vec![Confirm, won(1), scouted_lost(2)], [6345, 0, 0, 0, -1345]),
        ("l18", vec![Confirm, won_late()], [5000, 0, 0, 0, 0]),
    ]
}
