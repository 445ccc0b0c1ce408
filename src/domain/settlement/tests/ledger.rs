//! Transfers of one user.

use crate::domain::settlement::effective::HeldReason;
use crate::domain::settlement::payout::{Entitlement, SettledAs};
use crate::domain::settlement::postings::*;
use crate::domain::settlement::testing::examples::{PLACED_AT, Step, examples, other_bet_wins};
use crate::domain::settlement::testing::*;
use crate::domain::wallet::ledger::TransferKind;

fn run(steps: &[Step]) -> House {
    let mut house = House::new(rules());
    house.deposit(5_000);
    assert!(house.place("1x2", 1_000, "2.345", at(PLACED_AT)));
    for step in steps {
        match step.clone() {
            Step::Confirm => house.decide(true),
            Step::Reject => house.decide(false),
            Step::Result(record) => {
                house.receive(record);
            }
            Step::Deposit(cents) => house.deposit(cents),
            Step::Withdraw(cents) => assert!(house.withdraw(cents)),
            Step::OtherBetWins(stake, odds) => {
                assert!(house.place("other", stake, odds, at(PLACED_AT)));
                house.decide(true);
                house.receive(other_bet_wins());
            }
        }
    }
    house
}

#[test]
fn balances_follow_results() {
    let examples = examples();
    assert_eq!(examples.len(), 21);
    for (name, steps, expected) in examples {
        assert_eq!(run(&steps).balances(), expected, "{name}");
    }
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
