//! The contract of every cache, written against the trait; [`cache_suite`] runs it for each
//! implementation.

use std::sync::Arc;

use pretty_assertions::assert_eq;

use super::{OddsCache, winning_state};
use crate::domain::ids::EventId;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::testing::{any_update, market_update};

/// Generates one test per check. `$open` returns an empty cache and a guard that must live as long
/// as it; `$attribute` is added to each test.
macro_rules! cache_suite {
    ($open:expr $(, #[$attribute:meta])?) => {
        macro_rules! check {
            ($name:ident) => {
                #[tokio::test]
                $(#[$attribute])?
                async fn $name() {
                    let (cache, _kept) = $open;
                    $crate::cache::suite::$name(&cache).await;
                }
            };
        }
        check!(markets_and_lines_are_separate);
        check!(unknown_event_has_no_states);
        check!(later_revision_wins_in_any_order);
        check!(sequence_number_never_decreases);
        check!(random_writes_agree_with_model);
        check!(updates_are_returned_unchanged);
        check!(large_batch_is_written);
        check!(removal_keeps_readable_states);
        check!(ping_answers);
    };
}
pub(crate) use cache_suite;

fn state(event: &str, market: &str, time: i64, version: i64, seq: u64) -> Arc<MarketState> {
    Arc::new(MarketState {
        update: market_update(event, market, None, time, version),
        seq,
    })
}

async fn read(cache: &dyn OddsCache, event: &str) -> Vec<MarketState> {
    let mut states = cache
        .read_book(&EventId::new(event).unwrap())
        .await
        .unwrap();
    states.sort_by(|one, other| one.update.market.cmp(&other.update.market));
    states
        .iter()
        .map(|state| MarketState::clone(state))
        .collect()
}

pub(crate) async fn ping_answers(cache: &dyn OddsCache) {
    cache.ping().await.unwrap();
    cache.write(Vec::new()).await.unwrap();
}

pub(crate) async fn unknown_event_has_no_states(cache: &dyn OddsCache) {
    cache.write(vec![state("E", "1x2", 1, 1, 1)]).await.unwrap();
    assert_eq!(read(cache, "F").await, []);
}

pub(crate) async fn markets_and_lines_are_separate(cache: &dyn OddsCache) {
    let lines = [
        ("1x2", None),
        ("goals", Some("2.5")),
        ("goals", Some("-0.25")),
        ("goals@2.5", None),
        ("goals%402.5", None),
    ];
    let states = (1..).zip(lines).map(|(seq, (name, line))| {
        Arc::new(MarketState {
            update: market_update("São Paulo v \"Grêmio\"", name, line, 1, 1),
            seq,
        })
    });
    let states: Vec<_> = states.collect();
    cache.write(states.clone()).await.unwrap();
    let read = read(cache, "São Paulo v \"Grêmio\"").await;
    assert_eq!(read.len(), 5);
    assert!(states.iter().all(|state| read.contains(state)));
}

pub(crate) async fn later_revision_wins_in_any_order(cache: &dyn OddsCache) {
    cache
        .write(vec![state("E", "1x2", 10, 7, 100)])
        .await
        .unwrap();
    // Older revisions, with any number, and the same state again.
    for late in [
        state("E", "1x2", 9, 99, 100),
        state("E", "1x2", 10, 6, 500),
        state("E", "1x2", 10, 7, 100),
    ] {
        cache.write(vec![late]).await.unwrap();
        assert_eq!(read(cache, "E").await[0], *state("E", "1x2", 10, 7, 100));
    }
    // A restarted supplier numbers its versions from 1 again.
    cache
        .write(vec![state("E", "1x2", 11, 1, 101)])
        .await
        .unwrap();
    assert_eq!(read(cache, "E").await[0], *state("E", "1x2", 11, 1, 101));
}

pub(crate) async fn sequence_number_never_decreases(cache: &dyn OddsCache) {
    cache
        .write(vec![state("E", "1x2", 10, 1, 1_763_000_000_000_000)])
        .await
        .unwrap();
    cache
        .write(vec![state("E", "1x2", 11, 1, 3)])
        .await
        .unwrap();
    assert_eq!(
        read(cache, "E").await[0],
        *state("E", "1x2", 11, 1, 1_763_000_000_000_001)
    );
    cache
        .write(vec![state("E", "1x2", 11, 1, 1_763_000_000_000_009)])
        .await
        .unwrap();
    assert_eq!(
        read(cache, "E").await[0].seq,
        1_763_000_000_000_009,
        "the same revision with a higher number"
    );
}

pub(crate) async fn random_writes_agree_with_model(cache: &dyn OddsCache) {
    let mut random = fastrand::Rng::with_seed(7);
    let mut model: Option<Arc<MarketState>> = None;
    for _ in 0..200 {
        let new = state(
            "E",
            "1x2",
            random.i64(-3..3),
            random.i64(-2..3),
            random.u64(0..12),
        );
        model = winning_state(model.as_deref(), &new).or(model);
        cache.write(vec![new]).await.unwrap();
        assert_eq!(
            read(cache, "E").await[..],
            model
                .iter()
                .map(|state| MarketState::clone(state))
                .collect::<Vec<_>>()
        );
    }
}

pub(crate) async fn updates_are_returned_unchanged(cache: &dyn OddsCache) {
    use proptest::strategy::{Strategy, ValueTree};
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for seq in 1..100 {
        let mut update = any_update().new_tree(&mut runner).unwrap().current();
        update.event_id = EventId::new(&format!("CASE_{seq}")).unwrap();
        let written = MarketState { update, seq };
        cache.write(vec![Arc::new(written.clone())]).await.unwrap();
        assert_eq!(read(cache, &format!("CASE_{seq}")).await, [written]);
    }
}

pub(crate) async fn removal_keeps_readable_states(cache: &dyn OddsCache) {
    let states = [state("E", "1x2", 1, 1, 1), state("E", "btts", 1, 1, 2)];
    cache.write(states.to_vec()).await.unwrap();
    let events = ["E", "F"].map(|event| EventId::new(event).unwrap());
    assert_eq!(cache.remove_damaged(events.to_vec()).await, Ok(Vec::new()));
    assert_eq!(cache.remove_damaged(Vec::new()).await, Ok(Vec::new()));
    assert_eq!(
        read(cache, "E").await,
        states.map(|state| MarketState::clone(&state))
    );
}

pub(crate) async fn large_batch_is_written(cache: &dyn OddsCache) {
    let states = (0..1_000).map(|n| {
        state(
            &format!("E{}", n % 250),
            &format!("m{}", n / 250),
            1,
            1,
            n + 1,
        )
    });
    cache.write(states.collect()).await.unwrap();
    for event in [0, 123, 249] {
        assert_eq!(read(cache, &format!("E{event}")).await.len(), 4);
    }
}
