//! The two Betfair races in `tests/data`, as records.

use rstest::rstest;
use serde_json::{Value, json};

use crate::domain::settlement::effective::{LegState, SettlementRules};
use crate::domain::settlement::market_results::MarketResults;
use crate::domain::settlement::payout::Entitlement;
use crate::domain::settlement::reductions::Reductions;
use crate::domain::settlement::testing::*;
use crate::domain::timestamp::Timestamp;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The race of 14 runners, two of which were removed.
fn horses() -> MarketResults {
    let removed = [
        json!({"id": "11198538", "result": "void", "reduction": 7.14, "removed_at": "2017-06-14T07:00:50Z"}),
        json!({"id": "9606433", "result": "void", "reduction": 5.55, "removed_at": "2017-06-14T09:23:43Z"}),
    ];
    let mut selections = removed.to_vec();
    selections.push(json!({"id": "12115648", "result": "won"}));
    let losers = [
        10299545, 7330488, 4090765, 8504171, 11313015, 8873527, 11267360, 12321972, 11695059,
        8560724, 12314194,
    ];
    selections.extend(losers.map(|id| json!({"id": id.to_string(), "result": "lost"})));
    let record = |selections: Value, updated_at: &str, version| {
        record(
            "settlement",
            0,
            version,
            json!({"selections": selections, "updated_at": updated_at}),
        )
    };
    results(&[
        record(json!(removed[..1]), "2017-06-14T07:00:50Z", 1676838684),
        record(json!(removed), "2017-06-14T09:23:43Z", 1676859699),
        record(json!(selections), "2017-06-14T18:57:59Z", 1677218548),
    ])
}

#[rstest]
#[case("12115648", "2017-06-14T07:00:49Z", "3.850", [3850, 3376, 3488])]
#[case("12115648", "2017-06-14T07:00:50Z", "3.500", [3500, 3305, 3361])]
#[case("12115648", "2017-06-14T09:23:42Z", "3.500", [3500, 3305, 3361])]
#[case("12115648", "2017-06-14T09:23:43Z", "4.000", [4000, 4000, 4000])]
#[case("11198538", "2017-06-14T06:00:00Z", "20.000", [1000, 1000, 1000])]
#[case("11198538", "2017-06-14T10:00:00Z", "20.000", [1000, 1000, 1000])]
#[case("10299545", "2017-06-14T06:00:00Z", "20.000", [0, 0, 0])]
fn removals_reduce_earlier_bets(
    #[case] selection: &str,
    #[case] placed_at: &str,
    #[case] odds: &str,
    #[case] expected: [i64; 3],
) {
    let kinds = [Reductions::None, Reductions::Exchange, Reductions::Rule4];
    let payouts = kinds.map(|reductions| {
        let rules = SettlementRules {
            reductions,
            ..rules()
        };
        let state = state(&horses(), "win", selection, time(placed_at), &rules);
        match state.entitlement(cents(1_000), price(odds)) {
            Entitlement::Settled { payout, .. } => payout,
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(payouts, expected);
}

#[rstest]
#[case("2022-04-19T18:29:40.999Z", 2500)]
#[case("2022-04-19T18:29:41Z", 1000)]
fn bet_after_settled_time_is_void(#[case] placed_at: &str, #[case] expected: i64) {
    let settled_time = "2022-04-19T18:29:41Z";
    let mut selections = vec![json!({"id": "37947503", "result": "won"})];
    let losers = [44331354, 36276560, 42930960, 40095374, 39823721];
    selections.extend(losers.map(|id| json!({"id": id.to_string(), "result": "lost"})));
    let fields =
        json!({"selections": selections, "bets_until": settled_time, "updated_at": settled_time});
    let results = results(&[record("settlement", 0, 4497303953, fields)]);
    let state = state(&results, "win", "37947503", time(placed_at), &rules());
    assert_eq!(state == LegState::LateBet, expected == 1000);
    match state.entitlement(cents(1_000), price("2.5")) {
        Entitlement::Settled { payout, .. } => assert_eq!(payout, expected),
        other => panic!("{other:?}"),
    }
}
