use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const ALL: [SimulatedMarket; 3] = [
    SimulatedMarket::OneXTwo,
    SimulatedMarket::TotalGoals,
    SimulatedMarket::BothTeamsToScore,
];

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_762_722_465_000 + millis).unwrap()
}

fn maker(events: usize, seed: u64) -> MarketMaker {
    MarketMaker::new(events, &ALL, seed, at(0))
}

fn implied(update: &OddsUpdate) -> f64 {
    update
        .selections
        .iter()
        .map(|one| 1_000.0 / f64::from(one.price.unwrap().thousandths()))
        .sum()
}

fn key(update: &OddsUpdate) -> String {
    format!("{} {}", update.event_id, update.market)
}

#[test]
fn seed_gives_known_first_frame() {
    let maker = MarketMaker::new(1, &ALL[..1], 7, at(0));
    insta::assert_snapshot!(maker.current()[0].to_json(), @r#"{"event_id":"MATCH_001","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{"home":3.13,"draw":3.699,"away":2.076},"selections":[{"id":"home","name":"Flamengo","price":3.13,"status":"active"},{"id":"draw","name":"Draw","price":3.699,"status":"active"},{"id":"away","name":"Palmeiras","price":2.076,"status":"active"}],"status":"open","updated_at":"2025-11-09T21:07:45Z","source":"supplier-simulator","version":1}"#);
}

#[test]
fn all_markets_start_open() {
    let maker = MarketMaker::new(2, &[ALL[0], ALL[1], ALL[2], ALL[0]], 1, at(0));
    let keys: Vec<_> = maker.current().iter().map(key).collect();
    let of = |event: &str| {
        [
            "1x2",
            "total_goals@1.5",
            "total_goals@2.5",
            "total_goals@3.5",
            "btts",
        ]
        .map(|one| format!("{event} {one}"))
    };
    assert_eq!(keys, [of("MATCH_001"), of("MATCH_002")].concat());
    assert!(
        maker
            .current()
            .iter()
            .all(|one| one.revision.version == 1 && one.status == MarketStatus::Open)
    );
    assert_eq!(maker.len(), 10);
}

#[test]
fn no_markets_give_no_update() {
    assert!(MarketMaker::new(3, &[], 1, at(0)).next(at(1)).is_none());
    assert!(MarketMaker::new(0, &ALL, 1, at(0)).is_empty());
}

#[test]
fn update_time_never_goes_back() {
    let mut maker = maker(1, 3);
    let times: Vec<_> = [500, 100, 600]
        .into_iter()
        .map(|now| maker.next(at(now)).unwrap().revision.updated_at)
        .collect();
    assert_eq!(times, [at(500), at(500), at(600)]);
}

#[test]
fn markets_are_suspended_and_reopened() {
    let mut maker = maker(4, 11);
    let updates: Vec<_> = (0..20_000)
        .map(|now| maker.next(at(now)).unwrap())
        .collect();
    let suspended = updates
        .iter()
        .filter(|one| one.status == MarketStatus::Suspended)
        .count();
    assert!((200..2_000).contains(&suspended), "{suspended}");
    let open = maker
        .current()
        .iter()
        .filter(|one| one.status == MarketStatus::Open)
        .count();
    assert!(open >= maker.len() / 2, "{open}");
}

#[test]
fn prices_move_in_small_steps() {
    let mut maker = MarketMaker::new(1, &ALL[..1], 5, at(0));
    let homes: Vec<_> = (1..2_000)
        .filter_map(|now| {
            maker
                .next(at(now))
                .filter(|one| one.status == MarketStatus::Open)
        })
        .map(|one| f64::from(one.price_of("home").unwrap().thousandths()))
        .collect();
    let ups = homes.windows(2).filter(|pair| pair[1] > pair[0]).count();
    let downs = homes.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(ups > 700 && downs > 700, "{ups} up, {downs} down");
    let far = homes
        .windows(2)
        .filter(|pair| (pair[1] / pair[0] - 1.0).abs() > 0.1)
        .count();
    assert!(far < 30, "{far} leaps");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Margins stay within bounds, prices are valid, and the wire format round-trips.
    #[test]
    fn margins_and_prices_stay_valid(seed in any::<u64>()) {
        let mut maker = maker(3, seed);
        let moved = (1..600).map(|now| maker.next(at(now)).unwrap()).collect::<Vec<_>>();
        for update in maker.current().iter().chain(&moved) {
            let sum = implied(update);
            prop_assert!((1.03..=1.10).contains(&sum), "{sum} in {}", update.to_json());
            prop_assert_eq!(&OddsUpdate::from_json(update.to_json().as_bytes()).unwrap(), update);
            prop_assert_eq!(update.source.as_str(), SOURCE);
        }
    }

    /// Each market moves once per round, and each update is newer than the one before.
    #[test]
    fn each_market_moves_once_per_round(seed in any::<u64>()) {
        let mut maker = maker(2, seed);
        let mut latest: HashMap<_, _> = maker.current().into_iter().map(|one| (key(&one), one)).collect();
        for round in 0..40i64 {
            let mut seen = std::collections::HashSet::new();
            for _ in 0..maker.len() {
                // The clock advances only every three rounds.
                let update = maker.next(at(round / 3)).unwrap();
                let before = latest.insert(key(&update), update.clone()).unwrap();
                prop_assert!(update.revision > before.revision);
                prop_assert_eq!(update.revision.version, before.revision.version + 1);
                prop_assert!(seen.insert(key(&update)));
            }
        }
        prop_assert!(maker.current().iter().all(|one| latest[&key(one)] == *one));
    }

    #[test]
    fn suspended_market_keeps_prices_until_reopened(seed in any::<u64>()) {
        let mut maker = MarketMaker::new(1, &ALL, seed, at(0));
        let mut latest: HashMap<_, _> = maker.current().into_iter().map(|one| (key(&one), (one, 0))).collect();
        for now in 0..1_500 {
            let update = maker.next(at(now)).unwrap();
            let (before, run) = latest[&key(&update)].clone();
            let run = if update.status == MarketStatus::Suspended { run + 1 } else { 0 };
            prop_assert!(run <= 4, "suspended for {run} updates");
            if run > 0 {
                prop_assert_eq!(&update.selections, &before.selections);
            }
            latest.insert(key(&update), (update, run));
        }
    }

    #[test]
    fn higher_goal_lines_are_less_likely(seed in any::<u64>()) {
        let mut maker = MarketMaker::new(2, &[SimulatedMarket::TotalGoals], seed, at(0));
        for now in 0..500 {
            maker.next(at(now));
            for lines in maker.current().chunks(3) {
                let over: Vec<_> = lines.iter().map(|line| line.price_of("over").unwrap()).collect();
                let under: Vec<_> = lines.iter().map(|line| line.price_of("under").unwrap()).collect();
                prop_assert!(over[0] < over[1] && over[1] < over[2], "{over:?}");
                prop_assert!(under[0] > under[1] && under[1] > under[2], "{under:?}");
            }
        }
    }

    #[test]
    fn same_seed_gives_same_updates(seed in any::<u64>(), events in 1usize..5) {
        let walk = |seed| {
            let mut maker = maker(events, seed);
            (0..200).map(|now| maker.next(at(now)).unwrap()).collect::<Vec<_>>()
        };
        prop_assert_eq!(walk(seed), walk(seed));
        prop_assert_ne!(walk(seed), walk(seed.wrapping_add(1)));
    }
}
