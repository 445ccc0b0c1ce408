use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::migration::{Migration, MigrationSource};
use diesel::sqlite::Sqlite;
use diesel::sqlite::SqliteConnection;
use diesel_migrations::MigrationHarness;
use pretty_assertions::assert_eq;
use tempfile::TempDir;

use super::*;
use crate::domain::odds::update::testing::update;
use crate::store::suite::{self, positioned, states, store_suite};

store_suite!(migrated());

mod money {
    use super::*;
    use crate::store::money_suite::{Raw, money_suite};

    impl Raw for TempDir {
        const UNGUARD: &'static str = "PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF;
            DROP TRIGGER IF EXISTS ledger_transfers_stay; DROP TRIGGER IF EXISTS ledger_transfers_are_kept;
            DROP TRIGGER IF EXISTS market_results_stay; DROP TRIGGER IF EXISTS market_results_are_kept;
            DROP TRIGGER IF EXISTS bet_settlements_stay; DROP TRIGGER IF EXISTS bet_settlements_are_kept;
            DROP INDEX IF EXISTS ledger_transfers_by_reference";

        fn run(&self, sql: &str) -> Result<(), String> {
            other_connection(&self.path().join("odds.db"))
                .batch_execute(sql)
                .map_err(|error| error.to_string())
        }
    }

    money_suite!(migrated());
}

mod access {
    use super::*;
    use crate::store::access_suite::access_suite;

    access_suite!(migrated());
}

fn opened(path: &Path) -> SqliteStore {
    SqliteStore::open(path.to_str().unwrap()).unwrap()
}

fn migrated() -> (SqliteStore, TempDir) {
    let directory = TempDir::new().unwrap();
    let store = opened(&directory.path().join("odds.db"));
    store.migrate().unwrap();
    (store, directory)
}

fn run_on_writer(store: &SqliteStore, sql: &str) {
    store
        .connections
        .writer()
        .unwrap()
        .batch_execute(sql)
        .unwrap();
}

/// Another connection to the file, such as the one of the diesel CLI.
fn other_connection(path: &Path) -> SqliteConnection {
    SqliteConnection::establish(path.to_str().unwrap()).unwrap()
}

/// Opening creates the directory, and a second store finds the data of the first.
#[test]
fn reopened_store_finds_its_data() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a/b/odds.db");
    let store = SqliteStore::open(&format!("sqlite://{}", path.display())).unwrap();
    store.migrate().unwrap();
    store
        .write_updates(&positioned(0, [update(1, 1, 1)]))
        .unwrap();
    drop(store);
    assert_eq!(states(&opened(&path), "MATCH_001").len(), 1);
}

#[test]
fn unopenable_file_is_unavailable() {
    let directory = TempDir::new().unwrap();
    let store = opened(directory.path());
    assert!(
        matches!(store.ping(), Err(StoreError::Unavailable(_))),
        "{:?}",
        store.ping()
    );

    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let below = SqliteStore::open(file.join("odds.db").to_str().unwrap())
        .err()
        .unwrap();
    assert!(
        matches!(&below, StoreError::Unavailable(text) if text.contains("cannot create the directory")),
        "{below}"
    );
}

#[test]
fn calls_without_tables_are_refused() {
    let directory = TempDir::new().unwrap();
    let store = opened(&directory.path().join("odds.db"));
    store.ping().unwrap();
    let refused = StoreError::Refused("no such table: odds_current".to_owned());
    assert_eq!(
        store.write_updates(&positioned(0, [update(1, 1, 1)])),
        Err(refused.clone())
    );
    assert_eq!(store.load_event(&update(1, 1, 1).event_id), Err(refused));
}

#[test]
fn migrations_run_revert_and_run_again() {
    let directory = TempDir::new().unwrap();
    let mut connection = other_connection(&directory.path().join("odds.db"));
    let all = connection
        .run_pending_migrations(migrate::MIGRATIONS)
        .unwrap()
        .len();
    assert_eq!(
        connection
            .revert_all_migrations(migrate::MIGRATIONS)
            .unwrap()
            .len(),
        all
    );
    // SQLite's own table of used row numbers cannot be dropped.
    let left = "SELECT name AS text FROM sqlite_schema
        WHERE name NOT LIKE '%diesel_schema_migrations%' AND name <> 'sqlite_sequence'";
    assert_eq!(texts(&mut connection, left), [""; 0]);
    assert_eq!(
        connection
            .run_pending_migrations(migrate::MIGRATIONS)
            .unwrap()
            .len(),
        all
    );
    let last = MigrationSource::<Sqlite>::migrations(&migrate::MIGRATIONS)
        .unwrap()
        .pop()
        .unwrap();
    assert_eq!(
        connection
            .revert_last_migration(migrate::MIGRATIONS)
            .unwrap(),
        last.name().version()
    );
    assert_eq!(
        connection
            .run_pending_migrations(migrate::MIGRATIONS)
            .unwrap()
            .len(),
        1
    );
}

/// The tables of settlement are not dropped once a bet was settled.
#[test]
fn settled_bet_keeps_its_tables() {
    use crate::store::money::WalletStore;
    use crate::store::money_suite::{assert_clean, order, settling};
    let (store, directory) = migrated();
    store.deposit(&order("A", 1_000, "d")).unwrap();
    settling::confirmed_bet(&store, "E", ("A", 1, 10));
    settling::store_result(&store, settling::home("E", 1, "won"), 1);
    settling::settle_all(&store, 2);
    let mut connection = other_connection(&directory.path().join("odds.db"));
    let refused = connection
        .revert_all_migrations(migrate::MIGRATIONS)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("no_bet_was_settled"), "{refused}");
    store.migrate().unwrap();
    assert_clean(&store);
}

#[test]
fn concurrent_migrations_succeed() {
    for _ in 0..5 {
        let directory = TempDir::new().unwrap();
        let path = &directory.path().join("odds.db");
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| opened(path).migrate()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(outcomes, vec![Ok(()); 4]);
        let all = MigrationSource::<Sqlite>::migrations(&migrate::MIGRATIONS)
            .unwrap()
            .len();
        assert_eq!(
            texts(
                &mut other_connection(path),
                "SELECT version AS text FROM __diesel_schema_migrations"
            )
            .len(),
            all
        );
    }
}

#[test]
fn two_stores_share_one_file() {
    let (store, directory) = migrated();
    let other = opened(&directory.path().join("odds.db"));
    std::thread::scope(|scope| {
        for (version, store) in [&store, &other].into_iter().enumerate() {
            scope.spawn(move || {
                for time in 0..40 {
                    store
                        .write_updates(&positioned(0, [update(1, time, version as i64)]))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(states(&store, "MATCH_001")[0].update, update(1, 39, 1));
    assert_eq!(states(&other, "MATCH_001"), states(&store, "MATCH_001"));
    assert_eq!(
        suite::history(&store, &update(1, 0, 0).event_id, &update(1, 0, 0).market).len(),
        80
    );
}

#[test]
fn full_disk_leaves_no_partial_write() {
    let (store, _directory) = migrated();
    store
        .write_updates(&positioned(0, [update(1, 1, 1)]))
        .unwrap();
    let before = states(&store, "MATCH_001");
    run_on_writer(&store, "PRAGMA max_page_count = 1");
    let large = positioned(1, (0..2_000).map(|time| update(1, 2 + time, 1)));
    let error = store.write_updates(&large).unwrap_err();
    assert_eq!(
        error,
        StoreError::Unavailable("database or disk is full".to_owned())
    );
    assert_eq!(states(&store, "MATCH_001"), before);
    assert_eq!(
        suite::history(&store, &update(1, 0, 0).event_id, &update(1, 0, 0).market).len(),
        1
    );

    run_on_writer(&store, "PRAGMA max_page_count = 1000000");
    assert_eq!(
        store.write_updates(&large).unwrap(),
        BatchReport {
            applied: 2_000,
            recorded: 2_000
        }
    );
}

#[test]
fn failed_statement_rolls_back_earlier_ones() {
    let (store, _directory) = migrated();
    run_on_writer(
        &store,
        "CREATE TRIGGER broken BEFORE INSERT ON odds_history BEGIN SELECT RAISE(ABORT, 'broken on purpose'); END",
    );
    let error = store
        .write_updates(&positioned(0, [update(1, 1, 1)]))
        .unwrap_err();
    assert_eq!(error, StoreError::Refused("broken on purpose".to_owned()));
    assert_eq!(states(&store, "MATCH_001"), []);
    run_on_writer(&store, "DROP TRIGGER broken");
    assert_eq!(
        store
            .write_updates(&positioned(0, [update(1, 1, 1)]))
            .unwrap()
            .applied,
        1
    );
}

#[test]
fn read_only_database_is_unavailable_for_writes() {
    let (store, _directory) = migrated();
    run_on_writer(&store, "PRAGMA query_only = ON");
    let letter = DeadLetter {
        received_at: Timestamp::now(),
        origin: String::new(),
        reason: "malformed".to_owned(),
        detail: String::new(),
        raw: Default::default(),
    };
    let read_only = StoreError::Unavailable("attempt to write a readonly database".to_owned());
    assert_eq!(
        store.write_updates(&positioned(0, [update(1, 1, 1)])),
        Err(read_only.clone())
    );
    assert_eq!(store.write_dead_letters(&[letter]), Err(read_only));
    assert_eq!(states(&store, "MATCH_001"), []);
}

#[test]
fn foreign_lock_blocks_only_writes() {
    let (store, directory) = migrated();
    store
        .write_updates(&positioned(0, [update(1, 1, 1)]))
        .unwrap();
    run_on_writer(&store, "PRAGMA busy_timeout = 20");
    let mut other = other_connection(&directory.path().join("odds.db"));
    other.batch_execute("BEGIN IMMEDIATE").unwrap();
    let locked = StoreError::Unavailable("database is locked".to_owned());
    assert_eq!(
        store.write_updates(&positioned(1, [update(1, 2, 1)])),
        Err(locked)
    );
    assert_eq!(states(&store, "MATCH_001")[0].update, update(1, 1, 1));
    other.batch_execute("COMMIT").unwrap();
    assert_eq!(
        store
            .write_updates(&positioned(1, [update(1, 2, 1)]))
            .unwrap()
            .applied,
        1
    );
}

#[test]
fn commit_is_in_the_files_at_once() {
    let (store, directory) = migrated();
    store
        .write_updates(&positioned(0, [update(1, 1, 1)]))
        .unwrap();
    // The files as a killed process leaves them, with nothing closed.
    let copies = TempDir::new().unwrap();
    for file in ["odds.db", "odds.db-wal"] {
        std::fs::copy(directory.path().join(file), copies.path().join(file)).unwrap();
    }
    assert_eq!(
        states(&opened(&copies.path().join("odds.db")), "MATCH_001"),
        states(&store, "MATCH_001")
    );
}

#[test]
fn upsert_rejects_older_states() {
    let (store, _directory) = migrated();
    let held = update(1, 10, 5);
    store.write_updates(&positioned(0, [held.clone()])).unwrap();
    let micros = held.revision.updated_at.micros();
    for (updated_at, version, changes) in [
        (micros, 4, 0),
        (micros, 5, 0),
        (micros - 1, 6, 0),
        (micros + 1, 1, 1),
    ] {
        let row = format!(
            r#"[["MATCH_001","1x2","","open",false,[],"test",{version},{updated_at},"a","b",9]]"#
        );
        let upsert = diesel::sql_query(write::UPSERT_CURRENT)
            .bind::<diesel::sql_types::Text, _>(row)
            .bind::<diesel::sql_types::BigInt, _>(i64::MAX);
        assert_eq!(
            upsert.execute(&mut *store.connections.writer().unwrap()),
            Ok(changes),
            "{updated_at} {version}"
        );
    }
}

#[test]
fn history_pages_start_within_the_index() {
    let (store, _directory) = migrated();
    let mut reader = store.connections.reader().unwrap();
    let mut plan = |bounds: &str| {
        let sql = format!(
            "EXPLAIN QUERY PLAN SELECT id FROM odds_history WHERE event_id = 'a' AND market = 'b' AND line = ''
             AND {bounds} ORDER BY updated_at, version, id LIMIT 5"
        );
        details(&mut reader, &sql).join("; ")
    };
    for bounds in [
        "(updated_at, version, id) > (1, 2, 3)",
        "(updated_at, version, id) > (1, 2, 3) AND updated_at < 4",
    ] {
        assert!(
            plan(bounds).contains("odds_history_of_market (event_id=? AND market=? AND line=? AND"),
            "{bounds}"
        );
        assert!(
            plan(bounds).contains("(updated_at,version)>(?,?)"),
            "{bounds}: {}",
            plan(bounds)
        );
    }
}

#[test]
fn pages_of_a_source_start_within_the_index() {
    let (store, _directory) = migrated();
    let mut reader = store.connections.reader().unwrap();
    let plan = |reader: &mut SqliteConnection, statuses: &str| {
        let sql = format!(
            "EXPLAIN QUERY PLAN SELECT * FROM odds_current WHERE status IN ({statuses}) AND source = ? AND status = ?
             AND (event_id, market, line) > (?, ?, ?) ORDER BY event_id, market, line LIMIT ?"
        );
        details(reader, &sql).join("; ")
    };
    let literal = plan(&mut reader, "'open', 'suspended'");
    assert_eq!(
        literal,
        "SEARCH odds_current USING INDEX odds_current_of_source (source=? AND status=? AND (event_id,market,line)>(?,?,?))"
    );
    assert!(!plan(&mut reader, "?, ?").contains("odds_current_of_source"));
}

#[test]
fn unreadable_row_is_identified() {
    let (store, _directory) = migrated();
    store
        .write_updates(&positioned(0, [update(1, 1, 1)]))
        .unwrap();
    run_on_writer(
        &store,
        "UPDATE odds_current SET selections = '[{\"id\":\"home\",\"price\":0.5}]'",
    );
    let error = store.load_event(&update(1, 1, 1).event_id).unwrap_err();
    assert!(
        matches!(&error, StoreError::Unreadable(text) if text.contains("MATCH_001 1x2")),
        "{error}"
    );
    assert!(
        error.to_string().contains("bad price of selection `home`"),
        "{error}"
    );
}

#[test]
fn connections_have_their_pragmas() {
    let (store, _directory) = migrated();
    let mut writer = store.connections.writer().unwrap();
    let query =
        "SELECT journal_mode || ' ' || synchronous || ' ' || foreign_keys || ' ' || timeout AS text
        FROM pragma_journal_mode, pragma_synchronous, pragma_foreign_keys, pragma_busy_timeout";
    assert_eq!(texts(&mut writer, query), ["wal 1 1 2000"]);
    let mut reader = store.connections.reader().unwrap();
    assert!(reader.batch_execute("DELETE FROM odds_current").is_err());
}

fn texts(connection: &mut SqliteConnection, sql: &str) -> Vec<String> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Text)]
        text: String,
    }
    diesel::sql_query(sql)
        .load::<Row>(connection)
        .unwrap()
        .into_iter()
        .map(|row| row.text)
        .collect()
}

fn details(connection: &mut SqliteConnection, explain: &str) -> Vec<String> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Text)]
        detail: String,
    }
    diesel::sql_query(explain)
        .load::<Row>(connection)
        .unwrap()
        .into_iter()
        .map(|row| row.detail)
        .collect()
}

#[test]
fn new_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/money.db");
    let store = SqliteStore::open(path.to_str().unwrap()).unwrap();
    let _lock = super::DatabaseLock::of(&path).unwrap();
    store.migrate().unwrap();
    let files: Vec<_> = std::fs::read_dir(folder.path().join("data"))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(files.len() >= 3, "database, WAL and lock: {files:?}");
    for file in files {
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{file:?}"
        );
    }
    // An existing file keeps the permissions that its owner chose.
    let old = folder.path().join("old.db");
    std::fs::write(&old, "").unwrap();
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o640)).unwrap();
    SqliteStore::open(old.to_str().unwrap())
        .unwrap()
        .migrate()
        .unwrap();
    assert_eq!(
        std::fs::metadata(&old).unwrap().permissions().mode() & 0o777,
        0o640
    );
}

/// A row that an earlier version accepted must not freeze its market forever.
#[test]
fn row_from_the_future_is_replaced() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("odds.db");
    let store = opened(&path);
    store.migrate().unwrap();
    let mut ahead = update(1, 1, 99);
    ahead.revision.updated_at = "2099-01-01T00:00:00Z".parse().unwrap();
    store
        .write_updates(&positioned(0, [ahead.clone()]))
        .unwrap();
    let limits = Plausibility::within(std::time::Duration::from_secs(300));
    let careful = opened(&path).within(limits);
    careful
        .write_updates(&positioned(1, [update(1, 2, 1)]))
        .unwrap();
    assert_eq!(states(&careful, "MATCH_001")[0].update, update(1, 2, 1));
    // A plausible state is still not replaced by an older one.
    careful
        .write_updates(&positioned(2, [update(1, 1, 1)]))
        .unwrap();
    assert_eq!(states(&careful, "MATCH_001")[0].update, update(1, 2, 1));
}

/// Every table as the diesel CLI prints it. `make check-migrations` compares with the CLI itself.
#[test]
fn schema_is_what_migrations_make() {
    let (_store, directory) = migrated();
    let mut connection = other_connection(&directory.path().join("odds.db"));
    // A lone primary key of type INTEGER has 64 bits (`sqlite_integer_primary_key_is_bigint`).
    let columns = "
        SELECT tables.name || '.' || columns.name || ' -> ' ||
            printf(CASE WHEN columns.\"notnull\" OR columns.pk THEN '%s' ELSE 'Nullable<%s>' END,
                CASE columns.type
                    WHEN 'TEXT' THEN 'Text'
                    WHEN 'BLOB' THEN 'Binary'
                    WHEN 'BOOLEAN' THEN 'Bool'
                    WHEN 'BIGINT' THEN 'BigInt'
                    WHEN 'INTEGER' THEN CASE WHEN columns.pk
                        AND (SELECT max(pk) FROM pragma_table_info(tables.name)) = 1 THEN 'BigInt' ELSE 'Integer' END
                    ELSE columns.type
                END) AS text
        FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns
        WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite%' AND tables.name NOT LIKE '\\_\\_%' ESCAPE '\\'
        ORDER BY 1";
    let made = texts(&mut connection, columns);
    let mut table = "";
    let mut printed = Vec::new();
    for line in include_str!("schema.rs").lines().map(str::trim) {
        if let Some((name, _)) = line.split_once(" (").filter(|_| line.ends_with(") {")) {
            table = name;
        } else if let Some(column) = line.strip_suffix(',').filter(|it| it.contains(" -> ")) {
            printed.push(format!("{table}.{column}"));
        }
    }
    printed.sort();
    assert_eq!(printed, made);
}
