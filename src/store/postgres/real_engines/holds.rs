//! Holds and processes of the previous version, which place bets without their sources.

use pretty_assertions::assert_eq;

use super::support::{Database, column, execute};
use super::*;
use crate::domain::odds::hold::HoldScope;
use crate::store::holds::{HoldOrder, HoldStep, HoldStore, Released};
use crate::store::money::WalletStore;
use crate::store::money_suite::{at, order};

/// The outcome of a bet on `1x2` of `MATCH_001`, placed as the previous version does.
fn place(database: &Database, number: usize) -> Vec<String> {
    let id = format!("01990000-0000-7000-8000-{number:012}");
    let call = format!(
        "SELECT outcome || COALESCE(' ' || refused, '') AS text FROM bets_place(true, ARRAY['{id}'::UUID], ARRAY['A'],
            ARRAY['MATCH_001'], ARRAY['1x2'], ARRAY[''], ARRAY['home'], ARRAY[10::BIGINT], ARRAY[1500], ARRAY[now()],
            ARRAY['{id}'::UUID], ARRAY[NULL::TEXT], ARRAY[NULL::TEXT], ARRAY['payload'], ARRAY[now()], ARRAY[now()])"
    );
    column(&mut database.connection(), &call)
}

#[test]
#[ignore = "needs the real engines: make test"]
fn previous_version_respects_holds() {
    let (store, database) = Database::migrated();
    store.deposit(&order("A", 1_000, "d")).unwrap();
    let update = update(1, 1, 1);
    let source = update.source.clone();
    let step = |reason: &str| HoldStep {
        at: at(0),
        by: "operator".to_owned(),
        reason: reason.to_owned(),
    };
    let hold = |scope| {
        let order = HoldOrder {
            request: uuid::Uuid::now_v7(),
            scope,
            until: None,
            step: step("suspicious"),
        };
        store.set_hold(&order).unwrap()
    };
    let release = |id| {
        let released = store.release_hold(id, &step("resolved")).unwrap();
        assert!(matches!(released, Released::Now(_)), "{released:?}");
    };
    let suspended = ["REFUSED {\"MARKET_SUSPENDED\":{\"status\":\"suspended\"}}"];
    assert_eq!(place(&database, 1), ["PLACED"]);
    let id = hold(HoldScope::Event(update.event_id.clone()));
    assert_eq!(place(&database, 2), suspended);
    release(id);
    // The source is that of the stored state. A market that is not stored has none.
    let id = hold(HoldScope::Source(source));
    assert_eq!(place(&database, 3), ["PLACED"]);
    store.write_updates(&positioned(1, [update])).unwrap();
    assert_eq!(place(&database, 4), suspended);
    release(id);
    assert_eq!(place(&database, 5), ["PLACED"]);
    assert_eq!(
        column(
            &mut database.connection(),
            "SELECT hold_id || ' ' || action AS text FROM hold_audit ORDER BY id"
        ),
        ["1 set", "1 release", "2 set", "2 release"]
    );
}

/// The lookup of holds uses its index, however many were released.
#[test]
#[ignore = "needs the real engines: make test"]
fn released_holds_cost_nothing() {
    let (_store, database) = Database::migrated();
    let mut connection = database.connection();
    execute(
        &mut connection,
        "INSERT INTO holds (request, scope, reason, created_by, created_at, release_reason, released_by, released_at)
        SELECT gen_random_uuid(), 'all', 'r', 'o', now(), 'r', 'o', now() FROM generate_series(1, 20000)",
    );
    execute(&mut connection, "VACUUM ANALYZE holds");
    let plan = column(
        &mut connection,
        "EXPLAIN SELECT FROM holds WHERE released_at IS NULL",
    )
    .join("\n");
    assert!(plan.contains("holds_not_released"), "{plan}");
}
