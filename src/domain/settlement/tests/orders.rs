//! The order of records, and what happens between them, changes no result.

use proptest::prelude::*;
use serde_json::json;

use crate::domain::settlement::payout::Entitlement;
use crate::domain::settlement::postings::BetPosition;
use crate::domain::settlement::record::ResultRecord;
use crate::domain::settlement::testing::random::any_content;
use crate::domain::settlement::testing::*;

/// What happens beside records.
#[derive(Clone, Debug)]
enum Between {
    Deposit(i64),
    Withdraw(i64),
}

/// Records of one source. Each has its own revision.
fn any_records() -> impl Strategy<Value = Vec<ResultRecord>> {
    proptest::collection::vec((any_content(), 50_i64..60), 1..10).prop_map(|contents| {
        let versions = 1_i64..;
        let numbered = contents.into_iter().zip(versions);
        let records = numbered
            .map(|(((kind, fields), second), version)| record(kind, second, version, fields));
        records.collect()
    })
}

/// The records in another order, some of them several times.
fn arrivals(records: Vec<ResultRecord>) -> impl Strategy<Value = Vec<ResultRecord>> {
    let repeated: Vec<_> = records
        .iter()
        .flat_map(|record| [record.clone(), record.clone()])
        .collect();
    let extra = proptest::sample::subsequence(repeated, 0..=records.len());
    extra.prop_flat_map(move |extra| Just([records.clone(), extra].concat()).prop_shuffle())
}

fn any_between() -> impl Strategy<Value = Vec<Between>> {
    let step = prop_oneof![
        (1_i64..3_000).prop_map(Between::Deposit),
        (1_i64..5_000).prop_map(Between::Withdraw),
    ];
    proptest::collection::vec(step, 0..8)
}

const BETS: [(i64, &str, i64); 3] = [(1_000, "2.345", 5), (333, "3.333", 14), (1, "1.950", 25)];

/// Places bets, and lets records and other steps happen alternately. The decisions on the bets are
/// spread over the records, too.
fn run(records: &[ResultRecord], between: &[Between], decide_after: usize) -> (House, i64) {
    let mut house = House::new(rules());
    house.deposit(2_000);
    let mut kept = 2_000;
    for (index, (stake, odds, placed_at)) in BETS.into_iter().enumerate() {
        assert!(house.place("1x2", stake, odds, at(placed_at)));
        if index < 2 {
            house.decide(true);
        }
    }
    for index in 0..records.len().max(between.len()) {
        if index == decide_after {
            house.decide(true);
        }
        match between.get(index) {
            Some(Between::Deposit(cents)) => {
                house.deposit(*cents);
                kept += cents;
            }
            Some(Between::Withdraw(cents)) if house.withdraw(*cents) => kept -= cents,
            _ => {}
        }
        if let Some(record) = records.get(index) {
            house.receive(record.clone());
            stands_as_prefix_says(&house, &records[..=index]);
        }
    }
    if decide_after >= records.len().max(between.len()) {
        house.decide(true);
    }
    (house, kept)
}

fn stands_as_prefix_says(house: &House, prefix: &[ResultRecord]) {
    let market = results(prefix);
    for bet in house.bets.iter().filter(|bet| bet.is_confirmed) {
        let leg = state(&market, "1x2", "home", bet.placed_at, &house.rules);
        let position = match leg.entitlement(bet.stake, bet.price) {
            Entitlement::Open => BetPosition::Open,
            Entitlement::Settled { payout, .. } => BetPosition::Settled { paid: payout },
            Entitlement::Held(reason) => panic!("one source without conflicts: {reason:?}"),
        };
        assert_eq!(bet.position, position);
    }
}

proptest! {
    #[test]
    fn order_and_repetition_change_no_result(
        (ordered, shuffled) in any_records().prop_flat_map(|records| (Just(records.clone()), arrivals(records))),
        between in any_between(),
        decide_after in 0_usize..12,
    ) {
        let (plain, kept) = run(&ordered, &[], 0);
        let (mixed, mixed_kept) = run(&shuffled, &between, decide_after);
        let [net, stakes, payouts] = plain.net();
        let [mixed_net, mixed_stakes, mixed_payouts] = mixed.net();
        prop_assert_eq!((stakes, payouts), (mixed_stakes, mixed_payouts));
        prop_assert_eq!(net - kept, mixed_net - mixed_kept);
        let won: i64 = plain.bets.iter().map(TestBet::net).sum();
        prop_assert_eq!(net - kept, won);
    }

    /// Also if contents conflict: the same set is the same state, whatever arrived first.
    #[test]
    fn state_is_function_of_set(
        (ordered, shuffled) in proptest::collection::vec((any_content(), 50_i64..52, 1_i64..3, 0_usize..3), 1..12)
            .prop_map(|contents| {
                let sources = ["native-1", "native-2", "operator:ann"];
                contents.into_iter().map(|((kind, fields), second, version, source)| {
                    by(sources[source], record(kind, second, version, fields))
                }).collect::<Vec<_>>()
            })
            .prop_flat_map(|records| (Just(records.clone()), arrivals(records))),
        placed_at in 0_i64..30,
    ) {
        let [one, other] = [&ordered, &shuffled].map(results);
        prop_assert_eq!(&one, &other);
        let leg = |market| state(market, "1x2", "home", at(placed_at), &rules());
        prop_assert_eq!(leg(&one), leg(&other));
    }

    #[test]
    fn void_bet_returns_its_stake(records in any_records(), between in any_between()) {
        let cancel = record("cancel", 99, 1, json!({}));
        let (house, kept) = run(&[records, vec![cancel]].concat(), &between, 0);
        prop_assert_eq!(house.net(), [kept, 0, 0]);
        prop_assert!(house.bets.iter().all(|bet| bet.net() == 0));
    }
}
