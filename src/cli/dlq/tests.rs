use super::testing::args;
use super::*;
use crate::domain::dead_letter::DeadLetter;
use crate::store::Store;
use crate::store::sqlite::SqliteStore;

async fn output_of(words: &[&str]) -> Result<String, String> {
    let mut out = Vec::new();
    run(&args(words), &mut out)
        .await
        .map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// The error message for a rejected command line.
fn parse_error(words: &[&str]) -> String {
    let words = ["sports-bet", "dlq"]
        .iter()
        .chain(words)
        .map(std::ffi::OsString::from);
    crate::cli::parse(words, &|_| None)
        .map(drop)
        .unwrap_err()
        .to_string()
}

fn place(words: &[&str]) -> Place {
    match args(words).action {
        Action::List(args) => args.place,
        other => panic!("{other:?}"),
    }
}

#[test]
fn conflicting_options_are_rejected() {
    for (words, want) in [
        (&[][..], "Usage: sports-bet dlq"),
        (&["list", "0:1"], "unexpected argument '0:1'"),
        (&["show"], "<ID>"),
        (&["show", "0:1", "0:2"], "unexpected argument '0:2'"),
        (&["replay"], "<ID>"),
        (&["replay", "0:1", "--all"], "cannot be used with"),
        (&["replay", "0:1", "--reason", "x"], "cannot be used with"),
        (&["replay", "--reason", "x"], "<ID>"),
        (&["list", "--dry-run"], "--dry-run"),
        (&["list", "--raw"], "--raw"),
        (&["show", "x"], "partition:offset"),
    ] {
        let error = parse_error(words);
        assert!(error.contains(want), "{words:?}: {error}");
    }
    assert_eq!(place(&["list", "--kafka-topic-odds", "x"]).topic(), "x_dlq");
    assert_eq!(place(&["list", "--kafka-topic-odds-dlq", "y"]).topic(), "y");
    for (of, topics) in [
        ("odds", ("odds_updates_dlq", "odds_updates")),
        ("market-results", ("market_results_dlq", "market_results")),
        ("bet-placed", ("bet_placed_dlq", "bet_placed")),
        ("bet-confirmed", ("bet_confirmed_dlq", "bet_confirmed")),
    ] {
        let place = place(&["list", "--of", of]);
        assert_eq!((place.topic().as_str(), place.target()), topics);
    }
}

#[test]
fn help_shows_only_used_settings() {
    let help = |action: &str| parse_error(&[action, "--help"]);
    for (action, used, unused) in [
        (
            "list",
            &["--limit", "--reason", "--database-url", "KAFKA_BROKERS"][..],
            &["--raw", "--all", "GROUP"][..],
        ),
        (
            "show",
            &["--raw", "<ID>", "--database-url"],
            &["--limit", "--all", "KAFKA_TOPIC_PARTITIONS"],
        ),
        (
            "replay",
            &["--all", "--dry-run", "KAFKA_TOPIC_ODDS"],
            &["--raw", "--limit", "DATABASE_URL", "EMBEDDED"],
        ),
    ] {
        let help = help(action);
        assert!(used.iter().all(|word| help.contains(word)), "{help}");
        assert!(!unused.iter().any(|word| help.contains(word)), "{help}");
        assert!(
            help.lines().count() < 160,
            "{} lines: {help}",
            help.lines().count()
        );
    }
    // A shared script may still pass them.
    args(&["list", "--kafka-group-live", "x"]);
}

#[tokio::test]
async fn embedded_dead_letters_are_read_from_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odds.db");
    let path = path.to_str().unwrap();
    let missing = output_of(&["list", "--database-url", path])
        .await
        .unwrap_err();
    assert!(
        missing.contains("there is no file") && missing.starts_with("DATABASE_URL: "),
        "{missing}"
    );
    assert!(
        !std::path::Path::new(path).exists(),
        "reading must not create the file"
    );
    let _server = crate::store::sqlite::DatabaseLock::of(std::path::Path::new(path)).unwrap();
    let store = SqliteStore::open(path).unwrap();
    store.migrate().unwrap();
    let letter = |index: i64, reason: &str, raw: &'static [u8]| DeadLetter {
        received_at: crate::domain::timestamp::Timestamp::from_micros(
            1_762_722_465_000_000 + index,
        )
        .unwrap(),
        origin: format!("odds_updates/0/{index}"),
        reason: reason.to_owned(),
        detail: "no\nJSON".to_owned(),
        raw: bytes::Bytes::from_static(raw),
    };
    store
        .write_dead_letters(&[letter(1, "malformed", b"{]"), letter(2, "price", b"\xff\0")])
        .unwrap();
    let list = output_of(&["list", "--database-url", path]).await.unwrap();
    assert_eq!(
        list,
        "1\t2025-11-09T21:07:45.000001Z\tmalformed\todds_updates/0/1\t{]\n\
             2\t2025-11-09T21:07:45.000002Z\tprice\todds_updates/0/2\t\\xff\\x00\n"
    );
    let list = output_of(&["list", "--database-url", path, "--reason", "price"])
        .await
        .unwrap();
    assert_eq!(list.lines().count(), 1);
    insta::assert_snapshot!(output_of(&["show", "2", "--database-url", path]).await.unwrap(), @r"
        id: 2
        reason: price
        detail: no\nJSON
        origin: odds_updates/0/2
        received_at: 2025-11-09T21:07:45.000002Z
        bytes: 2

        00000000  ff 00                                            ..
        ");
    let mut out = Vec::new();
    run(
        &args(&["show", "2", "--raw", "--database-url", path]),
        &mut out,
    )
    .await
    .unwrap();
    assert_eq!(out, b"\xff\0");
    assert_eq!(
        output_of(&["show", "9", "--database-url", path])
            .await
            .unwrap_err(),
        "dead letter 9 does not exist"
    );
    let error = output_of(&["replay", "2", "--database-url", path])
        .await
        .unwrap_err();
    assert!(
        error.contains("KAFKA_BROKERS") && error.contains("serving process"),
        "{error}"
    );
}
