//! Tests on a real server, run by `make test` with the server's address in `DATABASE_URL`. Each
//! test creates its own database.

mod faults;
mod holds;
mod migrations;
mod settlements;
mod support;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use diesel::migration::MigrationSource;
use diesel::pg::Pg;
use diesel::pg::data_types::PgTimestamp;
use diesel_migrations::MigrationHarness;
use pretty_assertions::assert_eq;
use rstest::rstest;

use self::support::{Database, OwnServer, column, execute, role_without_rights};
use super::*;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::odds::update::testing::{market_update, update};
use crate::store::rows::pg_time;
use crate::store::suite::{self, positioned, states};

/// The suite that every store must pass.
mod suite_on_postgres {
    use super::*;
    use crate::store::suite::store_suite;

    store_suite!(Database::migrated(), #[ignore = "needs the real engines: make test"]);
}

mod access {
    use super::*;
    use crate::store::access_suite::access_suite;

    access_suite!(Database::migrated(), #[ignore = "needs the real engines: make test"]);
}

/// The suite that every money store must pass.
mod money {
    use diesel::connection::SimpleConnection;
    use pretty_assertions::assert_eq;

    use super::*;
    use crate::store::money_suite::{Raw, money_suite};

    impl Raw for Database {
        const UNGUARD: &'static str = "SET session_replication_role = replica;
            DO $$ DECLARE guard RECORD; BEGIN
                FOR guard IN SELECT contypid, conrelid, conname FROM pg_constraint
                    WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace
                LOOP EXECUTE format('ALTER %s DROP CONSTRAINT %I', CASE guard.contypid
                    WHEN 0 THEN 'TABLE ' || guard.conrelid::regclass ELSE 'DOMAIN ' || guard.contypid::regtype END,
                    guard.conname); END LOOP;
            END $$;
            DROP INDEX IF EXISTS ledger_transfers_by_reference";

        fn run(&self, sql: &str) -> Result<(), String> {
            self.connection()
                .batch_execute(sql)
                .map_err(|error| error.to_string())
        }
    }

    money_suite!(Database::migrated(), #[ignore = "needs the real engines: make test"]);

    /// A rejection is stored without the lock of the wallet, for example by another process.
    #[test]
    #[ignore = "needs the real engines: make test"]
    fn concurrently_answered_key_keeps_its_answer() {
        use crate::domain::bets::bet::BetRefusal;
        use crate::store::money::{BetAnswer, WalletStore};
        use crate::store::money_suite::{balances, bet, bet_id, key, notice, order, place_bet};
        let (store, database) = Database::migrated();
        store.deposit(&order("A", 1_000, "d")).unwrap();
        let mut other = database.connection();
        let mut observer = database.connection();
        other
            .batch_execute(
                "BEGIN; INSERT INTO bet_requests (user_id, key, fingerprint, refusal, at)
                 VALUES ('A', 'k', 'f', '\"INSUFFICIENT_FUNDS\"', now())",
            )
            .unwrap();
        let answer = std::thread::scope(|scope| {
            let placing = scope.spawn(|| {
                place_bet(
                    &store,
                    &bet("A", bet_id(1), 10),
                    Some(&key("k", "f")),
                    &notice(""),
                )
            });
            let waits = "SELECT count(*)::text AS text FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'";
            support::wait_until("the bet waits for the answer", || {
                column(&mut observer, waits) == ["1"]
            });
            other.batch_execute("COMMIT").unwrap();
            placing.join().unwrap()
        });
        assert_eq!(
            answer,
            Ok(BetAnswer::Refused(BetRefusal::InsufficientFunds))
        );
        assert_eq!(balances(&store, "A"), (1_000, 0));
    }

    /// Batched calls neither wait for wallet locks nor make other calls wait.
    #[test]
    #[ignore = "needs the real engines: make test"]
    fn locked_wallet_is_left_out_of_batches() {
        use crate::store::money::{
            BetPlacement, BetStore, DecideBet, Decided, DecisionStore, WalletStore,
        };
        use crate::store::money_suite::{
            at, balances, bet, bet_id, confirmed, notice, order, place_bet, source,
        };
        let (store, database) = Database::migrated();
        for (name, number) in [("A", 1), ("B", 2)] {
            store.deposit(&order(name, 1_000, "d")).unwrap();
            place_bet(&store, &bet(name, bet_id(number), 10), None, &notice("")).unwrap();
        }
        let mut other = database.connection();
        other
            .batch_execute("BEGIN; SELECT FROM wallets WHERE user_id = 'A' FOR UPDATE")
            .unwrap();
        let placements = [("A", 3), ("B", 4)].map(|(name, number)| BetPlacement {
            bet: bet(name, bet_id(number), 10),
            source: source(),
            key: None,
            notice: notice(""),
        });
        let placed = store.place_bets(&placements).unwrap();
        assert_eq!(
            placed.iter().map(Option::is_some).collect::<Vec<_>>(),
            [false, true]
        );
        let decisions = [1, 2].map(|number| DecideBet {
            bet_id: bet_id(number),
            outcome: confirmed(),
            notice: notice(""),
            at: at(1),
        });
        let decided = store.decide_bets(&decisions).unwrap();
        assert!(
            matches!(decided[..], [None, Some(Decided::Now { .. })]),
            "{decided:?}"
        );
        assert_eq!(
            (balances(&store, "A"), balances(&store, "B")),
            ((990, 10), (980, 10))
        );
        other.batch_execute("COMMIT").unwrap();
        assert!(store.place_bets(&placements[..1]).unwrap()[0].is_some());
        assert!(matches!(
            store.decide_bets(&decisions).unwrap()[..],
            [Some(Decided::Now { .. }), Some(Decided::Before(_))]
        ));
    }
}

#[test]
#[ignore = "needs the real engines: make test"]
fn referenced_wallets_and_bets_cannot_change() {
    use diesel::connection::SimpleConnection;
    let database = Database::new();
    let mut connection = database.connection();
    connection
        .run_pending_migrations(migrate::MIGRATIONS)
        .unwrap();
    for change in [
        "DELETE FROM wallets",
        "UPDATE wallets SET user_id = 'other'",
        "TRUNCATE wallets",
        "DELETE FROM bets",
        "UPDATE bets SET user_id = 'other'",
        "UPDATE bets SET id = gen_random_uuid()",
        "TRUNCATE bets",
    ] {
        let refused = connection.batch_execute(change).unwrap_err().to_string();
        assert!(
            refused.contains("wallets and bets are kept"),
            "{change}: {refused}"
        );
    }
}

fn letter(detail: &str, reason: &str) -> DeadLetter {
    DeadLetter {
        received_at: Timestamp::now(),
        origin: "odds_updates/0/7".to_owned(),
        reason: reason.to_owned(),
        detail: detail.to_owned(),
        raw: bytes::Bytes::from_static(b"\0\xff"),
    }
}

fn history_of(store: &dyn Store, one: &OddsUpdate) -> Vec<OddsUpdate> {
    suite::history(store, &one.event_id, &one.market)
        .into_iter()
        .map(|entry| entry.update)
        .collect()
}

#[test]
#[ignore = "needs the real engines: make test"]
fn concurrent_migrations_succeed() {
    let all = MigrationSource::<Pg>::migrations(&migrate::MIGRATIONS)
        .unwrap()
        .len();
    for _ in 0..3 {
        let database = Database::new();
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| database.store().migrate()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(outcomes, vec![Ok(()); 8]);
        assert_eq!(
            column(
                &mut database.connection(),
                "SELECT version FROM __diesel_schema_migrations"
            )
            .len(),
            all
        );
    }
}

#[test]
#[ignore = "needs the real engines: make test"]
fn migrations_run_revert_and_run_again() {
    let database = Database::new();
    let mut connection = database.connection();
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
    let left = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(
        column(&mut connection, left),
        ["__diesel_schema_migrations"]
    );
    assert_eq!(
        connection
            .run_pending_migrations(migrate::MIGRATIONS)
            .unwrap()
            .len(),
        all
    );
}

/// A role that may not create tables can start on existing ones, and gets a clear error if they are
/// missing.
#[test]
#[ignore = "needs the real engines: make test"]
fn role_without_create_right_uses_existing_tables() {
    let database = Database::new();
    let role = role_without_rights(&database);
    let store =
        PgStore::open(&database.address_as(&role, "secret"), &PgOptions::default()).unwrap();
    let refused = store.migrate().unwrap_err().to_string();
    assert!(refused.contains("permission denied"), "{refused}");
    database.store().migrate().unwrap();
    store.migrate().unwrap();
}

#[test]
#[ignore = "needs the real engines: make test"]
fn other_database_encoding_is_rejected() {
    let database = Database::with("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let refused = database.store().migrate().unwrap_err().to_string();
    assert!(
        refused.contains("LATIN1") && refused.contains("UTF8"),
        "{refused}"
    );
}

/// Two processes that both hold a partition for a moment: each writes all of it, in its own order
/// and batches, twice. The writers neither deadlock nor restore an old state.
#[rstest]
#[case(1)]
#[case(2)]
#[case(3)]
#[ignore = "needs the real engines: make test"]
fn concurrent_writers_keep_the_newest_state(#[case] seed: u64) {
    const EVENTS: usize = 7;
    let database = Database::new();
    database.store().migrate().unwrap();
    let all: Vec<_> = (0..400i64)
        .map(|n| {
            market_update(
                &format!("E{}", n as usize % EVENTS),
                ["1x2", "btts"][n as usize % 2],
                None,
                n / 3,
                n,
            )
        })
        .collect();
    let updates = positioned(0, all.clone());
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let store = database.store();
            let mut own = [updates.clone(), updates.clone()].concat();
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed * 100 + writer);
                random.shuffle(&mut own);
                while !own.is_empty() {
                    let batch: Vec<_> = own.drain(..random.usize(1..60).min(own.len())).collect();
                    store.write_updates(&batch).unwrap();
                }
            });
        }
    });
    let store = database.store();
    for event in (0..EVENTS).map(|event| format!("E{event}")) {
        let states = states(&store, &event);
        assert_eq!(states.len(), 2);
        let seqs: std::collections::BTreeSet<_> = states.iter().map(|state| state.seq).collect();
        assert_eq!(seqs.len(), 2, "two changes never share a sequence number");
        for state in states {
            let mut expected: Vec<_> = all
                .iter()
                .filter(|one| {
                    (&one.event_id, &one.market) == (&state.update.event_id, &state.update.market)
                })
                .collect();
            expected.sort_by_key(|one| one.revision);
            assert_eq!(&&state.update, expected.last().unwrap());
            let revisions: Vec<_> = expected.iter().map(|one| one.revision).collect();
            assert_eq!(
                history_of(&store, &state.update)
                    .iter()
                    .map(|one| one.revision)
                    .collect::<Vec<_>>(),
                revisions
            );
        }
    }
    let deadlocks =
        "SELECT deadlocks::text FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(column(&mut database.connection(), deadlocks), ["0"]);
}

/// A writer that waited for another one sees what that one wrote.
#[test]
#[ignore = "needs the real engines: make test"]
fn waiting_writer_sees_the_other_write() {
    let (store, database) = Database::migrated();
    execute(
        &mut database.connection(),
        &format!(
            "ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'",
            database.name
        ),
    );
    let store = {
        drop(store);
        database.store()
    };
    // Locks the event, like a writer in the middle of its transaction.
    let mut holder = database.connection();
    execute(
        &mut holder,
        "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(hashtextextended('MATCH_001', 0))",
    );
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            store
                .write_updates(&positioned(0, [update(1, 5, 1)]))
                .unwrap()
        });
        support::wait_until("the writer waits", || {
            let waits =
                "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            column(&mut database.connection(), waits) == ["1"]
        });
        execute(
            &mut holder,
            "INSERT INTO odds_current (event_id, market, line, home_team, away_team, status, in_play,
            selections, source, version, updated_at, seq)
            VALUES ('MATCH_001', '1x2', '', '', '', 'open', false, '[]', 'x', 1, '2300-01-01', 900); COMMIT",
        );
        assert_eq!(
            waiting.join().unwrap(),
            BatchReport {
                applied: 0,
                recorded: 1
            }
        );
    });
    store
        .write_updates(&positioned(
            0,
            [market_update("MATCH_001", "btts", None, 1, 1)],
        ))
        .unwrap();
    let seqs: Vec<_> = states(&store, "MATCH_001")
        .iter()
        .map(|state| state.seq)
        .collect();
    assert_eq!(seqs, [900, 901]);
}

/// A batch may have more events than the server has locks.
#[test]
#[ignore = "needs the real engines: make test"]
fn batch_larger_than_lock_table_is_written() {
    let (store, _database) = Database::migrated();
    let batch = positioned(
        0,
        (0..30_000).map(|event| market_update(&format!("E{event}"), "1x2", None, 1, 1)),
    );
    assert_eq!(
        store.write_updates(&batch).unwrap(),
        BatchReport {
            applied: 30_000,
            recorded: 30_000
        }
    );
}

#[test]
#[ignore = "needs the real engines: make test"]
fn upsert_rejects_older_states() {
    let (store, database) = Database::migrated();
    let held = update(1, 10, 5);
    store.write_updates(&positioned(0, [held.clone()])).unwrap();
    let micros = held.revision.updated_at.micros();
    let mut connection = database.connection();
    for (updated_at, version, changes) in [
        (micros, 4, 0),
        (micros, 5, 0),
        (micros - 1, 6, 0),
        (micros + 1, 1, 1),
    ] {
        let upsert = write::UpsertCurrent {
            event_id: &["MATCH_001"],
            market: &["1x2"],
            line: &[""],
            status: &["open"],
            in_play: &[false],
            selections: &["[]"],
            source: &["test"],
            version: &[version],
            updated_at: &[pg_time(Timestamp::from_micros(updated_at).unwrap())],
            home_team: &["a"],
            away_team: &["b"],
            seq: &[9],
            sport: &[None],
            start_time: &[None],
            latest: PgTimestamp(i64::MAX),
        };
        assert_eq!(
            upsert.execute(&mut connection),
            Ok(changes),
            "{updated_at} {version}"
        );
    }
}

/// A row that an earlier version accepted must not freeze its market forever.
#[test]
#[ignore = "needs the real engines: make test"]
fn row_from_the_future_is_replaced() {
    let (store, database) = Database::migrated();
    let mut ahead = update(1, 1, 99);
    ahead.revision.updated_at = "2099-01-01T00:00:00Z".parse().unwrap();
    store.write_updates(&positioned(0, [ahead])).unwrap();
    let limits = Plausibility::within(Duration::from_secs(300));
    let careful = PgStore::open(
        &database.address(),
        &PgOptions {
            limits,
            ..PgOptions::default()
        },
    )
    .unwrap();
    careful
        .write_updates(&positioned(1, [update(1, 2, 1)]))
        .unwrap();
    assert_eq!(states(&careful, "MATCH_001")[0].update, update(1, 2, 1));
    careful
        .write_updates(&positioned(2, [update(1, 1, 1)]))
        .unwrap();
    assert_eq!(states(&careful, "MATCH_001")[0].update, update(1, 2, 1));
}

#[test]
#[ignore = "needs the real engines: make test"]
fn dead_letter_with_nul_is_stored() {
    let (store, _database) = Database::migrated();
    // A decoder's error repeats the character: {"status":"op\u0000en"}.
    let json = br#"{"event_id":"A","market":"1x2","status":"op\u0000en","updated_at":"2025-11-09T21:07:45Z","source":"s","version":1}"#;
    let detail = OddsUpdate::from_json(json).unwrap_err().to_string();
    assert!(detail.contains('\0'), "{detail:?}");
    store
        .write_dead_letters(&[letter(&detail, ""), letter("fine", "malformed")])
        .unwrap();
    let kept: Vec<_> = store
        .list_dead_letters(10)
        .unwrap()
        .into_iter()
        .map(|stored| stored.letter)
        .collect();
    assert_eq!(
        (kept[1].detail.as_str(), kept[1].reason.as_str()),
        (detail.replace('\0', "\u{fffd}").as_str(), "unknown")
    );
    assert_eq!(kept[1].raw, b"\0\xff".as_slice());
    assert_eq!(kept[0].detail, "fine");
}

#[test]
#[ignore = "needs the real engines: make test"]
fn terminated_connections_fail_no_call() {
    let (store, database) = Database::migrated();
    // Waits until the backends have ended: the next call must find dead connections, and not lose one
    // in the middle of a statement.
    let end_all = |expected: bool| {
        let ended = column(
            &mut database.connection(),
            "SELECT pg_terminate_backend(pid, 60000)::text FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
        assert_eq!(!ended.is_empty(), expected);
    };
    for round in 0..4u32 {
        // Several threads at once, so that the pools hold more than one connection.
        std::thread::scope(|scope| {
            for event in 0..3 {
                let store = &store;
                scope.spawn(move || {
                    let report = store
                        .write_updates(&positioned(0, [update(event, round.into(), 1)]))
                        .unwrap();
                    assert_eq!(
                        report,
                        BatchReport {
                            applied: 1,
                            recorded: 1
                        }
                    );
                    assert_eq!(states(store, &format!("MATCH_{event:03}")).len(), 1);
                });
            }
        });
        store
            .write_dead_letters(&[letter("", "malformed")])
            .unwrap();
        end_all(true);
    }
    assert_eq!(store.list_dead_letters(10).unwrap().len(), 4);
}

#[test]
#[ignore = "needs the real engines: make test"]
fn timed_out_statement_leaves_nothing() {
    let (store, database) = Database::migrated();
    drop(store);
    let hurried = PgOptions {
        lock_timeout: Duration::from_millis(50),
        ..PgOptions::default()
    };
    let store = PgStore::open(&database.address(), &hurried).unwrap();
    let mut holder = database.connection();
    execute(&mut holder, "BEGIN; LOCK TABLE odds_history");
    let late = StoreError::Unavailable("canceling statement due to lock timeout".to_owned());
    assert_eq!(
        store.write_updates(&positioned(0, [update(1, 1, 1)])),
        Err(late)
    );
    let hurried = PgOptions {
        statement_timeout: Duration::from_millis(50),
        ..PgOptions::default()
    };
    let store = PgStore::open(&database.address(), &hurried).unwrap();
    let late = StoreError::Unavailable("canceling statement due to statement timeout".to_owned());
    assert_eq!(
        store.write_updates(&positioned(0, [update(1, 1, 1)])),
        Err(late)
    );
    execute(&mut holder, "ROLLBACK");
    assert_eq!(states(&store, "MATCH_001"), []);
    assert_eq!(
        store
            .write_updates(&positioned(0, [update(1, 1, 1)]))
            .unwrap()
            .applied,
        1
    );
}

#[test]
#[ignore = "needs the real engines: make test"]
fn read_only_database_is_unavailable_for_writes() {
    let (store, database) = Database::migrated();
    store
        .write_updates(&positioned(0, [update(1, 1, 1)]))
        .unwrap();
    drop(store);
    execute(
        &mut database.connection(),
        &format!(
            "ALTER DATABASE {} SET default_transaction_read_only = on",
            database.name
        ),
    );
    let store = database.store();
    let error = store
        .write_updates(&positioned(1, [update(1, 2, 1)]))
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::Unavailable(text) if text.contains("read-only transaction")),
        "{error}"
    );
    assert!(matches!(
        store.write_dead_letters(&[letter("", "x")]),
        Err(StoreError::Unavailable(_))
    ));
    assert!(store.ping().unwrap_err().to_string().contains("only reads"));
    store.migrate().unwrap();
    assert_eq!(states(&store, "MATCH_001").len(), 1);
}

#[test]
#[ignore = "needs the real engines: make test"]
fn database_of_the_original_is_rejected() {
    let database = Database::new();
    execute(
        &mut database.connection(),
        "CREATE TABLE odds_current (event_id TEXT PRIMARY KEY, home_team TEXT NOT NULL, away_team TEXT NOT NULL, \
         market TEXT NOT NULL, home_odd NUMERIC(8,3) NOT NULL, draw_odd NUMERIC(8,3) NOT NULL, \
         away_odd NUMERIC(8,3) NOT NULL, version INT NOT NULL, updated_at TIMESTAMPTZ NOT NULL)",
    );
    let store = database.store();
    let reader = PgStore::reader(&database.address(), &PgOptions::default()).unwrap();
    for refused in [store.migrate(), store.ping(), reader.ping()] {
        let error = refused.unwrap_err();
        assert!(
            matches!(&error, StoreError::Unavailable(text) if text.contains("of another program")),
            "{error}"
        );
    }
    // The failed migration created none of our tables.
    execute(&mut database.connection(), "DROP TABLE odds_current");
    store.migrate().unwrap();
    store.ping().unwrap();
}

#[test]
#[ignore = "needs the real engines: make test"]
fn reader_needs_tables_and_never_writes() {
    let database = Database::new();
    let reader = PgStore::reader(&database.address(), &PgOptions::default()).unwrap();
    reader.migrate().unwrap();
    assert!(
        reader
            .ping()
            .unwrap_err()
            .to_string()
            .contains("no tables yet")
    );
    let store = database.store();
    store.migrate().unwrap();
    store
        .write_updates(&positioned(0, [update(1, 1, 1)]))
        .unwrap();
    reader.ping().unwrap();
    assert_eq!(states(&reader, "MATCH_001"), states(&store, "MATCH_001"));
    let refused = StoreError::Refused("this store only reads".to_owned());
    assert_eq!(
        reader.write_updates(&positioned(1, [update(1, 2, 1)])),
        Err(refused)
    );
}

#[test]
#[ignore = "needs the real engines: make test"]
fn login_error_names_user_not_password() {
    let database = Database::new();
    let role = role_without_rights(&database);
    let store = PgStore::open(
        &database.address_as(&role, "hunter2"),
        &PgOptions::default(),
    )
    .unwrap();
    for _ in 0..2 {
        let error = store.ping().unwrap_err().to_string();
        assert!(
            error.contains(&format!(
                "password authentication failed for user \"{role}\""
            )),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
#[ignore = "needs the real engines: make test"]
fn missing_table_and_damaged_row_are_reported() {
    let database = Database::new();
    let store = database.store();
    let refused = StoreError::Refused("relation \"odds_current\" does not exist".to_owned());
    assert_eq!(store.load_event(&update(1, 1, 1).event_id), Err(refused));
    store.migrate().unwrap();
    store
        .write_updates(&positioned(0, [update(1, 1, 1)]))
        .unwrap();
    execute(
        &mut database.connection(),
        r#"UPDATE odds_current SET selections = '[{"id":"home","price":0.5}]'"#,
    );
    let error = store.load_event(&update(1, 1, 1).event_id).unwrap_err();
    assert!(
        matches!(&error, StoreError::Unreadable(text) if text.contains("MATCH_001 1x2")),
        "{error}"
    );
}

#[test]
#[ignore = "needs the real engines: make test"]
fn original_price_columns_are_readable() {
    let (store, database) = Database::migrated();
    store
        .write_updates(&positioned(0, [update(1, 1, 28)]))
        .unwrap();
    let prices = "SELECT home_odd || ' ' || draw_odd || ' ' || away_odd FROM odds_current";
    assert_eq!(
        column(&mut database.connection(), prices),
        ["1.228 3.200 4.500"]
    );
}

#[test]
#[ignore = "needs the real engines: make test"]
fn history_pages_start_within_the_index() {
    let (store, database) = Database::migrated();
    store
        .write_updates(&positioned(0, (0..20_000).map(|time| update(1, time, 1))))
        .unwrap();
    let mut connection = database.connection();
    execute(&mut connection, "ANALYZE");
    let plan = column(
        &mut connection,
        "EXPLAIN SELECT id FROM odds_history WHERE event_id = 'MATCH_001' AND market = '1x2'
        AND line = '' AND (updated_at, version, id) > ('2025-11-09', 1, 1) AND updated_at < 'infinity'
        ORDER BY updated_at, version, id LIMIT 100",
    )
    .join("; ");
    assert!(
        plan.contains("Index Scan using odds_history_of_market"),
        "{plan}"
    );
    assert!(plan.contains("ROW(updated_at, version) >="), "{plan}");
}

#[test]
#[ignore = "needs the real engines: make test"]
fn pages_of_a_source_start_within_the_index() {
    let (store, database) = Database::migrated();
    let ended = (0..20_000).map(|event| OddsUpdate {
        status: MarketStatus::Settled,
        ..update(event, 1, 1)
    });
    store.write_updates(&positioned(0, ended)).unwrap();
    let open = (20_000..20_100).map(|event| update(event, 1, 1));
    store.write_updates(&positioned(20_000, open)).unwrap();
    let mut connection = database.connection();
    execute(&mut connection, "ANALYZE");
    let plan = column(
        &mut connection,
        "EXPLAIN SELECT event_id FROM odds_current
        WHERE status IN ('open', 'suspended') AND source = 'test' AND status = 'open'
            AND (event_id, market, line) > ('MATCH_20050', '', '')
        ORDER BY event_id, market, line LIMIT 10",
    )
    .join("; ");
    assert!(plan.contains("using odds_current_of_source"), "{plan}");
    assert!(plan.contains("ROW(event_id, market, line) >"), "{plan}");
    assert!(!plan.contains("Sort"), "{plan}");
}

#[test]
#[ignore = "needs the real engines: make test"]
fn server_restart_under_load_loses_nothing() {
    let server = OwnServer::start();
    let store = PgStore::open(&server.address(), &PgOptions::default()).unwrap();
    store.migrate().unwrap();
    let stop = AtomicBool::new(false);
    let written = AtomicI64::new(0);
    let failed = AtomicI64::new(0);
    let texts = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut texts = std::collections::BTreeSet::new();
            let mut time = 0;
            while !stop.load(Ordering::SeqCst) {
                match store.write_updates(&positioned(
                    time as u64,
                    [update(1, time, 1), update(2, time, 1)],
                )) {
                    Ok(_) => {
                        time += 1;
                        written.store(time, Ordering::SeqCst);
                    }
                    Err(StoreError::Unavailable(text)) => {
                        texts.insert(text);
                        failed.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            texts
        });
        for mode in ["fast", "immediate"] {
            let before = written.load(Ordering::SeqCst);
            support::wait_until("some are written", || {
                written.load(Ordering::SeqCst) > before + 20
            });
            server.stop(mode);
            let before = failed.load(Ordering::SeqCst);
            support::wait_until("it is noticed", || {
                failed.load(Ordering::SeqCst) > before + 3 && store.ping().is_err()
            });
            server.start_again();
            support::wait_until("it is back", || store.ping().is_ok());
        }
        let before = written.load(Ordering::SeqCst);
        support::wait_until("some more are written", || {
            written.load(Ordering::SeqCst) > before + 20
        });
        stop.store(true, Ordering::SeqCst);
        writing.join().unwrap()
    });
    assert!(
        texts
            .iter()
            .any(|text| text.contains("Connection refused") || text.contains("No such file")),
        "{texts:?}"
    );
    assert!(
        texts.iter().all(|text| !text.contains("secret")),
        "{texts:?}"
    );
    let all = written.load(Ordering::SeqCst);
    for event in [1, 2] {
        assert_eq!(
            states(&store, &format!("MATCH_{event:03}"))[0].update,
            update(event, all - 1, 1)
        );
        assert_eq!(history_of(&store, &update(event, 0, 1)).len() as i64, all);
    }
    server.stop("fast");
    server.start_again();
    assert_eq!(
        store
            .write_updates(&positioned(0, [update(1, all, 1)]))
            .unwrap()
            .applied,
        1,
        "a restart between calls"
    );
}
