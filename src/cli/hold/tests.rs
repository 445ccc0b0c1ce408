use std::ffi::OsString;
use std::io::ErrorKind;

use super::*;
use crate::cli::testing::{Failing, migrated_database};
use crate::cli::{Command, parse};
use crate::config::input::ConfigExit;

fn parsed(args: &[&str]) -> Result<HoldArgs, ConfigExit> {
    let args = ["sports-bet", "hold"].iter().chain(args);
    let (command, _) = parse(args.map(OsString::from), &|_| None)?;
    match command {
        Command::Hold(args) => Ok(*args),
        other => panic!("{other:?}"),
    }
}

/// A migrated database in a folder.
struct Database {
    _folder: tempfile::TempDir,
    engine: StoreEngine,
}

impl Database {
    fn new() -> Database {
        let (folder, engine) = migrated_database();
        Database {
            _folder: folder,
            engine,
        }
    }

    /// The output of a command.
    fn run(&self, args: &[&str]) -> Result<String, HoldError> {
        let mut out = Vec::new();
        run(&parsed(args).unwrap(), &self.engine, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }
}

#[test]
fn scope_comes_from_the_arguments() {
    let scope = |args: &str| {
        let args: Vec<_> = ["set", "--reason", "r"]
            .into_iter()
            .chain(args.split(' '))
            .collect();
        match parsed(&args).unwrap().action {
            Action::Set(args) => args.scope().to_string(),
            other => panic!("{other:?}"),
        }
    };
    for (args, expected) in [
        ("--all", "everything"),
        ("--source a", "source a"),
        ("--event E", "event E"),
        ("--event E --market m", "event E, market m"),
        (
            "--event E --market m --line -1.5",
            "event E, market m, line -1.5",
        ),
        (
            "--event E --market m --line 2.5 --selection over",
            "event E, market m, line 2.5, selection over",
        ),
    ] {
        assert_eq!(scope(args), expected);
    }
}

#[test]
fn wrong_arguments_are_named() {
    let wrong = |args: &[&str]| match parsed(args) {
        Err(stop) => stop.to_string(),
        Ok(args) => panic!("{args:?}"),
    };
    let mut different = Vec::new();
    for (args, expected) in [
        (&["set", "--reason", "r"][..], "--all|--source"),
        (
            &["set", "--reason", "r", "--all", "--event", "E"],
            "cannot be used with",
        ),
        (
            &["set", "--reason", "r", "--source", "a", "--market", "m"],
            "cannot be used with",
        ),
        (
            &["set", "--reason", "r", "--event", "E", "--line", "1.5"],
            "--market <MARKET>",
        ),
        (
            &["set", "--reason", "r", "--event", "E", "--selection", "s"],
            "--market <MARKET>",
        ),
        (&["set", "--all"], "--reason <TEXT>"),
        (&["set", "--all", "--reason", "  "], "want one line of text"),
        (
            &["set", "--all", "--reason", "a\nb"],
            "want one line of text",
        ),
        (
            &["set", "--all", "--reason", "r", "--by", "\t"],
            "want one line of text",
        ),
        (
            &[
                "set",
                "--all",
                "--reason",
                "r",
                "--until",
                "2020-01-01T00:00:00Z",
            ],
            "want a time in the future",
        ),
        (
            &["set", "--all", "--reason", "r", "--until", "soon"],
            "want a time in the future",
        ),
        (&["set", "--all", "--reason", "r", "--for", "0s"], "--for"),
        (
            &[
                "set",
                "--all",
                "--reason",
                "r",
                "--for",
                "1m",
                "--until",
                "2999-01-01T00:00:00Z",
            ],
            "cannot be used with",
        ),
        (&["release", "--reason", "r"], "<ID>"),
        (&["release", "1"], "--reason <TEXT>"),
        (&["release", "x", "--reason", "r"], "x"),
    ] {
        let text = wrong(args);
        if !text.contains(expected) {
            different.push(format!("{args:?}: {text}, and not {expected}"));
        }
    }
    assert!(different.is_empty(), "{different:#?}");
}

#[test]
fn hold_is_set_listed_and_released() {
    let database = Database::new();
    assert_eq!(database.run(&["list"]).unwrap(), "no holds\n");
    let set = database
        .run(&[
            "set",
            "--event",
            "E",
            "--market",
            "m",
            "--reason",
            "odd bets",
            "--by",
            "ann",
            "--until",
            "2999-01-01T00:00:00Z",
        ])
        .unwrap();
    assert_eq!(
        set,
        "hold 1 set: event E, market m, until 2999-01-01T00:00:00Z\nopen markets that it covers now: 0\n"
    );
    let listed = database.run(&["list"]).unwrap();
    assert!(
        listed.starts_with("1  in force  event E, market m  set 2")
            && listed.ends_with(" by ann: odd bets  until 2999-01-01T00:00:00Z\n"),
        "{listed}"
    );
    let released = database
        .run(&["release", "1", "--reason", "resolved", "--by", "bob"])
        .unwrap();
    assert_eq!(released, "hold 1 released: event E, market m\n");
    assert_eq!(database.run(&["list"]).unwrap(), "no holds\n");
    assert_eq!(database.run(&["list", "--json"]).unwrap(), "[]\n");
    let all = database.run(&["list", "--all"]).unwrap();
    assert!(
        all.starts_with("1  released  ") && all.ends_with(" by bob: resolved\n"),
        "{all}"
    );
    let all = database.run(&["list", "--all", "--json"]).unwrap();
    let mut all: serde_json::Value = serde_json::from_str(&all).unwrap();
    let times = ["created_at", "released_at"].map(|time| all[0][time].take());
    assert!(times.iter().all(|time| time.is_string()), "{times:?}");
    insta::assert_snapshot!(all, @r#"[{"created_at":null,"created_by":"ann","event_id":"E","id":1,"line":null,"market":"m","reason":"odd bets","release_reason":"resolved","released_at":null,"released_by":"bob","scope":"market","selection":null,"source":null,"state":"released","until":"2999-01-01T00:00:00Z"}]"#);
}

#[test]
fn hold_ends_after_its_duration() {
    let database = Database::new();
    let set = ["set", "--all", "--reason", "r", "--for", "1h"];
    database.run(&set).unwrap();
    let HoldArgs { action } = parsed(&["list"]).unwrap();
    let Action::List(args) = action else {
        panic!("{action:?}")
    };
    let store = operator_store::open(&database.engine, "test").unwrap();
    let listed = |args: &ListArgs, after: u64| {
        let mut out = Vec::new();
        let now = Timestamp::now().later_by(Duration::from_secs(after));
        list(args, &*store, now, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert!(listed(&args, 3_000).starts_with("1  in force  everything"));
    assert_eq!(listed(&args, 4_000), "no holds\n");
    let all = ListArgs { all: true, ..args };
    assert!(listed(&all, 4_000).starts_with("1  ended  everything"));
}

#[test]
fn release_names_what_is_wrong() {
    let database = Database::new();
    let release = |id| database.run(&["release", id, "--reason", "r", "--by", "ann"]);
    let unknown = release("7").unwrap_err();
    assert_eq!(unknown.to_string(), "hold 7 does not exist");
    assert_eq!(unknown.exit_code(), exit::FAILED);
    database.run(&["set", "--all", "--reason", "r"]).unwrap();
    release("1").unwrap();
    let again = release("1").unwrap_err();
    let text = again.to_string();
    assert!(
        text.starts_with("hold 1 was already released at 2") && text.ends_with(" by ann"),
        "{text}"
    );
    assert_eq!(again.exit_code(), exit::FAILED);
}

#[test]
fn unusable_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let engine = StoreEngine::Sqlite(path.clone());
    let list = parsed(&["list"]).unwrap();
    let failed = || run(&list, &engine, &mut Vec::new()).unwrap_err();
    let missing = failed();
    assert!(
        missing.to_string().contains("there is no file"),
        "{missing}"
    );
    assert_eq!(missing.exit_code(), exit::UNAVAILABLE);
    std::fs::write(&path, "").unwrap();
    let earlier = failed();
    assert!(
        earlier.to_string().contains("run `sports-bet migrate`"),
        "{earlier}"
    );
    assert_eq!(earlier.exit_code(), exit::UNAVAILABLE);
}

#[test]
fn unwritable_output_is_an_error_unless_closed() {
    let database = Database::new();
    let list = parsed(&["list"]).unwrap();
    let run = |kind| run(&list, &database.engine, &mut Failing(kind));
    assert!(run(ErrorKind::BrokenPipe).is_ok());
    let failed = run(ErrorKind::StorageFull).unwrap_err();
    assert_eq!(failed.exit_code(), exit::OUTPUT);
}
