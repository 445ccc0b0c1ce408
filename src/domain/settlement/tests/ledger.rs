//! Transfers of one user: deposit 5000, bet 1000 at 2.345 unless a step says otherwise.

use rstest::rstest;
use serde_json::json;

use crate::domain::settlement::effective::HeldReason;
use crate::domain::settlement::payout::{Entitlement, SettledAs};
use crate::domain::settlement::postings::*;
use crate::domain::settlement::record::ResultRecord;
use crate::domain::settlement::testing::*;
use crate::domain::wallet::ledger::TransferKind;

#[derive(Clone)]
enum Step {
    Confirm,
    Reject,
    Result(ResultRecord),
    Deposit(i64),
    Withdraw(i64),
    /// A bet on another market, which wins.
    OtherBetWins(i64, &'static str),
}

use Step::{Confirm, Deposit, OtherBetWins, Reject, Withdraw};

const PLACED_AT: i64 = 5;

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

fn run(steps: &[Step]) -> House {
    let mut house = House::new(rules());
    house.deposit(5_000);
    assert!(house.place("1x2", 1_000, "2.345", at(PLACED_AT)));
    for step in steps {
        match step.clone() {
            Confirm => house.decide(true),
            Reject => house.decide(false),
            Step::Result(record) => {
                house.receive(record);
            }
            Deposit(cents) => house.deposit(cents),
            Withdraw(cents) => assert!(house.withdraw(cents)),
            OtherBetWins(stake, odds) => {
                assert!(house.place("other", stake, odds, at(PLACED_AT)));
                house.decide(true);
                let selections = json!([{"id": "home", "result": "won"}]);
                let fields = json!({"market": "other", "selections": selections});
                house.receive(record("settlement", 60, 1, fields));
            }
        }
    }
    house
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

#[rstest]
#[case::l0_placed(vec![], [4000, 1000, 0, 0, 0])]
#[case::l0_confirmed(vec![Confirm], [4000, 0, 0, 1000, 0])]
#[case::l1(vec![Confirm, won(1)], [6345, 0, 0, 0, -1345])]
#[case::l2(vec![Confirm, won(1), rollback(2)], [4000, 0, 0, 1000, 0])]
#[case::l3(vec![Confirm, won(1), rollback(2), lost(3)], [4000, 0, 0, 0, 1000])]
#[case::l4(vec![Confirm, won(1), lost(2)], [4000, 0, 0, 0, 1000])]
#[case::l5(vec![Confirm, won(1), cancel(2)], [5000, 0, 0, 0, 0])]
#[case::l6(vec![Confirm, cancel(1)], [5000, 0, 0, 0, 0])]
#[case::l7_cancelled(vec![Confirm, cancel(1), won(2)], [5000, 0, 0, 0, 0])]
#[case::l7(vec![Confirm, cancel(1), won(2), other("rollback_cancel", 3, json!({}))], [6345, 0, 0, 0, -1345])]
#[case::l8(vec![Confirm, won(1), won(1), won(1)], [6345, 0, 0, 0, -1345])]
#[case::l9(vec![Confirm, rollback(2), won(1)], [4000, 0, 0, 1000, 0])]
#[case::l10(l10(), [0, 0, 2000, 0, 1000])]
#[case::l11(l11(), [0, 0, 500, 0, 0])]
#[case::l12([l11(), vec![won(3)]].concat(), [1845, 0, 0, 0, -2345])]
#[case::l13(vec![won(1), Reject], [5000, 0, 0, 0, 0])]
#[case::l14(vec![won(1), Confirm], [6345, 0, 0, 0, -1345])]
#[case::l15(vec![Confirm, half_lost()], [4500, 0, 0, 0, 500])]
#[case::l16(vec![Confirm, earlier_cancel(), won(2)], [6345, 0, 0, 0, -1345])]
#[case::l17(vec![Confirm, won(1), scouted_lost(2)], [6345, 0, 0, 0, -1345])]
#[case::l18(vec![Confirm, won_late()], [5000, 0, 0, 0, 0])]
fn balances_follow_results(#[case] steps: Vec<Step>, #[case] expected: [i64; 5]) {
    assert_eq!(run(&steps).balances(), expected);
}

fn settled(payout: i64) -> Entitlement {
    let outcome = SettledAs::Won;
    Entitlement::Settled { payout, outcome }
}

fn kinds(
    entitlement: Entitlement,
    position: BetPosition,
    available: i64,
    owed: i64,
) -> Vec<(TransferKind, i64)> {
    let funds = UserFunds {
        available,
        reserved: 0,
        owed,
    };
    let postings = postings(entitlement, cents(1_000), position, funds).unwrap();
    postings
        .iter()
        .map(|one| (one.kind, one.amount.cents()))
        .collect()
}

#[test]
fn transfers_have_standard_kinds_and_no_zero_amounts() {
    use TransferKind::*;
    let paid = |paid| BetPosition::Settled { paid };
    assert_eq!(
        kinds(settled(2_345), BetPosition::Open, 0, 500),
        [(Settle, 1_000), (Payout, 2_345), (Recover, 500)]
    );
    assert_eq!(
        kinds(settled(0), BetPosition::Open, 0, 500),
        [(Settle, 1_000)]
    );
    assert_eq!(
        kinds(settled(0), paid(2_345), 345, 0),
        [(Clawback, 345), (Owe, 2_000)]
    );
    assert_eq!(kinds(settled(0), paid(2_345), 0, 7), [(Owe, 2_345)]);
    assert_eq!(
        kinds(Entitlement::Open, paid(2_345), 3_000, 0),
        [(Unsettle, 1_000), (Clawback, 2_345)]
    );
    assert_eq!(kinds(settled(2_345), paid(2_345), 0, 0), []);
    assert_eq!(
        kinds(settled(3_000), paid(2_345), 0, 9_000),
        [(Payout, 655), (Recover, 655)]
    );
}

#[test]
fn held_bet_moves_no_money() {
    for position in [BetPosition::Open, BetPosition::Settled { paid: 2_345 }] {
        let held = Entitlement::Held(HeldReason::Disagreement);
        assert_eq!(kinds(held, position, 9_000, 9_000), []);
    }
}

#[test]
fn balance_above_64_bits_is_refused() {
    let refused = |entitlement, position, available, owed| {
        postings(
            entitlement,
            cents(1),
            position,
            UserFunds {
                available,
                reserved: 0,
                owed,
            },
        )
        .unwrap_err()
    };
    assert_eq!(
        refused(settled(1), BetPosition::Open, i64::MAX, 0),
        BalanceTooHigh
    );
    let paid = BetPosition::Settled { paid: 1 };
    assert_eq!(refused(settled(0), paid, 0, i64::MAX), BalanceTooHigh);
}
