//! `sports-bet dlq`: looks at what could not be read, and publishes it again once the fault is
//! mended.

mod entry;
mod replay;
mod source;
mod text;

use std::io::{ErrorKind, Write};

use clap::{Args, Subcommand, ValueEnum};
use secrecy::SecretString;

use self::entry::{DeadLetterEntry, Id};
use self::source::Source;
use super::{exit, only_shown};
use crate::bus::{BusError, kafka};
use crate::config::engines;
use crate::config::load::{ConfigError, ConfigExit, ConfigInput};
use crate::config::settings::BusSettings;
use crate::store::StoreError;

/// Whose dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DlqTopic {
    /// Updates of odds
    Odds,
    /// Bets that were placed
    BetPlaced,
    /// Bets that were decided
    BetConfirmed,
}

/// Lists, shows and publishes again what could not be read
///
/// Works on Kafka's topic of dead letters where KAFKA_BROKERS is set, else on those that the server
/// keeps in its SQLite file, also beside a running server. An ID is the first column of the list:
/// partition:offset on Kafka, a number in the file. A letter that stands there twice, because its
/// writer was killed, is taken once.
#[derive(Args, Clone, Debug)]
pub struct DlqArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What is done with dead letters.
#[derive(Subcommand, Clone, Debug)]
pub enum Action {
    /// A line each, the newest last
    List(ListArgs),
    /// The headers and the bytes of one
    Show(ShowArgs),
    /// Publishes them to the topic that they were for again
    Replay(ReplayArgs),
}

/// Settings that reading uses.
const READING: [&str; 10] = [
    "kafka_brokers",
    "kafka_topic_odds_dlq",
    "kafka_topic_bet_placed_dlq",
    "kafka_topic_bet_confirmed_dlq",
    "kafka_security_protocol",
    "kafka_sasl_mechanism",
    "kafka_sasl_username",
    "kafka_sasl_password",
    "kafka_ca_file",
    "database_url",
];
/// Settings that publishing uses.
const PUBLISHING: [&str; 14] = [
    "kafka_brokers",
    "kafka_topic_odds",
    "kafka_topic_odds_dlq",
    "kafka_topic_bet_placed",
    "kafka_topic_bet_placed_dlq",
    "kafka_topic_bet_confirmed",
    "kafka_topic_bet_confirmed_dlq",
    "kafka_topic_partitions",
    "kafka_topic_replication",
    "kafka_security_protocol",
    "kafka_sasl_mechanism",
    "kafka_sasl_username",
    "kafka_sasl_password",
    "kafka_ca_file",
];

/// What `dlq list` can be told.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &READING)))]
pub struct ListArgs {
    /// At most so many, the newest
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// Only those with this reason, as malformed
    #[arg(long)]
    pub reason: Option<String>,
    /// Where they are.
    #[command(flatten)]
    pub place: Place,
}

/// What `dlq show` can be told.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &READING)))]
pub struct ShowArgs {
    /// The dead letter, as the list has it in its first column
    #[arg(value_name = "ID")]
    pub id: Id,
    /// Writes the bytes and nothing else
    #[arg(long)]
    pub raw: bool,
    /// Where they are.
    #[command(flatten)]
    pub place: Place,
}

/// What `dlq replay` can be told.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &PUBLISHING)))]
pub struct ReplayArgs {
    /// The dead letters, as the list has them in its first column
    #[arg(
        value_name = "ID",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub ids: Vec<Id>,
    /// Every dead letter that is there now
    #[arg(long)]
    pub all: bool,
    /// Of all only those with this reason, as malformed
    #[arg(long, requires = "all", conflicts_with = "ids")]
    pub reason: Option<String>,
    /// Says what would be published, and publishes nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Where they are.
    #[command(flatten)]
    pub place: Place,
}

/// Where dead letters are.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Whose dead letters, where each topic has its own: on Kafka
    #[arg(long, value_enum, default_value = "odds")]
    pub of: DlqTopic,
    /// The bus.
    #[command(flatten)]
    pub bus: BusSettings,
    /// Where KAFKA_BROKERS is not set: the server's SQLite file
    #[arg(
        long,
        env,
        hide_env_values = true,
        default_value = "data/sports-bet.db",
        help_heading = "Database"
    )]
    pub database_url: SecretString,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum DlqError {
    /// There is none of this id.
    #[error("there is no dead letter {0}")]
    Unknown(Id),
    /// The letters are in the database.
    #[error(
        "replay needs KAFKA_BROKERS: the embedded bus lives within the serving process, and nothing outside can publish to it"
    )]
    Embedded,
    /// Kafka.
    #[error("KAFKA_BROKERS: {0}")]
    Bus(#[from] BusError),
    /// The database.
    #[error("DATABASE_URL: {0}")]
    Store(#[from] StoreError),
    /// Standard output takes no more.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl DlqError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            DlqError::Unknown(_) => exit::FAILED,
            DlqError::Embedded => exit::USAGE,
            DlqError::Bus(_) | DlqError::Store(_) => exit::UNAVAILABLE,
            DlqError::Output(_) => exit::OUTPUT,
        }
    }
}

/// Carries the command out.
pub async fn run(args: &DlqArgs, out: &mut dyn Write) -> Result<(), DlqError> {
    let done = match &args.action {
        Action::List(args) => list(args, out),
        Action::Show(args) => show(args, out),
        Action::Replay(args) => replay::run(args, out).await,
    };
    match done {
        // Whoever closed the pipe has read enough.
        Err(DlqError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

impl DlqArgs {
    /// Checks the settings, before anything connects.
    pub fn check(&self, given: &ConfigInput) -> Result<(), ConfigExit> {
        let (place, reads) = match &self.action {
            Action::List(args) => (&args.place, true),
            Action::Show(args) => (&args.place, true),
            Action::Replay(args) => (&args.place, false),
        };
        let wrong: Vec<ConfigError> = if place.bus.kafka_brokers.is_some() {
            kafka::check(&place.bus)
                .into_iter()
                .map(|(variable, want)| given.error(variable, want))
                .collect()
        } else if reads {
            engines::sqlite_file(&place.database_url, given)
                .err()
                .into_iter()
                .collect()
        } else {
            Vec::new()
        };
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(ConfigExit::Wrong(wrong))
        }
    }
}

impl Place {
    /// The name of the topic of dead letters.
    fn topic(&self) -> String {
        match self.of {
            DlqTopic::Odds => self.bus.dead_letter_topic(),
            DlqTopic::BetPlaced => self.bus.kafka_topic_bet_placed_dlq.clone(),
            DlqTopic::BetConfirmed => self.bus.kafka_topic_bet_confirmed_dlq.clone(),
        }
    }

    /// The name of the topic that they are published to again.
    fn target(&self) -> &str {
        match self.of {
            DlqTopic::Odds => &self.bus.kafka_topic_odds,
            DlqTopic::BetPlaced => &self.bus.kafka_topic_bet_placed,
            DlqTopic::BetConfirmed => &self.bus.kafka_topic_bet_confirmed,
        }
    }
}

fn list(args: &ListArgs, out: &mut dyn Write) -> Result<(), DlqError> {
    for letter in Source::open(&args.place)?.newest(args.limit as usize, args.reason.as_deref())? {
        writeln!(out, "{}", text::line(&letter))?;
    }
    Ok(())
}

fn show(args: &ShowArgs, out: &mut dyn Write) -> Result<(), DlqError> {
    let letter: DeadLetterEntry = Source::open(&args.place)?
        .one(&args.id)?
        .ok_or_else(|| DlqError::Unknown(args.id.clone()))?;
    if args.raw {
        out.write_all(&letter.raw)?;
    } else {
        out.write_all(text::page(&letter).as_bytes())?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::DlqArgs;
    use crate::cli::{self, Command};

    /// What follows `sports-bet dlq`, read with no environment.
    pub(crate) fn args(words: &[&str]) -> DlqArgs {
        let words = ["sports-bet", "dlq"]
            .iter()
            .chain(words)
            .map(std::ffi::OsString::from);
        match cli::parse(words, &|_| None) {
            Ok((Command::Dlq(args), _)) => *args,
            other => panic!("{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::args;
    use super::*;
    use crate::domain::dead_letter::DeadLetter;
    use crate::store::Store;
    use crate::store::sqlite::SqliteStore;

    async fn said(words: &[&str]) -> Result<String, String> {
        let mut out = Vec::new();
        run(&args(words), &mut out)
            .await
            .map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    /// What is said of a command line that is not taken.
    fn refused(words: &[&str]) -> String {
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
    fn options_that_do_not_go_together_are_refused() {
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
            let said = refused(words);
            assert!(said.contains(want), "{words:?}: {said}");
        }
        assert_eq!(place(&["list", "--kafka-topic-odds", "x"]).topic(), "x_dlq");
        assert_eq!(place(&["list", "--kafka-topic-odds-dlq", "y"]).topic(), "y");
        for (of, topics) in [
            ("odds", ("odds_updates_dlq", "odds_updates")),
            ("bet-placed", ("bet_placed_dlq", "bet_placed")),
            ("bet-confirmed", ("bet_confirmed_dlq", "bet_confirmed")),
        ] {
            let place = place(&["list", "--of", of]);
            assert_eq!((place.topic().as_str(), place.target()), topics);
        }
    }

    #[test]
    fn help_shows_only_what_is_used() {
        let help = |action: &str| refused(&[action, "--help"]);
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
                help.lines().count() < 130,
                "{} lines: {help}",
                help.lines().count()
            );
        }
        // A shared script may give them all the same.
        args(&["list", "--kafka-group-live", "x"]);
    }

    #[tokio::test]
    async fn without_kafka_it_reads_the_file_of_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odds.db");
        let path = path.to_str().unwrap();
        let missing = said(&["list", "--database-url", path]).await.unwrap_err();
        assert!(
            missing.contains("there is no file") && missing.starts_with("DATABASE_URL: "),
            "{missing}"
        );
        assert!(!std::path::Path::new(path).exists(), "it only looks");
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
        let list = said(&["list", "--database-url", path]).await.unwrap();
        assert_eq!(
            list,
            "1\t2025-11-09T21:07:45.000001Z\tmalformed\todds_updates/0/1\t{]\n\
             2\t2025-11-09T21:07:45.000002Z\tprice\todds_updates/0/2\t\\xff\\x00\n"
        );
        let list = said(&["list", "--database-url", path, "--reason", "price"])
            .await
            .unwrap();
        assert_eq!(list.lines().count(), 1);
        insta::assert_snapshot!(said(&["show", "2", "--database-url", path]).await.unwrap(), @r"
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
            said(&["show", "9", "--database-url", path])
                .await
                .unwrap_err(),
            "there is no dead letter 9"
        );
        let refused = said(&["replay", "2", "--database-url", path])
            .await
            .unwrap_err();
        assert!(
            refused.contains("KAFKA_BROKERS") && refused.contains("serving process"),
            "{refused}"
        );
    }
}
