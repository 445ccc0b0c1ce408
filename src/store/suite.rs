//! The contract of every store: checks written against the trait, run for each database by
//! [`store_suite`].

pub(crate) mod events;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use pretty_assertions::assert_eq;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::batch::PRUNE_LIMIT;
use super::events::EventSummary;
use super::*;
use crate::domain::ids::Source;
use crate::domain::odds::book::{Book, LOST_NUMBERS};
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::testing::{any_update, market_update, update};

/// Generates one test per check. `$open` returns a migrated store and a guard that lives as long as
/// the store. The attributes after it are added to the tests.
macro_rules! store_suite {
    ($open:expr $(, #[$attribute:meta])*) => {
        #[rstest::rstest]
        #[case::migrate_again($crate::store::suite::migrate_again)]
        #[case::nothing($crate::store::suite::empty_store_returns_nothing)]
        #[case::stream_epoch($crate::store::suite::stream_epoch_never_changes)]
        #[case::newer_wins($crate::store::suite::newer_revision_wins)]
        #[case::one_batch($crate::store::suite::last_applied_in_batch_stays)]
        #[case::markets_and_lines($crate::store::suite::markets_and_lines_are_independent)]
        #[case::replay($crate::store::suite::replay_changes_nothing)]
        #[case::any_order($crate::store::suite::order_does_not_change_the_result)]
        #[case::like_the_book($crate::store::suite::store_agrees_with_the_book)]
        #[case::recreated_bus($crate::store::suite::recreated_bus_keeps_seqs_increasing)]
        #[case::published_states($crate::store::suite::published_states_keep_their_numbers)]
        #[case::supplier_restart($crate::store::suite::restarted_supplier_is_followed)]
        #[case::two_sources($crate::store::suite::equal_revisions_of_two_sources_are_recorded)]
        #[case::exact($crate::store::suite::every_update_reads_back_exactly)]
        #[case::extremes($crate::store::suite::extreme_values_read_back)]
        #[case::history_pages($crate::store::suite::history_pages_are_complete)]
        #[case::event_pages($crate::store::suite::event_pages_name_the_teams)]
        #[case::event_details($crate::store::suite::events::event_details_are_kept)]
        #[case::event_filters($crate::store::suite::events::filters_agree_with_the_model)]
        #[case::unfinished_markets($crate::store::suite::unfinished_markets_are_paged_by_source)]
        #[case::dead_letters($crate::store::suite::dead_letters_keep_every_byte)]
        #[case::prune($crate::store::suite::prune_removes_bounded_oldest_rows)]
        #[case::refused_batch($crate::store::suite::rejected_batch_leaves_nothing)]
        #[case::writers_at_once($crate::store::suite::concurrent_writers_agree)]
        $(#[$attribute])*
        fn every_store(#[case] check: fn(&dyn Store)) {
            let (store, _kept) = $open;
            check(&store);
        }
    };
}
pub(crate) use store_suite;

/// Updates at consecutive positions, starting at `first`.
pub(super) fn positioned(
    first: u64,
    updates: impl IntoIterator<Item = OddsUpdate>,
) -> Vec<PositionedUpdate> {
    (first..)
        .zip(updates)
        .map(|(position, update)| PositionedUpdate {
            trace: None,
            update,
            partition: 0,
            position,
        })
        .collect()
}

/// The stored states of an event.
pub(super) fn states(store: &dyn Store, event: &str) -> Vec<MarketState> {
    let states = store.load_event(&EventId::new(event).unwrap()).unwrap();
    states
        .iter()
        .map(|state| MarketState::clone(state))
        .collect()
}

/// The whole history of a market, read page by page.
pub(super) fn history(store: &dyn Store, event: &EventId, market: &MarketKey) -> Vec<HistoryEntry> {
    pages(store, all_of(event, market, 7))
}

fn all_of(event: &EventId, market: &MarketKey, limit: usize) -> HistoryQuery {
    HistoryQuery {
        event_id: event.clone(),
        market: market.clone(),
        from: None,
        to: None,
        after: None,
        limit,
    }
}

fn pages(store: &dyn Store, mut query: HistoryQuery) -> Vec<HistoryEntry> {
    let mut entries: Vec<HistoryEntry> = Vec::new();
    loop {
        let page = store.history(&query).unwrap();
        assert!(page.len() <= query.limit);
        let Some(last) = page.last() else {
            return entries;
        };
        query.after = Some(last.cursor);
        entries.extend(page);
    }
}

/// The revisions in the history of the market of `update`.
fn revisions(store: &dyn Store, update: &OddsUpdate) -> Vec<Revision> {
    history(store, &update.event_id, &update.market)
        .into_iter()
        .map(|entry| entry.update.revision)
        .collect()
}

/// An update as the history returns it.
fn without_teams(update: &OddsUpdate) -> OddsUpdate {
    OddsUpdate {
        home_team: String::new(),
        away_team: String::new(),
        ..without_details(update)
    }
}

/// An update as loaded for a book: only the list of events has the event details.
fn without_details(update: &OddsUpdate) -> OddsUpdate {
    OddsUpdate {
        sport: None,
        start_time: None,
        ..update.clone()
    }
}

/// Only the markets of the source with the status, in pages that are complete and do not overlap.
pub(super) fn unfinished_markets_are_paged_by_source(store: &dyn Store) {
    let of = |source: &str| Source::new(source).unwrap();
    let market = |event: &str, name: &str, line, source: &str, status| OddsUpdate {
        source: of(source),
        status,
        ..market_update(event, name, line, 1, 1)
    };
    let open = MarketStatus::Open;
    let mut wanted = vec![
        market("PAGED_1", "1x2", None, "paged", open),
        market("PAGED_1", "total", Some("1.5"), "paged", open),
        market("PAGED_1", "total", Some("2.5"), "paged", open),
        market("PAGED_2", "1x2", None, "paged", open),
        market("PAGED_2", "btts", None, "paged", MarketStatus::Suspended),
    ];
    let others = [
        market("PAGED_2", "total", None, "paged", MarketStatus::Closed),
        market("PAGED_3", "1x2", None, "other", open),
        market("PAGED_3", "total", None, "ended", MarketStatus::Closed),
    ];
    let all = wanted.iter().cloned().chain(others);
    store.write_updates(&positioned(0, all)).unwrap();
    wanted
        .iter_mut()
        .for_each(|update| *update = without_details(update));
    let (wanted_suspended, wanted_open): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .partition(|update| update.status == MarketStatus::Suspended);
    let pages = (1..7).flat_map(|limit| {
        [
            (limit, open, &wanted_open),
            (limit, MarketStatus::Suspended, &wanted_suspended),
        ]
    });
    for (limit, status, wanted) in pages {
        let mut query = MarketsOfSourceQuery {
            source: of("paged"),
            status,
            after: None,
            limit,
        };
        let mut read = Vec::new();
        loop {
            let page = store.unfinished_markets(&query).unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            query.after = Some((last.event_id.clone(), last.market.clone()));
            read.extend(page);
        }
        assert_eq!(&read, wanted, "{status}, pages of {limit}");
    }
    let sources = store.sources_of_unfinished_markets().unwrap();
    assert!(sources.contains(&of("paged")) && sources.contains(&of("other")));
    assert!(!sources.contains(&of("ended")));
    let distinct: BTreeSet<_> = sources.iter().collect();
    assert_eq!(distinct.len(), sources.len());
}

/// The whole list of events, read page by page.
pub(super) fn listed(store: &dyn Store, mut query: EventQuery) -> Vec<EventSummary> {
    let mut events = Vec::new();
    query.limit = if query.limit == 0 { 10 } else { query.limit };
    loop {
        let page = store.list_events(&query).unwrap();
        assert!(page.events.len() <= query.limit);
        events.extend(page.events);
        let Some(next) = page.next else { return events };
        query.after = Some(next);
    }
}

fn report(applied: usize, recorded: usize) -> BatchReport {
    BatchReport { applied, recorded }
}

/// Runs a property with a separate event for each case.
fn for_all<S: Strategy>(strategy: S, check: impl Fn(&str, S::Value) -> Result<(), TestCaseError>) {
    let case = Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&strategy, |value| {
        case.set(case.get() + 1);
        check(&format!("CASE_{}", case.get()), value)
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// (market, time, version) of a random update.
type Move = (u8, i64, i64);

fn moves() -> impl Strategy<Value = Vec<Move>> {
    proptest::collection::vec((0u8..3, 0i64..6, 0i64..3), 1..40)
}

fn update_for(event: &str, (market, time, version): Move) -> OddsUpdate {
    let (name, line) = [
        ("1x2", None),
        ("goals", Some("2.5")),
        ("goals", Some("-0.25")),
    ][usize::from(market)];
    market_update(event, name, line, time, version)
}

/// Writes updates in batches, cycling through the given sizes.
fn write_in_batches(
    store: &dyn Store,
    updates: &[PositionedUpdate],
    sizes: &[usize],
) -> BatchReport {
    let mut rest = updates;
    let mut total = report(0, 0);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (batch, remaining) = rest.split_at((*size).min(rest.len()));
        let one = store.write_updates(batch).unwrap();
        total = report(total.applied + one.applied, total.recorded + one.recorded);
        rest = remaining;
    }
    total
}

pub(super) fn migrate_again(store: &dyn Store) {
    store
        .write_updates(&positioned(0, [update(1, 1, 1)]))
        .unwrap();
    store.migrate().unwrap();
    store.ping().unwrap();
    assert_eq!(states(store, "MATCH_001").len(), 1);
}

pub(super) fn empty_store_returns_nothing(store: &dyn Store) {
    let event = EventId::new("MATCH_001").unwrap();
    assert_eq!(store.write_updates(&[]), Ok(report(0, 0)));
    assert_eq!(store.write_dead_letters(&[]), Ok(()));
    assert_eq!(store.load_event(&event), Ok(vec![]));
    assert_eq!(listed(store, EventQuery::default()), []);
    assert_eq!(
        store.history(&all_of(&event, &update(1, 1, 1).market, 10)),
        Ok(vec![])
    );
    assert_eq!(store.list_dead_letters(10), Ok(vec![]));
    assert_eq!(
        store.prune(Timestamp::now(), Timestamp::now()),
        Ok(PruneReport::default())
    );
}

pub(super) fn stream_epoch_never_changes(store: &dyn Store) {
    let epoch = store.stream_epoch().unwrap();
    assert_eq!(epoch.len(), 16, "{epoch}");
    store.migrate().unwrap();
    assert_eq!(store.stream_epoch().unwrap(), epoch);
}

pub(super) fn newer_revision_wins(store: &dyn Store) {
    let write = |position, update| {
        store
            .write_updates(&positioned(position, [update]))
            .unwrap()
    };
    assert_eq!(write(0, update(1, 10, 5)), report(1, 1));
    assert_eq!(write(1, update(1, 10, 6)), report(1, 1), "newer by version");
    assert_eq!(write(2, update(1, 10, 6)), report(0, 0), "duplicate");
    assert_eq!(write(3, update(1, 9, 99)), report(0, 1), "older by time");
    assert_eq!(write(4, update(1, 11, 1)), report(1, 1), "newer by time");
    assert_eq!(
        states(store, "MATCH_001"),
        [MarketState {
            update: update(1, 11, 1),
            seq: 5
        }]
    );
    let expected: Vec<_> = [(9, 99), (10, 5), (10, 6), (11, 1)]
        .map(|(t, v)| update(1, t, v).revision)
        .into();
    assert_eq!(revisions(store, &update(1, 1, 1)), expected);
}

pub(super) fn last_applied_in_batch_stays(store: &dyn Store) {
    let batch = positioned(
        7,
        [
            update(1, 1, 1),
            update(1, 3, 1),
            update(1, 2, 1),
            update(1, 3, 1),
            update(2, 1, 1),
        ],
    );
    assert_eq!(store.write_updates(&batch), Ok(report(3, 4)));
    assert_eq!(
        states(store, "MATCH_001"),
        [MarketState {
            update: update(1, 3, 1),
            seq: 9
        }]
    );
    assert_eq!(
        states(store, "MATCH_002"),
        [MarketState {
            update: update(2, 1, 1),
            seq: 12
        }]
    );
}

pub(super) fn markets_and_lines_are_independent(store: &dyn Store) {
    let updates = [
        market_update("MATCH_001", "1x2", None, 1, 1),
        market_update("MATCH_001", "goals", None, 1, 1),
        market_update("MATCH_001", "goals", Some("2.5"), 1, 1),
        market_update("MATCH_001", "goals", Some("3.5"), 1, 1),
        market_update("MATCH_001", "goals", Some("0"), 1, 1),
        market_update("MATCH_001", "goals@2.5", None, 1, 1),
        market_update("MATCH_001", "handicap", Some("-1"), 1, 1),
    ];
    // Twice, because a market without a line must be found again too.
    for round in 0..2 {
        let newer = updates.iter().cloned().map(|mut update| {
            update.revision.version += round;
            update
        });
        assert_eq!(
            store.write_updates(&positioned(10 * round as u64, newer)),
            Ok(report(7, 7))
        );
    }
    let keys: Vec<_> = states(store, "MATCH_001")
        .iter()
        .map(|state| state.update.market.to_string())
        .collect();
    assert_eq!(
        keys,
        [
            "1x2",
            "goals",
            "goals@0",
            "goals@2.5",
            "goals@3.5",
            "goals%402.5",
            "handicap@-1"
        ]
    );
    for update in &updates {
        assert_eq!(revisions(store, update).len(), 2, "{}", update.market);
    }
}

pub(super) fn replay_changes_nothing(store: &dyn Store) {
    for_all(
        (moves(), proptest::collection::vec(1usize..9, 1..4)),
        |event, (moves, sizes)| {
            let updates = positioned(0, moves.into_iter().map(|one| update_for(event, one)));
            write_in_batches(store, &updates, &[500]);
            let before = states(store, event);
            prop_assert_eq!(write_in_batches(store, &updates, &sizes), report(0, 0));
            prop_assert_eq!(states(store, event), before);
            Ok(())
        },
    );
}

pub(super) fn order_does_not_change_the_result(store: &dyn Store) {
    let sizes = || proptest::collection::vec(1usize..9, 1..4);
    for_all(
        (moves(), sizes(), any::<u64>()),
        |event, (moves, sizes, seed)| {
            let mut shuffled = moves.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            let write = |event: &str, moves: &[Move]| {
                let updates = positioned(0, moves.iter().map(|one| update_for(event, *one)));
                write_in_batches(store, &updates, &sizes);
                states(store, event)
                    .into_iter()
                    .map(|state| state.update)
                    .collect::<Vec<_>>()
            };
            let other = format!("{event}_SHUFFLED");
            let renamed = |mut update: OddsUpdate| {
                update.event_id = EventId::new(event).unwrap();
                update
            };
            let current = write(event, &moves);
            prop_assert_eq!(
                write(&other, &shuffled)
                    .into_iter()
                    .map(renamed)
                    .collect::<Vec<_>>(),
                current
            );

            let mut distinct: BTreeMap<u8, BTreeSet<Revision>> = BTreeMap::new();
            for one in &moves {
                distinct
                    .entry(one.0)
                    .or_default()
                    .insert(update_for(event, *one).revision);
            }
            for (market, expected) in distinct {
                let expected: Vec<_> = expected.into_iter().collect();
                prop_assert_eq!(
                    &revisions(store, &update_for(event, (market, 0, 0))),
                    &expected
                );
                prop_assert_eq!(
                    &revisions(store, &update_for(&other, (market, 0, 0))),
                    &expected
                );
            }
            Ok(())
        },
    );
}

pub(super) fn store_agrees_with_the_book(store: &dyn Store) {
    let sizes = proptest::collection::vec(1usize..9, 1..4);
    // Positions that jump ahead, and that start again.
    let positions = proptest::collection::vec(0u64..200, 40);
    for_all(
        (moves(), sizes, positions),
        |event, (moves, sizes, positions)| {
            let updates: Vec<_> = moves
                .into_iter()
                .zip(positions)
                .map(|(one, position)| PositionedUpdate {
                    trace: None,
                    update: update_for(event, one),
                    partition: 0,
                    position,
                })
                .collect();
            let mut book = Book::new(EventId::new(event).unwrap());
            let taken = updates
                .iter()
                .filter(|one| book.apply(one.update.clone(), one.position).is_ok())
                .count();
            prop_assert_eq!(write_in_batches(store, &updates, &sizes).applied, taken);
            prop_assert_eq!(
                store.load_event(&EventId::new(event).unwrap()).unwrap(),
                book.snapshot().markets
            );
            Ok(())
        },
    );
}

/// The store has read a recreated bus before the last states of the old one are written.
pub(super) fn published_states_keep_their_numbers(store: &dyn Store) {
    let market = |name: &str, time| market_update("MATCH_001", name, None, time, 1);
    let state = |update: OddsUpdate, seq| Arc::new(MarketState { update, seq });
    store
        .write_updates(&positioned(899, [market("1x2", 1)]))
        .unwrap();
    store
        .write_updates(&positioned(0, [market("1x2", 3)]))
        .unwrap();
    let published = [
        state(market("btts", 2), 990),
        state(market("1x2", 2), 1_000),
        state(update(2, 1, 1), 7),
    ];
    let written = store.write_states(&published);
    assert_eq!(written, Ok(report(2, 3)));
    let seqs = |event: &str| {
        let state = |state: MarketState| (state.update, state.seq);
        states(store, event)
            .into_iter()
            .map(state)
            .collect::<Vec<_>>()
    };
    let raised = 1_000 + LOST_NUMBERS;
    let expected = [(market("1x2", 3), raised), (market("btts", 2), 990)];
    assert_eq!(seqs("MATCH_001"), expected);
    assert_eq!(seqs("MATCH_002"), [(update(2, 1, 1), 7)]);
    assert_eq!(store.write_states(&published), Ok(report(0, 0)));
    assert_eq!(seqs("MATCH_001"), expected);
    store
        .write_updates(&positioned(1, [market("btts", 4)]))
        .unwrap();
    assert_eq!(seqs("MATCH_001")[1], (market("btts", 4), raised + 1));
    assert_eq!(store.write_states(&[]), Ok(report(0, 0)));
}

pub(super) fn recreated_bus_keeps_seqs_increasing(store: &dyn Store) {
    let seqs = |store: &dyn Store| {
        states(store, "MATCH_001")
            .into_iter()
            .map(|state| state.seq)
            .collect::<Vec<_>>()
    };
    store
        .write_updates(&positioned(
            999,
            [market_update("MATCH_001", "1x2", None, 1, 1)],
        ))
        .unwrap();
    store
        .write_updates(&positioned(
            0,
            [market_update("MATCH_001", "btts", None, 1, 1)],
        ))
        .unwrap();
    assert_eq!(
        seqs(store),
        [1_000, 1_001],
        "seqs are per event, not per market"
    );
    let batch = [
        market_update("MATCH_001", "1x2", None, 2, 1),
        market_update("MATCH_001", "btts", None, 2, 1),
    ];
    store.write_updates(&positioned(1, batch)).unwrap();
    assert_eq!(seqs(store), [1_002, 1_003]);
    store
        .write_updates(&positioned(
            5_000,
            [market_update("MATCH_001", "1x2", None, 3, 1)],
        ))
        .unwrap();
    assert_eq!(seqs(store), [5_001, 1_003]);
}

pub(super) fn restarted_supplier_is_followed(store: &dyn Store) {
    store
        .write_updates(&positioned(0, [update(1, 10, 978)]))
        .unwrap();
    assert_eq!(
        store.write_updates(&positioned(1, [update(1, 11, 1)])),
        Ok(report(1, 1))
    );
    assert_eq!(states(store, "MATCH_001")[0].update.revision.version, 1);
}

pub(super) fn equal_revisions_of_two_sources_are_recorded(store: &dyn Store) {
    let other = OddsUpdate {
        source: Source::new("other").unwrap(),
        ..update(1, 1, 1)
    };
    assert_eq!(
        store.write_updates(&positioned(0, [update(1, 1, 1), other.clone()])),
        Ok(report(1, 2))
    );
    let entries = history(store, &other.event_id, &other.market);
    let sources: Vec<_> = entries
        .iter()
        .map(|entry| entry.update.source.as_str())
        .collect();
    assert_eq!(sources, ["test", "other"]);
    assert!(entries[0].cursor < entries[1].cursor);
    let page = HistoryQuery {
        after: Some(entries[0].cursor),
        ..all_of(&other.event_id, &other.market, 5)
    };
    assert_eq!(store.history(&page).unwrap(), [entries[1].clone()]);
}

pub(super) fn every_update_reads_back_exactly(store: &dyn Store) {
    for_all(any_update(), |event, mut update| {
        update.event_id = EventId::new(event).unwrap();
        let batch = positioned(0, [update.clone()]);
        prop_assert_eq!(store.write_updates(&batch).unwrap(), report(1, 1));
        prop_assert_eq!(
            states(store, event),
            [MarketState {
                update: without_details(&update),
                seq: 1
            }]
        );

        let entries = history(store, &update.event_id, &update.market);
        prop_assert_eq!(entries.len(), 1);
        prop_assert_eq!(&entries[0].update, &without_teams(&update));
        prop_assert_eq!(entries[0].cursor.revision, update.revision);
        Ok(())
    });
}

pub(super) fn extreme_values_read_back(store: &dyn Store) {
    let mut written = Vec::new();
    let texts = [
        "",
        "São Paulo \"Ñ\" \\ 'x' \u{1F3C7} \u{feff}\u{200d}",
        "line\nbreak\ttab",
        "'); DROP TABLE odds_current; --",
    ];
    let times = [
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59.999999Z",
    ];
    for (index, (text, version)) in texts.iter().zip([i64::MIN, i64::MAX, 0, -1]).enumerate() {
        let mut update = market_update(
            "É 'x' \"y\" 1.2",
            "1x2",
            Some(["-100000", "100000", "0.001", "-0.5"][index]),
            1,
            1,
        );
        update.home_team = (*text).to_owned();
        update.away_team = text.repeat(50);
        update.selections[0].name = (*text).to_owned();
        update.selections[0].price = [1_001, 1_000_000, 999_999, 10_000]
            .map(crate::domain::odds::price::Price::from_thousandths)[index];
        update.selections[1].price = None;
        update.revision = Revision {
            updated_at: times[index % 3].parse().unwrap(),
            version,
        };
        written.push(update);
    }
    store
        .write_updates(&positioned(0, written.clone()))
        .unwrap();
    let mut read: Vec<_> = states(store, "É 'x' \"y\" 1.2")
        .into_iter()
        .map(|state| (state.seq, state.update))
        .collect();
    read.sort_by_key(|(seq, _)| *seq);
    assert_eq!(
        read.into_iter()
            .map(|(_, update)| update)
            .collect::<Vec<_>>(),
        written
    );
    for update in &written {
        assert_eq!(
            history(store, &update.event_id, &update.market)[0].update,
            without_teams(update)
        );
    }
}

pub(super) fn history_pages_are_complete(store: &dyn Store) {
    let second = |time: Option<i64>| time.map(|time| update(1, time, 0).revision.updated_at);
    let bound = || proptest::option::of(-1i64..8);
    for_all(
        (moves(), bound(), bound(), 1usize..6),
        |event, (moves, from, to, limit)| {
            write_in_batches(
                store,
                &positioned(0, moves.iter().map(|one| update_for(event, *one))),
                &[3],
            );
            let expected: BTreeSet<_> = moves
                .iter()
                .filter(|(market, time, _)| *market == 0 && from.is_none_or(|from| *time >= from))
                .filter(|(_, time, _)| to.is_none_or(|to| *time < to))
                .map(|one| update_for(event, *one).revision)
                .collect();
            let market = update_for(event, (0, 0, 0)).market;
            let query = HistoryQuery {
                from: second(from),
                to: second(to),
                ..all_of(&EventId::new(event).unwrap(), &market, limit)
            };
            let read: Vec<_> = pages(store, query.clone())
                .into_iter()
                .map(|entry| entry.update.revision)
                .collect();
            prop_assert_eq!(read, expected.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(
                store.history(&HistoryQuery { limit: 0, ..query }).unwrap(),
                vec![]
            );
            Ok(())
        },
    );
}

pub(super) fn event_pages_name_the_teams(store: &dyn Store) {
    let ids = [
        "1.197931750",
        "MATCH_1",
        "MATCH_10",
        "MATCH_2",
        "Zürich",
        "match_1",
        "Ábc",
        "ábc",
    ];
    let updates = ids
        .iter()
        .rev()
        .map(|id| market_update(id, "1x2", None, 1, 1));
    store.write_updates(&positioned(0, updates)).unwrap();
    // The market that changed last provides the team names, whichever market that is.
    let sides = |market: &str, time, home: &str| OddsUpdate {
        home_team: home.to_owned(),
        ..market_update("MATCH_1", market, None, time, 1)
    };
    let changes = [
        sides("zz", 1, "Flamengo B"),
        sides("1x2", 2, "Flamengo A"),
        sides("zz", 0, "late"),
    ];
    store.write_updates(&positioned(100, changes)).unwrap();

    let read = listed(
        store,
        EventQuery {
            limit: 3,
            ..EventQuery::default()
        },
    );
    assert_eq!(
        read.iter()
            .map(|event| event.event_id.as_str())
            .collect::<Vec<_>>(),
        ids,
        "in byte order"
    );
    assert_eq!(
        (read[1].home_team.as_str(), read[1].away_team.as_str()),
        ("Flamengo A", "Palmeiras")
    );
    assert_eq!(read[0].home_team, "Flamengo");
    assert_eq!(
        store.list_events(&EventQuery::default()),
        Ok(EventPage::default()),
        "a page of zero events"
    );
}

fn letter(index: usize, raw: Vec<u8>) -> DeadLetter {
    DeadLetter {
        received_at: Timestamp::from_micros(1_762_722_465_000_001 + index as i64).unwrap(),
        origin: format!("odds_updates/{index}/7"),
        reason: "malformed".to_owned(),
        detail: "expected `,` at \"ção\"".to_owned(),
        raw: raw.into(),
    }
}

pub(super) fn dead_letters_keep_every_byte(store: &dyn Store) {
    let letters = [
        letter(0, (0..=255).collect()),
        letter(1, vec![]),
        letter(2, b"\xff\xfe\0\0".repeat(5_000)),
    ];
    store
        .write_dead_letters(&[letters[2].clone(), letters[0].clone()])
        .unwrap();
    store.write_dead_letters(&letters[1..2]).unwrap();
    let read = store.list_dead_letters(10).unwrap();
    let expected = [letters[2].clone(), letters[1].clone(), letters[0].clone()];
    assert_eq!(
        read.iter()
            .map(|stored| stored.letter.clone())
            .collect::<Vec<_>>(),
        expected
    );
    assert_eq!(store.list_dead_letters(1).unwrap(), read[..1]);
    assert_eq!(
        read.iter()
            .map(|stored| stored.id)
            .collect::<BTreeSet<_>>()
            .len(),
        3
    );
}

pub(super) fn prune_removes_bounded_oldest_rows(store: &dyn Store) {
    const MORE: usize = 7;
    let event = EventId::new("MATCH_001").unwrap();
    let old = positioned(
        0,
        (0..PRUNE_LIMIT + MORE).map(|time| update(1, time as i64, 1)),
    );
    write_in_batches(store, &old, &[500]);
    let between = Timestamp::now();
    while Timestamp::now() <= between {
        std::thread::yield_now();
    }
    // Late by the supplier's time, but recorded now.
    let young = update(1, -1_000, 1);
    store
        .write_updates(&positioned(99_999, [young.clone()]))
        .unwrap();
    let letters: Vec<_> = (0..PRUNE_LIMIT + MORE)
        .map(|index| letter(index, vec![1]))
        .collect();
    store.write_dead_letters(&letters).unwrap();
    let current = states(store, "MATCH_001");

    let letters_before = letters[letters.len() - 2].received_at;
    let prune = || {
        store
            .prune(
                Timestamp::from_micros(between.micros() + 1).unwrap(),
                letters_before,
            )
            .unwrap()
    };
    assert_eq!(
        prune(),
        PruneReport {
            history: PRUNE_LIMIT,
            dead_letters: PRUNE_LIMIT
        }
    );
    assert_eq!(
        prune(),
        PruneReport {
            history: MORE,
            dead_letters: MORE - 2
        },
        "a row of the exact time stays"
    );
    assert_eq!(prune(), PruneReport::default());
    let left = history(store, &event, &young.market);
    assert_eq!(
        left.into_iter()
            .map(|entry| entry.update)
            .collect::<Vec<_>>(),
        [without_teams(&young)]
    );
    let left: Vec<_> = store
        .list_dead_letters(10)
        .unwrap()
        .into_iter()
        .map(|stored| stored.letter)
        .collect();
    assert_eq!(
        left,
        [
            letters[letters.len() - 1].clone(),
            letters[letters.len() - 2].clone()
        ]
    );
    assert_eq!(
        states(store, "MATCH_001"),
        current,
        "the current state is never pruned"
    );
}

pub(super) fn rejected_batch_leaves_nothing(store: &dyn Store) {
    let mut batch = positioned(0, [update(1, 1, 1), update(2, 1, 1)]);
    batch[1].position = u64::MAX;
    assert!(matches!(
        store.write_updates(&batch),
        Err(StoreError::Refused(_))
    ));
    assert_eq!(listed(store, EventQuery::default()), []);
    assert_eq!(revisions(store, &update(1, 1, 1)), []);
    assert_eq!(
        store.write_updates(&batch[..1]),
        Ok(report(1, 1)),
        "the store still works"
    );
}

pub(super) fn concurrent_writers_agree(store: &dyn Store) {
    const EACH: i64 = 60;
    std::thread::scope(|scope| {
        for writer in 0..4u8 {
            scope.spawn(move || {
                let updates = positioned(
                    0,
                    (0..EACH)
                        .map(|time| update_for("MATCH_001", (time as u8 % 3, time, writer.into()))),
                );
                write_in_batches(store, &updates, &[5]);
            });
        }
    });
    let current: Vec<_> = states(store, "MATCH_001")
        .into_iter()
        .map(|state| state.update)
        .collect();
    assert_eq!(current.len(), 3);
    for market in 0..3u8 {
        let newest = update_for("MATCH_001", (market, EACH - 3 + i64::from(market), 3));
        assert!(current.contains(&newest), "{newest:?}");
        assert_eq!(revisions(store, &newest).len(), EACH as usize / 3 * 4);
    }
}
