use std::ffi::OsString;
use std::io::ErrorKind;

use pretty_assertions::assert_eq;

use super::*;
use crate::access::api_key;
use crate::cli::testing::{Failing, migrated_database};
use crate::cli::{Command, exit, parse, user};
use crate::config::input::ConfigExit;

fn command(args: &[&str]) -> Result<Command, ConfigExit> {
    let args = ["sports-bet"].iter().chain(args);
    Ok(parse(args.map(OsString::from), &|_| None)?.0)
}

fn parsed(args: &[&str]) -> Result<KeyArgs, ConfigExit> {
    match command(&[&["key"], args].concat())? {
        Command::Key(args) => Ok(*args),
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

    /// The output of a command, and what it says beside.
    fn run(&self, args: &[&str]) -> Result<(String, String), AccessCommandError> {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        run(&parsed(args).unwrap(), &self.engine, &mut out, &mut notes)?;
        Ok((
            String::from_utf8(out).unwrap(),
            String::from_utf8(notes).unwrap(),
        ))
    }

    fn output(&self, args: &[&str]) -> String {
        self.run(args).unwrap().0
    }
}

const CREATE: [&str; 7] = [
    "create",
    "--scope",
    "wallet:read,wallet:move",
    "--note",
    "backend",
    "--by",
    "ann",
];

#[test]
fn key_is_created_listed_and_revoked() {
    let database = Database::new();
    assert_eq!(database.output(&["list"]), "no keys\n");
    let (secret, notes) = database.run(&CREATE).unwrap();
    let secret = secret.strip_suffix('\n').unwrap();
    assert!(
        api_key::hash_of(secret).is_some(),
        "the key and nothing else"
    );
    assert_eq!(
        notes,
        "key 1 created: wallet:read wallet:move; it is not shown again\n"
    );
    let listed = database.output(&["list"]);
    assert!(
        listed.starts_with(&format!(
            "1  valid  {}…  wallet:read wallet:move  created 2",
            &secret[..12]
        )) && listed.ends_with(" by ann: backend  never used\n"),
        "{listed}"
    );
    assert!(!listed.contains(secret), "{listed}");
    assert_eq!(
        database.output(&["revoke", "1", "--by", "bob"]),
        "key 1 revoked: backend\n"
    );
    assert_eq!(database.output(&["list"]), "no keys\n");
    let all = database.output(&["list", "--all"]);
    assert!(
        all.starts_with("1  revoked  ") && all.ends_with(" by bob\n"),
        "{all}"
    );
    let all = database.output(&["list", "--all", "--json"]);
    let mut all: serde_json::Value = serde_json::from_str(&all).unwrap();
    let changing = ["created_at", "revoked_at", "prefix"].map(|name| all[0][name].take());
    assert!(
        changing.iter().all(|value| value.is_string()),
        "{changing:?}"
    );
    insta::assert_snapshot!(all, @r#"[{"created_at":null,"created_by":"ann","expires_at":null,"id":1,"last_used_at":null,"note":"backend","prefix":null,"revoked_at":null,"revoked_by":"bob","scopes":["wallet:read","wallet:move"],"state":"revoked"}]"#);
}

#[test]
fn expiry_is_a_time_or_a_duration() {
    let database = Database::new();
    let (_, notes) = database
        .run(&[&CREATE[..], &["--expires", "2999-01-01T00:00:00Z"]].concat())
        .unwrap();
    assert!(notes.contains("expires 2999-01-01T00:00:00Z"), "{notes}");
    database.output(&[&CREATE[..], &["--for", "1h"]].concat());
    let store = operator_store::open(&database.engine, "test").unwrap();
    let Action::List(args) = parsed(&["list"]).unwrap().action else {
        panic!()
    };
    let mut out = Vec::new();
    let later = Timestamp::now().later_by(Duration::from_secs(3_700));
    list(&args, &*store, later, &mut out).unwrap();
    let listed = String::from_utf8(out).unwrap();
    assert!(
        listed.starts_with("1  valid") && listed.lines().count() == 1,
        "{listed}"
    );
}

#[test]
fn wrong_arguments_are_named() {
    let wrong = |args: &[&str]| parsed(args).unwrap_err().to_string();
    for (args, expected) in [
        (&["create", "--note", "n"][..], "--scope <SCOPE>"),
        (&["create", "--scope", "odds:read"], "--note <TEXT>"),
        (
            &["create", "--scope", "all", "--note", "n"],
            "want one of odds:read",
        ),
        (
            &["create", "--scope", "odds:read", "--note", " "],
            "want one line of text",
        ),
        (
            &[
                "create",
                "--scope",
                "odds:read",
                "--note",
                "n",
                "--expires",
                "2020-01-01T00:00:00Z",
            ],
            "want a time in the future",
        ),
        (&["revoke"], "<ID>"),
    ] {
        let text = wrong(args);
        assert!(text.contains(expected), "{args:?}: {text}");
    }
}

#[test]
fn failed_commands_say_why() {
    let database = Database::new();
    let unknown = database.run(&["revoke", "7"]).unwrap_err();
    assert_eq!(unknown.to_string(), "key 7 does not exist");
    assert_eq!(unknown.exit_code(), exit::FAILED);
    database.output(&CREATE);
    database.output(&["revoke", "1", "--by", "bob"]);
    let again = database.run(&["revoke", "1"]).unwrap_err().to_string();
    assert!(
        again.starts_with("key 1 was already revoked at 2") && again.ends_with(" by bob"),
        "{again}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let list = parsed(&["list"]).unwrap();
    let engine = StoreEngine::Sqlite(path.clone());
    let failed = || run(&list, &engine, &mut Vec::new(), &mut Vec::new()).unwrap_err();
    assert!(failed().to_string().contains("there is no file"));
    std::fs::write(&path, "").unwrap();
    assert!(
        failed().to_string().contains("run `sports-bet migrate`"),
        "{}",
        failed()
    );
    assert_eq!(failed().exit_code(), exit::UNAVAILABLE);
}

/// Nobody has seen the key, so nobody could use or revoke it.
#[test]
fn unwritten_key_is_revoked() {
    let database = Database::new();
    let create = parsed(&CREATE).unwrap();
    for kind in [ErrorKind::BrokenPipe, ErrorKind::StorageFull] {
        let failed = run(
            &create,
            &database.engine,
            &mut Failing(kind),
            &mut Vec::new(),
        )
        .unwrap_err();
        assert_eq!(failed.exit_code(), exit::OUTPUT);
    }
    assert_eq!(database.output(&["list"]), "no keys\n");
    let list = parsed(&["list"]).unwrap();
    let closed = run(
        &list,
        &database.engine,
        &mut Failing(ErrorKind::BrokenPipe),
        &mut Vec::new(),
    );
    assert!(closed.is_ok());
}

#[test]
fn user_is_revoked() {
    let database = Database::new();
    let Command::User(args) = command(&["user", "revoke", "u1", "--by", "ann"]).unwrap() else {
        panic!()
    };
    let mut out = Vec::new();
    user::run(&args, &database.engine, &mut out).unwrap();
    let printed = String::from_utf8(out).unwrap();
    assert!(
        printed.starts_with("tokens of u1 that were issued before 2"),
        "{printed}"
    );
    let store = operator_store::open(&database.engine, "test").unwrap();
    assert_eq!(store.access_records(0).unwrap().users.len(), 1);
}
