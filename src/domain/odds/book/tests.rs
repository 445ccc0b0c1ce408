use proptest::prelude::*;

use super::*;
use crate::domain::odds::update::testing::*;

fn book() -> Book {
    Book::new(EventId::new("MATCH_001").unwrap())
}

fn held(update: OddsUpdate, seq: u64) -> Arc<MarketState> {
    Arc::new(MarketState { update, seq })
}

#[test]
fn later_revision_wins() {
    let mut book = book();
    assert_eq!(book.apply(update(1, 10, 5), 0).unwrap().seq, 1);
    assert_eq!(book.apply(update(1, 10, 5), 1), Err(Rejection::Duplicate));
    assert_eq!(book.apply(update(1, 10, 4), 2), Err(Rejection::Older));
    assert_eq!(book.apply(update(1, 9, 99), 3), Err(Rejection::Older));
    assert_eq!(book.apply(update(1, 10, 6), 4).unwrap().seq, 5);
    assert_eq!(book.apply(update(2, 10, 6), 5), Err(Rejection::WrongEvent));
}

/// A supplier that restarts counts versions from 1 again, with a later time.
#[test]
fn restarted_supplier_is_followed() {
    let mut book = book();
    book.apply(update(1, 10, 978), 0).unwrap();
    assert!(book.apply(update(1, 11, 1), 1).is_ok());
}

#[test]
fn markets_and_lines_are_separate() {
    let mut book = book();
    book.apply(market_update("MATCH_001", "1x2", None, 1, 1), 0)
        .unwrap();
    book.apply(
        market_update("MATCH_001", "total_goals", Some("2.5"), 1, 1),
        1,
    )
    .unwrap();
    book.apply(
        market_update("MATCH_001", "total_goals", Some("3.5"), 1, 1),
        2,
    )
    .unwrap();
    let snapshot = book.snapshot();
    let keys: Vec<_> = snapshot
        .markets
        .iter()
        .map(|state| state.update.market.to_string())
        .collect();
    assert_eq!(keys, ["1x2", "total_goals@2.5", "total_goals@3.5"]);
    assert_eq!(snapshot.seq, 3);
    assert_eq!(
        snapshot.headline().unwrap().update.market.to_string(),
        "1x2"
    );
}

#[test]
fn restarted_bus_keeps_number_growing() {
    let mut book = book();
    book.restore([held(update(1, 10, 1), 1_000)]);
    assert_eq!(book.apply(update(1, 11, 1), 0).unwrap().seq, 1_001);
    assert_eq!(book.apply(update(1, 12, 1), 1).unwrap().seq, 1_002);
    assert_eq!(book.apply(update(1, 13, 1), 5_000).unwrap().seq, 5_001);
}

#[test]
fn continued_book_never_lowers_number() {
    let mut book = book();
    book.continue_from(500);
    assert_eq!(book.snapshot().seq, 0, "an empty book is not changed");
    book.restore([held(update(1, 10, 1), 7)]);
    book.continue_from(500);
    assert_eq!(
        (book.snapshot().seq, book.snapshot().markets[0].seq),
        (500, 7)
    );
    assert_eq!(book.apply(update(1, 11, 1), 3).unwrap().seq, 501);
    book.continue_from(100);
    assert_eq!(book.snapshot().seq, 501);
}

#[test]
fn restore_keeps_later_state() {
    let mut book = book();
    book.restore([
        held(update(1, 10, 1), 7),
        held(update(1, 12, 1), 9),
        held(update(1, 11, 1), 8),
        held(update(2, 99, 1), 99),
    ]);
    let snapshot = book.snapshot();
    assert_eq!(
        (
            snapshot.seq,
            snapshot.markets.len(),
            snapshot.markets[0].seq
        ),
        (9, 1, 9)
    );
}

/// A mirror uses the published number, unless that number does not grow.
#[test]
fn mirror_numbers_always_grow() {
    let mut book = book();
    assert_eq!(book.mirror(update(1, 10, 1), Some(700)).unwrap().seq, 700);
    assert_eq!(
        book.mirror(update(1, 10, 1), Some(701)),
        Err(Rejection::Duplicate)
    );
    assert_eq!(
        book.mirror(update(1, 9, 1), Some(702)),
        Err(Rejection::Older)
    );
    assert_eq!(
        book.mirror(update(2, 11, 1), Some(703)),
        Err(Rejection::WrongEvent)
    );
    assert_eq!(
        book.mirror(update(1, 11, 1), Some(3)).unwrap().seq,
        701,
        "the topic was recreated"
    );
    assert_eq!(book.mirror(update(1, 12, 1), Some(800)).unwrap().seq, 800);
}

/// Every process gives the same numbers to changes that carry none.
#[test]
fn unnumbered_changes_get_same_numbers() {
    let mut early = book();
    let mut late = book();
    early.mirror(update(1, 10, 1), None).unwrap();
    let number = early.mirror(update(1, 11, 1), None).unwrap().seq;
    assert_eq!(late.mirror(update(1, 11, 1), None).unwrap().seq, number);
    assert_eq!(
        late.mirror(update(1, 11, 2), None).unwrap().seq,
        number + 1,
        "within one millisecond"
    );
}

#[test]
fn catch_up_publishes_new_states_once() {
    let mut book = book();
    let other = |time| market_update("MATCH_001", "btts", None, time, 1);
    book.restore([held(update(1, 10, 1), 5), held(other(10), 6)]);
    let stored = vec![
        held(other(12), 9),
        held(update(1, 10, 1), 5),
        held(other(11), 8),
    ];
    let published = book.catch_up(stored.clone());
    assert_eq!(
        published.iter().map(|state| state.seq).collect::<Vec<_>>(),
        [9]
    );
    assert!(book.catch_up(stored).is_empty());
    // A change that was published before the missed one was read.
    book.mirror(other(13), Some(15)).unwrap();
    assert_eq!(book.catch_up(vec![held(update(1, 11, 1), 12)])[0].seq, 16);
}

/// A book that started without the database applies older revisions first. What the database knows
/// must still reach clients, which drop numbers that are not above the last one of the event.
#[test]
fn restored_states_get_higher_numbers() {
    let of = |market: &str, time: i64| market_update("MATCH_001", market, None, time, 1);
    let mut book = book();
    assert_eq!(book.apply(of("a", 10), 49).unwrap().seq, 50);
    assert_eq!(book.apply(of("b", 10), 99).unwrap().seq, 100);
    book.restore([
        held(of("c", 10), 101),
        held(of("b", 9), 90),
        held(of("d", 10), 40),
        held(of("a", 11), 90),
    ]);
    let states = book.snapshot().markets;
    let restored: Vec<_> = states
        .iter()
        .map(|state| (state.update.market.to_string(), state.seq))
        .collect();
    let expected = [("a", 103), ("b", 100), ("c", 101), ("d", 102)];
    assert_eq!(
        restored,
        expected.map(|(market, seq)| (market.to_owned(), seq))
    );
    assert_eq!(states[0].update, of("a", 11));
    assert_eq!(book.snapshot().seq, 103);
}

/// A forged revision is followed by the true one, which is earlier: the state of the hot copy
/// replaces the forged one, with a larger number.
#[test]
fn correction_restores_known_state() {
    let mut book = book();
    book.mirror(update(1, 10, 1), Some(5)).unwrap();
    book.mirror(update(1, 400, 1), Some(6)).unwrap();
    assert_eq!(
        book.mirror(update(1, 11, 1), Some(6)),
        Err(Rejection::Older)
    );
    let doubtful = BTreeSet::from([update(1, 0, 0).market]);
    let known = [held(update(1, 11, 1), 6)];
    let latest = update(1, 100, 1).revision.updated_at;
    let changed = book.correct(&doubtful, &known, latest);
    assert_eq!(
        (changed[0].update.clone(), changed[0].seq),
        (update(1, 11, 1), 7)
    );
    assert_eq!(book.correct(&doubtful, &known, latest), [], "once");
    assert_eq!(
        book.mirror(update(1, 12, 1), Some(7)).unwrap().seq,
        8,
        "the next true update is applied"
    );
}

#[test]
fn unconfirmed_market_is_suspended() {
    let mut book = book();
    let made_up = market_update("MATCH_001", "made_up", None, 10, 1);
    book.mirror(made_up.clone(), Some(5)).unwrap();
    let doubtful = BTreeSet::from([made_up.market.clone()]);
    let latest = update(1, 20, 1).revision.updated_at;
    let changed = book.correct(&doubtful, &[held(update(1, 9, 1), 3)], latest);
    assert_eq!(
        (changed[0].update.status, changed[0].seq),
        (MarketStatus::Suspended, 6)
    );
    // The original keeps one market of each event, so the absence of the others is no reason to
    // doubt them.
    let originals = held(update(1, 9, 1), number_of(update(1, 9, 1).revision));
    book.mirror(market_update("MATCH_001", "made_up", None, 11, 1), None)
        .unwrap();
    assert_eq!(
        book.correct(&doubtful, std::slice::from_ref(&originals), latest),
        []
    );
    assert_eq!(book.correct(&doubtful, &[], latest), []);
    let earlier = update(1, 10, 1).revision.updated_at;
    assert_eq!(
        book.correct(&doubtful, &[originals], earlier).len(),
        1,
        "ahead of the clock"
    );
}

#[test]
fn number_of_markets_is_bounded() {
    let mut book = book();
    let market = |number: usize| market_update("MATCH_001", &format!("m{number}"), None, 1, 1);
    for number in 0..MAX_MARKETS {
        book.apply(market(number), number as u64).unwrap();
    }
    assert_eq!(
        book.apply(market(MAX_MARKETS), 20_000),
        Err(Rejection::TooManyMarkets)
    );
    assert_eq!(
        book.mirror(market(MAX_MARKETS), Some(20_000)),
        Err(Rejection::TooManyMarkets)
    );
    book.restore([held(market(MAX_MARKETS), 20_000)]);
    assert_eq!(book.snapshot().markets.len(), MAX_MARKETS);
    assert!(
        book.apply(market_update("MATCH_001", "m0", None, 2, 1), 20_001)
            .is_ok(),
        "a known market is still updated"
    );
}

/// (market, time, version) of a random update.
fn moves() -> impl Strategy<Value = Vec<(u8, i64, i64)>> {
    proptest::collection::vec((0u8..3, 0i64..6, 0i64..3), 0..40)
}

fn made((market, time, version): (u8, i64, i64)) -> OddsUpdate {
    market_update("MATCH_001", &format!("m{market}"), None, time, version)
}

proptest! {
    #[test]
    fn state_is_latest_in_any_order(
        moves in moves(), seed in any::<u64>()
    ) {
        let mut shuffled = moves.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let fold = |moves: &[(u8, i64, i64)]| {
            let mut book = book();
            for (position, one) in moves.iter().enumerate() {
                let _ = book.apply(made(*one), position as u64);
            }
            book.snapshot().markets.iter().map(|state| state.update.clone()).collect::<Vec<_>>()
        };
        let mut model: BTreeMap<MarketKey, OddsUpdate> = BTreeMap::new();
        for one in &moves {
            let update = made(*one);
            let newer = model.get(&update.market).is_none_or(|held| held.revision < update.revision);
            if newer { model.insert(update.market.clone(), update); }
        }
        prop_assert_eq!(fold(&moves), model.into_values().collect::<Vec<_>>());
        prop_assert_eq!(fold(&moves), fold(&shuffled));
    }

    /// Whatever is received, with any numbers, lost or late: the mirror ends at the latest
    /// state of each market, and the numbers it publishes only grow.
    #[test]
    fn mirror_ends_at_latest_state(
        moves in proptest::collection::vec(((0u8..3, 0i64..6, 0i64..3), proptest::option::of(0u64..100), 0u8..3), 0..40)
    ) {
        let mut book = book();
        let mut last = 0;
        let mut latest: BTreeMap<MarketKey, Arc<MarketState>> = BTreeMap::new();
        for (one, seq, fate) in moves {
            let update = made(one);
            let state = held(update.clone(), seq.unwrap_or(1));
            if latest.get(&update.market).is_none_or(|held| held.update.revision < update.revision) {
                latest.insert(update.market.clone(), state);
            }
            let published = match fate {
                0 => Vec::new(),
                1 => book.catch_up(latest.values().cloned().collect()),
                _ => book.mirror(update, seq).into_iter().collect(),
            };
            for state in published {
                prop_assert!(state.seq > last);
                last = state.seq;
            }
        }
        book.catch_up(latest.values().cloned().collect());
        let ends: Vec<_> = book.snapshot().markets.iter().map(|state| state.update.clone()).collect();
        prop_assert_eq!(ends, latest.into_values().map(|state| state.update.clone()).collect::<Vec<_>>());
    }

    #[test]
    fn seq_grows_and_replay_changes_nothing(moves in moves()) {
        let mut book = book();
        let mut last = 0;
        for (position, one) in moves.iter().enumerate() {
            if let Ok(state) = book.apply(made(*one), position as u64) {
                prop_assert!(state.seq > last);
                prop_assert_eq!(state.seq, position as u64 + 1);
                last = state.seq;
            }
        }
        let before = book.snapshot();
        for (position, one) in moves.iter().enumerate() {
            prop_assert!(book.apply(made(*one), position as u64).is_err());
        }
        prop_assert_eq!(book.snapshot(), before);
    }
}

/// Another process has skipped numbers that this one does not know of.
#[test]
fn larger_number_of_held_state_is_taken_over() {
    let mut book = Book::new(EventId::new("MATCH_001").unwrap());
    let first = book.mirror(update(1, 1, 1), Some(7)).unwrap();
    let market = first.update.market.clone();
    assert_eq!(book.agree(&market, 6), None);
    assert_eq!(book.agree(&market, 7), None);
    assert_eq!(book.agree(&market, 8), None, "no jump");
    let raised = book.agree(&market, 100_000_007).unwrap();
    assert_eq!((&raised.update, raised.seq), (&first.update, 100_000_007));
    assert_eq!(book.snapshot().seq, 100_000_007);
    assert!(book.is_shared());
    let unknown = market_update("MATCH_001", "btts", None, 1, 1).market;
    assert_eq!(book.agree(&unknown, 200_000_000), None);
    assert_eq!(book.snapshot().seq, 100_000_007);
}
