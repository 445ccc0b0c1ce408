use super::*;
use crate::domain::odds::update::testing::market_update;

/// A later number has a later revision.
fn state(market: &str, seq: u64) -> Arc<MarketState> {
    let update = market_update("MATCH_001", market, None, seq as i64, 1);
    Arc::new(MarketState { update, seq })
}

fn cached(states: &[(&str, u64)]) -> CachedState {
    CachedState {
        states: states.iter().map(|(name, seq)| state(name, *seq)).collect(),
        is_read: true,
        is_damaged: false,
    }
}

fn stored(states: &[(&str, u64)]) -> StoredState {
    StoredState {
        states: states.iter().map(|(name, seq)| state(name, *seq)).collect(),
        is_read: true,
    }
}

fn content(loaded: &LoadedState) -> Vec<(String, u64)> {
    let one = |state: &Arc<MarketState>| (state.update.market.to_string(), state.seq);
    loaded.states.iter().map(one).collect()
}

fn named(states: &[(&str, u64)]) -> Vec<(String, u64)> {
    let one = |(name, seq): &(&str, u64)| ((*name).to_owned(), *seq);
    states.iter().map(one).collect()
}

#[test]
fn durable_bus_skips_later_rows_of_cached_markets() {
    let boundary = ReplayBoundary::after(10, false);
    let rows = [("1x2", 12), ("btts", 13), ("total", 9)];
    let loaded = MergePolicy::LatestWins.merge(cached(&[("1x2", 8)]), stored(&rows), boundary);
    let expected = [("1x2", 8), ("btts", 13), ("total", 9)];
    assert_eq!(content(&loaded), named(&expected));
    assert_eq!(loaded.read_seq, 13);
}

/// It has been published with this number, after records of a deleted topic were lost.
#[test]
fn cached_state_with_larger_stored_number_is_not_skipped() {
    let boundary = ReplayBoundary::after(10, false);
    let renumbered = Arc::new(MarketState {
        update: state("1x2", 8).update.clone(),
        seq: 1_000_008,
    });
    let stored = StoredState {
        states: vec![renumbered],
        is_read: true,
    };
    let loaded = MergePolicy::LatestWins.merge(cached(&[("1x2", 8)]), stored, boundary);
    assert_eq!(content(&loaded), named(&[("1x2", 8), ("1x2", 1_000_008)]));
}

#[test]
fn embedded_bus_skips_all_later_rows() {
    let boundary = ReplayBoundary::after(10, true);
    let rows = [("1x2", 12), ("btts", 13), ("total", 9)];
    let loaded = MergePolicy::LatestWins.merge(cached(&[]), stored(&rows), boundary);
    assert_eq!(content(&loaded), named(&[("total", 9)]));
}

#[test]
fn mirror_prefers_cached_markets() {
    let boundary = ReplayBoundary::NOTHING;
    let rows = [("1x2", 12), ("btts", 13)];
    let loaded = MergePolicy::CacheWins.merge(cached(&[("1x2", 8)]), stored(&rows), boundary);
    assert_eq!(content(&loaded), named(&[("1x2", 8), ("btts", 13)]));
    assert!(loaded.is_complete);
}

/// A mirror's empty result means that the event does not exist only if both could be read.
#[test]
fn mirror_is_complete_only_with_both() {
    let unread = CachedState {
        is_read: false,
        ..cached(&[])
    };
    let boundary = ReplayBoundary::NOTHING;
    let mirrored = MergePolicy::CacheWins.merge(unread.clone(), stored(&[]), boundary);
    assert!(!mirrored.is_complete);
    let owned = MergePolicy::LatestWins.merge(unread, stored(&[]), boundary);
    assert!(owned.is_complete);
}

#[rstest::rstest]
#[case::start(LoadReason::Start, true, true)]
#[case::client(LoadReason::Client, false, true)]
#[case::gap(LoadReason::Gap, false, true)]
#[case::retry(LoadReason::Retry, false, false)]
fn mirror_reads_store_only_if_needed(
    #[case] reason: LoadReason,
    #[case] without_event: bool,
    #[case] with_event: bool,
) {
    let policy = MergePolicy::CacheWins;
    assert_eq!(policy.is_cache_enough(&cached(&[]), reason), without_event);
    let held = cached(&[("1x2", 8)]);
    assert_eq!(policy.is_cache_enough(&held, reason), with_event);
    let always = MergePolicy::LatestWins;
    assert!(!always.is_cache_enough(&held, reason));
}

#[test]
fn incomplete_load_is_repeated() {
    let pause = Duration::from_secs(1);
    let from_cache = LoadedState::from_cache(cached(&[("1x2", 8)]), ReplayBoundary::NOTHING);
    assert_eq!(from_cache.reload_after(pause), Some(Duration::ZERO));
    let boundary = ReplayBoundary::NOTHING;
    let mut complete = MergePolicy::CacheWins.merge(cached(&[]), stored(&[]), boundary);
    assert_eq!(complete.reload_after(pause), None);
    complete.mark_outdated();
    assert_eq!(complete.reload_after(pause), Some(Duration::ZERO));
    let failed = StoredState {
        is_read: false,
        ..stored(&[])
    };
    let partial = MergePolicy::CacheWins.merge(cached(&[]), failed, boundary);
    assert_eq!(partial.reload_after(pause), Some(pause));
}
