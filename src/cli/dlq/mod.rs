//! `sports-bet dlq`: inspects dead letters and publishes them again after the fault is fixed.

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
use crate::bus::BusError;
use crate::config::input::{ConfigError, ConfigExit, ConfigInput};
use crate::config::settings::BusSettings;
use crate::config::{engines, kafka};
use crate::store::StoreError;

/// The kind of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DlqTopic {
    /// Odds updates
    Odds,
    /// Results of markets
    MarketResults,
    /// Placed bets
    BetPlaced,
    /// Decided bets
    BetConfirmed,
    /// Settled bets
    BetSettled,
}

/// Lists, shows and republishes dead letters
///
/// Works on Kafka's dead-letter topic if KAFKA_BROKERS is set, otherwise on the dead letters in the
/// server's SQLite file, even while the server is running. An ID is the first column of the list:
/// partition:offset on Kafka, a number in the file. A letter that was written twice, because its
/// writer was killed, is processed once.
#[derive(Args, Clone, Debug)]
pub struct DlqArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// The actions on dead letters.
#[derive(Subcommand, Clone, Debug)]
pub enum Action {
    /// Prints one line per dead letter, newest last
    List(ListArgs),
    /// Prints the headers and the bytes of a dead letter
    Show(ShowArgs),
    /// Publishes dead letters to their original topic again
    Replay(ReplayArgs),
}

/// Settings used by `list` and `show`.
const READING: [&str; 12] = [
    "kafka_brokers",
    "kafka_topic_odds_dlq",
    "kafka_topic_market_results_dlq",
    "kafka_topic_bet_placed_dlq",
    "kafka_topic_bet_confirmed_dlq",
    "kafka_topic_bet_settled_dlq",
    "kafka_security_protocol",
    "kafka_sasl_mechanism",
    "kafka_sasl_username",
    "kafka_sasl_password",
    "kafka_ca_file",
    "database_url",
];
/// Settings used by `replay`.
const PUBLISHING: [&str; 18] = [
    "kafka_brokers",
    "kafka_topic_odds",
    "kafka_topic_odds_dlq",
    "kafka_topic_market_results",
    "kafka_topic_market_results_dlq",
    "kafka_topic_bet_placed",
    "kafka_topic_bet_placed_dlq",
    "kafka_topic_bet_confirmed",
    "kafka_topic_bet_confirmed_dlq",
    "kafka_topic_bet_settled",
    "kafka_topic_bet_settled_dlq",
    "kafka_topic_partitions",
    "kafka_topic_replication",
    "kafka_security_protocol",
    "kafka_sasl_mechanism",
    "kafka_sasl_username",
    "kafka_sasl_password",
    "kafka_ca_file",
];

/// The arguments of `dlq list`.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &READING)))]
pub struct ListArgs {
    /// Maximum number of dead letters to list; the newest are kept
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// Only dead letters with this reason, for example malformed
    #[arg(long)]
    pub reason: Option<String>,
    /// Where the dead letters are stored.
    #[command(flatten)]
    pub place: Place,
}

/// The arguments of `dlq show`.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &READING)))]
pub struct ShowArgs {
    /// The id of the dead letter, from the first column of the list
    #[arg(value_name = "ID")]
    pub id: Id,
    /// Writes only the bytes
    #[arg(long)]
    pub raw: bool,
    /// Where the dead letters are stored.
    #[command(flatten)]
    pub place: Place,
}

/// The arguments of `dlq replay`.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &PUBLISHING)))]
pub struct ReplayArgs {
    /// The ids of the dead letters, from the first column of the list
    #[arg(
        value_name = "ID",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub ids: Vec<Id>,
    /// All current dead letters
    #[arg(long)]
    pub all: bool,
    /// With --all, only dead letters with this reason, for example malformed
    #[arg(long, requires = "all", conflicts_with = "ids")]
    pub reason: Option<String>,
    /// Prints what would be published without publishing it
    #[arg(long)]
    pub dry_run: bool,
    /// Where the dead letters are stored.
    #[command(flatten)]
    pub place: Place,
}

/// The location of dead letters.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Topic whose dead letters are used; on Kafka only, where each topic has its own
    #[arg(long, value_enum, default_value = "odds")]
    pub of: DlqTopic,
    /// Settings of the bus.
    #[command(flatten)]
    pub bus: BusSettings,
    /// The server's SQLite file, used if KAFKA_BROKERS is not set
    #[arg(
        long,
        env,
        hide_env_values = true,
        default_value = "data/sports-bet.db",
        help_heading = "Database"
    )]
    pub database_url: SecretString,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum DlqError {
    /// No dead letter has this id.
    #[error("dead letter {0} does not exist")]
    Unknown(Id),
    /// The dead letters are in the database.
    #[error(
        "replay needs KAFKA_BROKERS: the embedded bus exists only within the serving process, so no other process can publish to it"
    )]
    Embedded,
    /// Kafka failed.
    #[error("KAFKA_BROKERS: {0}")]
    Bus(#[from] BusError),
    /// The database failed.
    #[error("DATABASE_URL: {0}")]
    Store(#[from] StoreError),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
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

/// Runs the command.
pub async fn run(args: &DlqArgs, out: &mut dyn Write) -> Result<(), DlqError> {
    let done = match &args.action {
        Action::List(args) => list(args, out),
        Action::Show(args) => show(args, out),
        Action::Replay(args) => replay::run(args, out).await,
    };
    match done {
        // The reader closed the pipe because it needs no more.
        Err(DlqError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

impl DlqArgs {
    /// Checks the settings before anything connects.
    pub fn check(&self, input: &ConfigInput) -> Result<(), ConfigExit> {
        let (place, reads) = match &self.action {
            Action::List(args) => (&args.place, true),
            Action::Show(args) => (&args.place, true),
            Action::Replay(args) => (&args.place, false),
        };
        let wrong: Vec<ConfigError> = if place.bus.kafka_brokers.is_some() {
            kafka::check(&place.bus)
                .into_iter()
                .map(|(variable, want)| input.error(variable, want))
                .collect()
        } else if reads {
            engines::sqlite_file(&place.database_url, input)
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
    /// The name of the dead-letter topic.
    fn topic(&self) -> String {
        match self.of {
            DlqTopic::Odds => self.bus.dead_letter_topic(),
            DlqTopic::MarketResults => self.bus.kafka_topic_market_results_dlq.clone(),
            DlqTopic::BetPlaced => self.bus.kafka_topic_bet_placed_dlq.clone(),
            DlqTopic::BetConfirmed => self.bus.kafka_topic_bet_confirmed_dlq.clone(),
            DlqTopic::BetSettled => self.bus.kafka_topic_bet_settled_dlq.clone(),
        }
    }

    /// The name of the topic that dead letters are republished to.
    fn target(&self) -> &str {
        match self.of {
            DlqTopic::Odds => &self.bus.kafka_topic_odds,
            DlqTopic::MarketResults => &self.bus.kafka_topic_market_results,
            DlqTopic::BetPlaced => &self.bus.kafka_topic_bet_placed,
            DlqTopic::BetConfirmed => &self.bus.kafka_topic_bet_confirmed,
            DlqTopic::BetSettled => &self.bus.kafka_topic_bet_settled,
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

    /// Parses the words after `sports-bet dlq`, with an empty environment.
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
mod tests;
