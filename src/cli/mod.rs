//! The commands of `sports-bet`.

mod access_error;
pub mod dlq;
pub mod hold;
pub mod key;
pub mod ledger;
pub mod migrate;
mod operator;
mod operator_store;
pub mod replay;
pub mod report;
pub mod serve;
pub mod settle;
#[cfg(test)]
mod testing;
pub mod token;
pub mod user;
pub mod watch;

use std::ffi::OsString;
use std::io::Write;

use clap::{Args, Parser, Subcommand};

use crate::config::input::{ConfigExit, ConfigInput};
use crate::config::load::{self, Environment};
use crate::config::names::Doubtful;
use crate::config::settings::Settings;
use crate::config::{Config, show};
use crate::telemetry::version;

/// First arguments that belong to the program rather than to a command.
const PROGRAM_FLAGS: [&str; 4] = ["-h", "--help", "-V", "--version"];

/// Exit codes. Help, `docs/configuration.md` and scripts refer to them, so they must not change.
pub mod exit {
    /// The command ran and its result is negative, or it could not run.
    pub const FAILED: u8 = 1;
    /// The command line or a setting is wrong.
    pub const USAGE: u8 = 2;
    /// The database or Kafka is unavailable.
    pub const UNAVAILABLE: u8 = 3;
    /// The output could not be written. A closed pipe is not an error: the reader needs no more.
    pub const OUTPUT: u8 = 4;
}

/// Real-time sports-betting platform: suppliers stream odds, books keep the current state, clients
/// watch it change.
#[derive(Parser, Debug)]
#[command(
    name = "sports-bet",
    version = version::LINE,
    subcommand_required = true,
    override_usage = "sports-bet [COMMAND] [OPTIONS]",
    after_help = "Without a command, serve is run: `sports-bet` is `sports-bet serve`, and `sports-bet --role odds` is \
                  `sports-bet serve --role odds`.\n\
                  Every setting in `serve --help` is also an environment variable, which can be set in .env."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The commands of the program.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Runs the platform, by default with every role in one process [the default command]
    ///
    /// Runs the platform until SIGTERM, SIGHUP, SIGQUIT or Ctrl-C: a simulated supplier, the ingest
    /// of supplier odds, the processor with its books and database, and the odds served to clients
    /// over REST and WebSocket. By default it needs no other software. Each option can also be set
    /// by the environment variable shown with it; an empty variable counts as unset.
    #[command(
        after_help = "Exit codes: 0 stopped by a signal, 1 failed to start or to continue, 2 wrong settings."
    )]
    Serve(Box<Settings>),
    /// Serves recordings of the Betfair Exchange Stream over the exchange's protocol
    #[command(
        after_help = "Exit codes: 0 stopped by a signal, 1 a recording or the listen address cannot be used, \
                            2 wrong command line."
    )]
    Replay(crate::cli::replay::ReplayArgs),
    /// Subscribes to events and prints one line per change
    #[command(
        after_help = "Exit codes: 0 all requested lines are printed, the reader closed the pipe, or Ctrl-C; 1 the \
                            server refused the connection; 2 wrong command line; 4 the output cannot be written."
    )]
    Watch(crate::cli::watch::WatchArgs),
    /// Lists, shows and republishes dead letters
    #[command(
        after_help = "Exit codes (of each subcommand): 0 done, even if the reader closed the pipe; 1 the dead letter \
                            does not exist; 2 wrong command line or settings; 3 Kafka or the database is unavailable; \
                            4 the output cannot be written."
    )]
    Dlq(Box<crate::cli::dlq::DlqArgs>),
    /// Sets, lists and releases holds, which stop bets
    #[command(
        after_help = "Exit codes (of each subcommand): 0 done, even if the reader closed the pipe; 1 the hold does \
                            not exist or was already released; 2 wrong command line or settings; 3 the database is \
                            unavailable; 4 the output cannot be written."
    )]
    Hold(Box<crate::cli::hold::HoldArgs>),
    /// Decides a market by hand
    #[command(
        after_help = "Exit codes: 0 done, even if the reader closed the pipe; 1 the decision does not fit the market; 2 \
                            wrong command line or settings; 3 the database is unavailable; 4 the output cannot be \
                            written."
    )]
    Settle(Box<crate::cli::settle::SettleArgs>),
    /// Prints what open bets may cost, and what settled bets did
    #[command(
        after_help = "Exit codes (of each subcommand): 0 printed, even if the reader closed the pipe; 2 wrong command \
                            line or settings; 3 the database is unavailable; 4 the output cannot be written."
    )]
    Report(Box<crate::cli::report::ReportArgs>),
    /// Creates, lists and revokes the API keys of services
    #[command(
        after_help = "Exit codes (of each subcommand): 0 done; 1 the key does not exist or was already revoked; 2 wrong \
                            command line or settings; 3 the database is unavailable; 4 the output cannot be written, \
                            and no key was created."
    )]
    Key(Box<crate::cli::key::KeyArgs>),
    /// Revokes the tokens of users
    #[command(
        after_help = "Exit codes (of each subcommand): 0 done; 2 wrong command line or settings; 3 the database is \
                            unavailable; 4 the output cannot be written."
    )]
    User(Box<crate::cli::user::UserArgs>),
    /// Signs a token for development and tests
    #[command(
        after_help = "Exit codes: 0 the token is printed; 1 the key cannot be used; 2 wrong command line or settings; 4 \
                            the output cannot be written."
    )]
    Token(Box<crate::cli::token::TokenArgs>),
    /// Verifies that no money was lost or created
    #[command(
        after_help = "Exit codes: 0 the ledger is correct; 1 it is wrong; 2 wrong command line or settings; 3 the \
                            database is unavailable, so nothing was verified; 4 the output cannot be written. If the \
                            reader closes the pipe, the code still gives the result."
    )]
    Ledger(Box<crate::cli::ledger::LedgerArgs>),
    /// Migrates the database schema to this version and exits
    Migrate(Box<crate::cli::migrate::MigrateArgs>),
    /// Prints the effective settings, or all errors in them
    ///
    /// Takes the options and variables of `serve`. Prints each setting with its value, secrets
    /// masked, and the source of the value: default, environment (or .env) or flag. If any setting
    /// is wrong, prints what each wrong setting got and what it wants, and exits with 2.
    #[command(
        after_help = "Exit codes: 0 the settings are valid, even if the reader closed the pipe; 2 they are not."
    )]
    CheckConfig(Box<CheckConfigArgs>),
}

/// The arguments of `check-config`.
#[derive(Args, Debug)]
pub struct CheckConfigArgs {
    /// The settings to check.
    #[command(flatten)]
    pub settings: Settings,
    /// Prints .env.example instead
    #[arg(long, hide = true)]
    pub example: bool,
}

impl CheckConfigArgs {
    /// Builds the text that the command prints.
    pub fn output(self, input: ConfigInput, doubtful: &[Doubtful]) -> Result<String, ConfigExit> {
        if self.example {
            return Ok(show::example());
        }
        Config::new(self.settings, input)
            .map(|config| show::effective(&config) + &show::warnings(doubtful, &config))
    }
}

/// Parses a command line, which starts with the program name, over an environment. [`Config::new`]
/// and [`CheckConfigArgs::output`] report the wrong values in the returned [`ConfigInput`] together
/// with their own findings; all other commands are returned only if no value is wrong.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    environment: Environment<'_>,
) -> Result<(Command, ConfigInput), ConfigExit> {
    let (cli, input) = load::load::<Cli>(with_command(args.into_iter().collect()), environment)?;
    match &cli.command {
        Command::Serve(_) | Command::CheckConfig(_) => {}
        Command::Replay(_)
        | Command::Watch(_)
        | Command::Dlq(_)
        | Command::Hold(_)
        | Command::Settle(_)
        | Command::Report(_)
        | Command::Key(_)
        | Command::User(_)
        | Command::Token(_)
        | Command::Ledger(_)
        | Command::Migrate(_) => input.complete()?,
    }
    Ok((cli.command, input))
}

/// Hides a setting from the help of a command that does not use it. The flag is still accepted,
/// because a shared script may pass it.
pub(crate) fn only_shown(arg: clap::Arg, used: &[&str]) -> clap::Arg {
    let is_setting = arg.get_env().is_some();
    let is_used = used.contains(&arg.get_id().as_str());
    if is_setting && !is_used {
        arg.hide(true)
    } else {
        arg
    }
}

/// Writes the output of a command. A closed pipe is not an error: the reader needs no more.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The environment of this process.
pub fn process_environment(variable: &str) -> Option<OsString> {
    std::env::var_os(variable)
}

/// Inserts `serve` if no command is given.
fn with_command(mut args: Vec<OsString>) -> Vec<OsString> {
    let first = args.get(1).map(|arg| arg.to_string_lossy());
    let is_serve =
        first.is_none_or(|arg| arg.starts_with('-') && !PROGRAM_FLAGS.contains(&arg.as_ref()));
    if is_serve {
        args.insert(args.len().min(1), OsString::from("serve"));
    }
    args
}

#[cfg(test)]
mod tests;
