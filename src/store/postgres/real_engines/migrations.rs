//! The migration to settlement, while the previous version runs.

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use pretty_assertions::assert_eq;

use super::super::Migrated;
use super::support::{Database, column, execute};
use super::*;
use crate::store::money::{LedgerAudit, WalletStore};
use crate::store::money_suite::{assert_clean, order, settling};

/// The last migration before settlement.
const BEFORE: &str = "20261129050000";
/// The migration after which only indexes are missing.
const TABLES: &str = "20261129200000";
/// The migration before `outbox_traceparent`.
const INDEXES_BUILT: &str = "20261129200400";
const INDEX: &str =
    include_str!("../../../../migrations/postgres/2026-11-29-200100_open_bets_of_market/up.sql");
const INDEXES: &str = "SELECT indexrelid::regclass || ' ' || indisvalid AS text FROM pg_index
    WHERE indexrelid::regclass::text IN ('bets_open_of_market', 'bets_settled_of_market', 'bets_held', 'wallets_that_owe')
    ORDER BY 1";
const ALL_INDEXES: [&str; 4] = [
    "bets_held true",
    "bets_open_of_market true",
    "bets_settled_of_market true",
    "wallets_that_owe true",
];
const USERS: usize = 50;

/// Runs the migrations up to this version.
fn migrate_to(connection: &mut PgConnection, last: &str) {
    for migration in connection.pending_migrations(migrate::MIGRATIONS).unwrap() {
        if migration.name().version().to_string().as_str() <= last {
            connection.run_migration(&migration).unwrap();
        }
    }
}

/// Users with money.
fn users(database: &Database) {
    let store = database.store();
    for user in 1..=USERS {
        store
            .deposit(&order(&format!("U{user}"), 1_000_000, "d"))
            .unwrap();
    }
}

/// Places a bet of each user and confirms two of three, as the previous version does. Returns the
/// outcomes.
fn place_and_decide(connection: &mut PgConnection, round: usize) -> Vec<String> {
    let id =
        format!("('01990000-0000-7000-8000-' || lpad(({round} * 1000 + n)::text, 12, '0'))::UUID");
    let each = |value: &str| {
        format!("ARRAY(SELECT {value} FROM generate_series(1, {USERS}) AS n ORDER BY n)")
    };
    let (ids, users, now) = (each(&id), each("'U' || n"), each("now()"));
    let text = |text: &str| each(&format!("'{text}'"));
    let none = each("NULL::TEXT");
    let place = format!(
        "SELECT outcome AS text FROM bets_place(true, {ids}, {users}, {}, {}, {}, {}, {}, {}, {}, {}, {ids}, {none},
            {none}, {}, {now}, {now})",
        text("MATCH_001"),
        text("1x2"),
        text(""),
        text("home"),
        text("a"),
        each("10::BIGINT"),
        each("1500"),
        each("now() + INTERVAL '1 hour'"),
        text("{}"),
    );
    let decide = format!(
        "SELECT outcome AS text FROM bets_decide(true, {ids}, {}, {none}, {}, {}, {}, {now}, {now})",
        each("CASE WHEN n % 3 = 0 THEN 'REJECTED' ELSE 'CONFIRMED' END"),
        text("P"),
        each("false"),
        text("{}"),
    );
    let mut outcomes = column(connection, &place);
    outcomes.extend(column(connection, &decide));
    outcomes
}

fn assert_all_done(outcomes: &[String]) {
    let of = |text: &str| outcomes.iter().filter(|one| one.as_str() == text).count();
    assert_eq!(
        (of("PLACED"), of("DECIDED")),
        (USERS, USERS),
        "{outcomes:?}"
    );
}

/// Two new processes migrate while one of the previous version places and decides bets.
#[test]
#[ignore = "needs the real engines: make test"]
fn previous_version_works_during_the_migration() {
    const ROUNDS: usize = 60;
    let database = Database::new();
    let mut connection = database.connection();
    migrate_to(&mut connection, BEFORE);
    users(&database);
    for round in 0..ROUNDS {
        assert_all_done(&place_and_decide(&mut connection, round));
    }
    let is_done = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            let mut other = database.connection();
            let mut round = ROUNDS;
            while !is_done.load(Ordering::SeqCst) || round < ROUNDS + 5 {
                assert_all_done(&place_and_decide(&mut other, round));
                round += 1;
            }
            round
        });
        let migrating: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| database.store().migrate()))
            .collect();
        let migrated: Vec<_> = migrating
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        is_done.store(true, Ordering::SeqCst);
        assert_eq!(migrated, [Ok(()), Ok(())]);
        working.join().unwrap()
    });
    assert_eq!(column(&mut connection, INDEXES), ALL_INDEXES);
    let statuses = "SELECT status || ' ' || count(*) AS text FROM bets GROUP BY status ORDER BY 1";
    let rejected = rounds * (USERS / 3);
    assert_eq!(
        column(&mut connection, statuses),
        [
            format!("CONFIRMED {}", rounds * USERS - rejected),
            format!("REJECTED {rejected}")
        ]
    );
    let found = database
        .store()
        .verify(Timestamp::now(), Duration::from_secs(60));
    assert_eq!(found.unwrap().violations(), 0);
}

/// The tables of settlement are not dropped once a bet was settled.
#[test]
#[ignore = "needs the real engines: make test"]
fn settled_bet_keeps_its_tables() {
    let (store, database) = Database::migrated();
    store.deposit(&order("A", 1_000, "d")).unwrap();
    settling::confirmed_bet(&store, "E", ("A", 1, 10));
    settling::store_result(&store, settling::home("E", 1, "won"), 1);
    settling::settle_all(&store, 2);
    let mut connection = database.connection();
    let refused = connection
        .revert_all_migrations(migrate::MIGRATIONS)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("violate the new constraint"), "{refused}");
    store.migrate().unwrap();
    assert_clean(&store);
    assert_eq!(column(&mut connection, INDEXES), ALL_INDEXES);
}

/// An index that an interrupted migration left is not used, and is built again.
#[test]
#[ignore = "needs the real engines: make test"]
fn invalid_index_is_built_again() {
    let database = Database::new();
    let mut connection = database.connection();
    migrate_to(&mut connection, TABLES);
    users(&database);
    assert_all_done(&place_and_decide(&mut connection, 0));
    let mut other = database.connection();
    execute(&mut other, "BEGIN; LOCK TABLE bets IN ROW EXCLUSIVE MODE");
    execute(&mut connection, "SET statement_timeout = '300ms'");
    let interrupted = connection.batch_execute(INDEX).unwrap_err().to_string();
    assert!(interrupted.contains("statement timeout"), "{interrupted}");
    execute(&mut connection, "SET statement_timeout = 0");
    assert_eq!(
        column(&mut connection, INDEXES),
        ["bets_open_of_market false"]
    );
    execute(&mut other, "ROLLBACK");
    database.store().migrate().unwrap();
    assert_eq!(column(&mut connection, INDEXES), ALL_INDEXES);
}

/// A dump reads a table for as long as it takes. Others use the table meanwhile, although two
/// processes want to migrate it.
#[test]
#[ignore = "needs the real engines: make test"]
fn migration_behind_a_dump_lets_others_through() {
    let database = Database::new();
    let mut connection = database.connection();
    migrate_to(&mut connection, INDEXES_BUILT);
    users(&database);
    let mut dump = database.connection();
    execute(&mut dump, "BEGIN; LOCK TABLE outbox IN ACCESS SHARE MODE");
    let migrating = [database.store(), database.store()].map(|store| {
        std::thread::spawn(move || {
            let mut obstacles = Vec::new();
            while let Migrated::Waiting(obstacle) = store.try_migrate().unwrap() {
                obstacles.push(obstacle);
            }
            obstacles
        })
    });
    let waiting = "SELECT count(*)::text AS text FROM pg_locks
        WHERE relation = 'outbox'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted";
    let mut attempts = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    execute(&mut connection, "SET lock_timeout = '10s'");
    while attempts.len() < 3 {
        assert!(Instant::now() < deadline, "{attempts:?}");
        if column(&mut connection, waiting) == ["0"] {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        attempts.push(Instant::now());
        // Waits behind the migration, but not until the end of the dump.
        execute(&mut connection, "SELECT count(*) FROM outbox");
    }
    for two in attempts.windows(2) {
        assert!(two[1] - two[0] >= Duration::from_secs(4), "{attempts:?}");
    }
    execute(&mut dump, "ROLLBACK");
    let obstacles = migrating.map(|it| it.join().unwrap()).concat();
    let of_table = |text: &&String| text.starts_with("another transaction uses a table");
    assert!(obstacles.iter().any(|it| of_table(&it)), "{obstacles:?}");
    assert_eq!(database.store().try_migrate(), Ok(Migrated::Complete));
}
