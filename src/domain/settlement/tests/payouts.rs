//! Payouts of singles: worked examples, and bounds.

use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use crate::domain::odds::price::Price;
use crate::domain::settlement::effective::{Decision, HeldReason, LegState};
use crate::domain::settlement::payout::{Entitlement, SettledAs};
use crate::domain::settlement::record::{DeadHeat, Reduction, VoidFactor, Won};
use crate::domain::settlement::reductions::{ReductionRule, Reductions};
use crate::domain::settlement::testing::*;
use crate::domain::wallet::amount::Amount;

fn settled(
    stake: i64,
    odds: &str,
    market: &str,
    reductions: Reductions,
    selections: Value,
) -> Entitlement {
    let record = settlement(60, 1, selections);
    let rules = crate::domain::settlement::effective::SettlementRules {
        reductions,
        ..rules()
    };
    state(&results([&record]), market, "home", at(0), &rules).entitlement(cents(stake), price(odds))
}

#[rstest]
#[case::s01(1000, "2.345", json!({"result": "won"}), 2345, SettledAs::Won)]
#[case::s02(1000, "2.345", json!({"result": "lost"}), 0, SettledAs::Lost)]
#[case::s03(1000, "2.345", json!({"result": "void"}), 1000, SettledAs::Void)]
#[case::s04(1001, "1.950", json!({"result": "won", "void_factor": 0.5}), 1476, SettledAs::HalfWon)]
#[case::s05(1001, "1.950", json!({"result": "lost", "void_factor": 0.5}), 500, SettledAs::HalfLost)]
#[case::s06(1, "1.950", json!({"result": "lost", "void_factor": 0.5}), 0, SettledAs::HalfLost)]
#[case::s07(1, "1.950", json!({"result": "won"}), 1, SettledAs::Won)]
#[case::s08(333, "3.333", json!({"result": "won"}), 1109, SettledAs::Won)]
#[case::s09(1000, "3.400", json!({"result": "won", "dead_heat": "1/2"}), 1700, SettledAs::DeadHeat)]
#[case::s10(2000, "4.000", json!({"result": "won", "dead_heat": "1/3"}), 2666, SettledAs::DeadHeat)]
#[case::s10_decimal(2000, "4.000", json!({"result": "won", "dead_heat": 0.333}), 2664, SettledAs::DeadHeat)]
#[case::s11(1000, "6.000", json!({"result": "won", "dead_heat": "1/2"}), 3000, SettledAs::DeadHeat)]
#[case::s12(1000, "6.000", json!({"result": "won", "dead_heat": "1/3"}), 2000, SettledAs::DeadHeat)]
#[case::s13(10000, "5.000", json!({"result": "won", "dead_heat": "1/2"}), 25000, SettledAs::DeadHeat)]
#[case::s14(1000, "1.800", json!({"result": "won", "dead_heat": 0.5}), 900, SettledAs::DeadHeat)]
#[case::quarter(1000, "2", json!({"result": "won", "void_factor": 0.25}), 1750, SettledAs::Partial)]
#[case::whole(1000, "2", json!({"result": "lost", "void_factor": 1}), 1000, SettledAs::Void)]
fn single_pays_what_result_says(
    #[case] stake: i64,
    #[case] odds: &str,
    #[case] mut result: Value,
    #[case] payout: i64,
    #[case] outcome: SettledAs,
) {
    result["id"] = json!("home");
    let entitlement = settled(stake, odds, "1x2", Reductions::None, json!([result]));
    assert_eq!(entitlement, Entitlement::Settled { payout, outcome });
}

#[rstest]
#[case::s16("9.000", Reductions::Rule4, "win", &["25"], 7000)]
#[case::s17("2.250", Reductions::Rule4, "win", &["80"], 1250)]
#[case::s18("5.000", Reductions::Rule4, "win", &["60", "40"], 1400)]
#[case::s19("8.000", Reductions::Exchange, "win", &["25.00"], 6000)]
#[case::s20("8.600", Reductions::Exchange, "win", &["16.20"], 7206)]
#[case::s21("8.000", Reductions::Exchange, "win", &["2.49"], 8000)]
#[case::s22("8.000", Reductions::Exchange, "place", &["2.49"], 7825)]
#[case::s22_other("8.000", Reductions::Exchange, "other_place", &["2.49"], 7825)]
#[case::s23("1.010", Reductions::Exchange, "win", &["25"], 1010)]
#[case::s24("8.000", Reductions::None, "win", &["25"], 8000)]
#[case::below_minimum("1.005", Reductions::Exchange, "win", &["25"], 1005)]
#[case::three_decimals("8.000", Reductions::Exchange, "win", &["2.499", "12.345"], 7012)]
#[case::at_threshold("8.000", Reductions::Exchange, "win", &["2.5"], 7800)]
fn removals_reduce_winner(
    #[case] odds: &str,
    #[case] kind: Reductions,
    #[case] market: &str,
    #[case] removed: &[&str],
    #[case] payout: i64,
) {
    let mut selections = vec![json!({"id": "home", "result": "won"})];
    for (index, text) in removed.iter().enumerate() {
        let reduction: serde_json::Number = text.parse().unwrap();
        selections.push(json!({
            "id": format!("removed{index}"), "result": "void",
            "reduction": reduction, "removed_at": at(1),
        }));
    }
    let entitlement = settled(1000, odds, market, kind, json!(selections));
    let outcome = SettledAs::Won;
    assert_eq!(entitlement, Entitlement::Settled { payout, outcome });
}

#[test]
fn payout_above_64_bits_is_held() {
    let won = LegState::Decided(Decision::Won {
        won: Won::WHOLE,
        reduced: None,
    });
    assert_eq!(
        won.entitlement(cents(i64::MAX), price("1.001")),
        Entitlement::Held(HeldReason::PayoutTooHigh)
    );
}

fn any_decision() -> impl Strategy<Value = Decision> {
    let void = (0_u16..=1_000).prop_map(|void| VoidFactor::from_thousandths(void).unwrap());
    let share = (1_u16..1_000, 1_u16..=1_000)
        .prop_filter_map("no share", |(places, tied)| DeadHeat::new(places, tied));
    let won = prop_oneof![
        void.clone().prop_map(|void| Won::Part { void }),
        share.prop_map(Won::DeadHeat),
    ];
    let rule = prop_oneof![
        Just(ReductionRule::Rule4),
        Just(ReductionRule::ExchangeWin),
        Just(ReductionRule::ExchangePlace),
    ];
    let reduction = (0_u32..=100_000).prop_map(|part| Reduction::from_thousandths(part).unwrap());
    let reduced = proptest::option::of((rule, proptest::collection::vec(reduction, 0..30)));
    prop_oneof![
        4 => (won, reduced).prop_map(|(won, reduced)| Decision::Won { won, reduced }),
        1 => void.prop_map(|void| Decision::Lost { void }),
        1 => Just(Decision::Void),
    ]
}

fn any_price() -> impl Strategy<Value = Price> {
    prop_oneof![1_001_u32..1_100, 1_001_u32..=1_000_000]
        .prop_map(|thousandths| Price::from_thousandths(thousandths).unwrap())
}

proptest! {
    #[test]
    fn payout_never_exceeds_promise(
        decision in any_decision(),
        price in any_price(),
        stake in 1_i64..=1_000_000_000_000,
    ) {
        let stake = Amount::new(stake).unwrap();
        let promised = stake.payout_at(price);
        match LegState::Decided(decision).entitlement(stake, price) {
            Entitlement::Settled { payout, .. } => {
                prop_assert!(payout >= 0);
                prop_assert!(i128::from(payout) <= promised);
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    /// The formula in whole numbers, without reductions.
    #[test]
    fn payout_is_floor_of_exact_value(
        stake in 1_i64..=1_000_000_000, price in any_price(), void in 0_u16..=1_000,
    ) {
        let decision = Decision::Won {
            won: Won::Part { void: VoidFactor::from_thousandths(void).unwrap() },
            reduced: None,
        };
        let void = i128::from(void);
        let exact = i128::from(stake)
            * (void * 1_000 + (1_000 - void) * i128::from(price.thousandths()));
        let entitlement = LegState::Decided(decision).entitlement(cents(stake), price);
        let Entitlement::Settled { payout, .. } = entitlement else {
            panic!("{entitlement:?}");
        };
        prop_assert_eq!(i128::from(payout), exact.div_euclid(1_000_000));
    }
}
