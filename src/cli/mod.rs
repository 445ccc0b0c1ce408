//! The commands of `sports-bet`.

pub mod dlq;
pub mod ledger;
pub mod migrate;
pub mod replay;
pub mod serve;
pub mod watch;

use std::ffi::OsString;
use std::io::Write;

use clap::{Args, Parser, Subcommand};

use crate::config::load::{self, ConfigExit, ConfigInput, Environment};
use crate::config::names::Doubtful;
use crate::config::settings::Settings;
use crate::config::{Config, show};

/// Arguments in first place that concern the program and not a command.
const OF_THE_PROGRAM: [&str; 4] = ["-h", "--help", "-V", "--version"];

/// Exit codes. Help, `docs/operations.md` and scripts name them: they stay as they are.
pub mod exit {
    /// The command did its work and the answer is no, or it could not do its work.
    pub const FAILED: u8 = 1;
    /// The command line or a setting is wrong.
    pub const USAGE: u8 = 2;
    /// The database or Kafka cannot be used.
    pub const UNAVAILABLE: u8 = 3;
    /// The output could not be written. A closed pipe is not an error: the reader has read enough.
    pub const OUTPUT: u8 = 4;
}

/// Real-time sports-betting platform: suppliers stream odds, books keep them, clients watch them
/// change.
#[derive(Parser, Debug)]
#[command(
    name = "sports-bet",
    version,
    subcommand_required = true,
    override_usage = "sports-bet [COMMAND] [OPTIONS]",
    after_help = "Without a command it serves: `sports-bet` is `sports-bet serve`, and `sports-bet --role odds` is \
                  `sports-bet serve --role odds`.\n\
                  Every setting of `serve --help` is also an environment variable, and read from .env too."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the program is asked to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Runs the platform, every role in one process unless told otherwise [what no command means]
    ///
    /// Runs the platform until SIGTERM, SIGHUP, SIGQUIT or Ctrl-C: a simulated supplier, the ingest
    /// of suppliers' odds, the processor with its books and database, and the odds served to
    /// clients over REST and WebSocket. With no option it needs nothing installed. Each option is
    /// also the environment variable behind it; an empty variable counts as not set.
    #[command(
        after_help = "Exit codes: 0 stopped by a signal, 1 did not start or could not go on, 2 wrong settings."
    )]
    Serve(Box<Settings>),
    /// Serves recordings of the Betfair Exchange Stream, as the exchange does
    #[command(
        after_help = "Exit codes: 0 stopped by a signal, 1 a recording or the address cannot be used, \
                            2 wrong command line."
    )]
    Replay(crate::cli::replay::ReplayArgs),
    /// Subscribes to events and prints each change as a line
    #[command(
        after_help = "Exit codes: 0 the wanted lines are printed, the reader closed the pipe, or Ctrl-C; 1 the \
                            server refuses; 2 wrong command line; 4 the output cannot be written."
    )]
    Watch(crate::cli::watch::WatchArgs),
    /// Lists, shows and publishes again what could not be read
    #[command(
        after_help = "Exit codes (of each subcommand): 0 done, also where the reader closed the pipe; 1 there is no \
                            such dead letter; 2 wrong command line or settings; 3 Kafka or the database cannot be used; \
                            4 the output cannot be written."
    )]
    Dlq(Box<crate::cli::dlq::DlqArgs>),
    /// Proves that no money was lost or made
    #[command(
        after_help = "Exit codes: 0 the ledger is right; 1 it is wrong; 2 wrong command line or settings; 3 the \
                            database cannot be used, so nothing was verified; 4 the output cannot be written. A reader \
                            that closes the pipe changes nothing: the code is the verdict."
    )]
    Ledger(Box<crate::cli::ledger::LedgerArgs>),
    /// Brings the database's tables to this version, and ends
    Migrate(Box<crate::cli::migrate::MigrateArgs>),
    /// Prints the settings in force, or everything that is wrong with them
    ///
    /// Takes the options and variables of `serve`. Prints each setting with its value, secrets
    /// masked, and where the value comes from: default, environment (or .env), flag. Where
    /// something is wrong it names each wrong setting, what it got and what it wants, and exits
    /// with 2.
    #[command(
        after_help = "Exit codes: 0 the settings can be used, also where the reader closed the pipe; 2 they cannot."
    )]
    CheckConfig(Box<CheckConfigArgs>),
}

/// What `check-config` can be told.
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
    /// The text that the command prints.
    pub fn output(self, given: ConfigInput, doubtful: &[Doubtful]) -> Result<String, ConfigExit> {
        if self.example {
            return Ok(show::example());
        }
        Config::new(self.settings, given)
            .map(|config| show::effective(&config) + &show::warnings(doubtful, &config))
    }
}

/// Reads a command line, the program's name first, over an environment. [`ConfigInput`] goes on to
/// [`Config::new`] or [`CheckConfigArgs::output`], which report its wrong values with their own
/// findings; any other command comes only when none is wrong.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    environment: Environment<'_>,
) -> Result<(Command, ConfigInput), ConfigExit> {
    let (cli, given) = load::load::<Cli>(with_command(args.into_iter().collect()), environment)?;
    match &cli.command {
        Command::Serve(_) | Command::CheckConfig(_) => {}
        Command::Replay(_)
        | Command::Watch(_)
        | Command::Dlq(_)
        | Command::Ledger(_)
        | Command::Migrate(_) => given.complete()?,
    }
    Ok((cli.command, given))
}

/// Hides a setting from the help of a command that does not use it. It is still taken: a shared
/// script may give it.
pub(crate) fn only_shown(arg: clap::Arg, used: &[&str]) -> clap::Arg {
    let is_setting = arg.get_env().is_some();
    let is_used = used.contains(&arg.get_id().as_str());
    if is_setting && !is_used {
        arg.hide(true)
    } else {
        arg
    }
}

/// Writes the output of a command. Whoever closed the pipe has read enough: that is no error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The environment of this process.
pub fn process_environment(variable: &str) -> Option<OsString> {
    std::env::var_os(variable)
}

/// Puts `serve` where no command stands.
fn with_command(mut args: Vec<OsString>) -> Vec<OsString> {
    let first = args.get(1).map(|arg| arg.to_string_lossy());
    let serves =
        first.is_none_or(|arg| arg.starts_with('-') && !OF_THE_PROGRAM.contains(&arg.as_ref()));
    if serves {
        args.insert(args.len().min(1), OsString::from("serve"));
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Role;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parsed(args: &[&str]) -> Result<(Command, ConfigInput), ConfigExit> {
        parse(args.iter().map(OsString::from), &|_| None)
    }

    fn usage(args: &[&str]) -> Box<clap::Error> {
        match parsed(args) {
            Err(ConfigExit::Usage(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_commands_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_serve() {
        for args in [
            &["sports-bet"][..],
            &["sports-bet", "serve"],
            &["sports-bet", "--http-port-odds=1"],
        ] {
            assert!(
                matches!(parsed(args), Ok((Command::Serve(_), _))),
                "{args:?}"
            );
        }
        for args in [
            &["sports-bet", "--role", "odds"][..],
            &["sports-bet", "serve", "--role", "odds"],
        ] {
            let Ok((Command::Serve(settings), _)) = parsed(args) else {
                panic!("{args:?}")
            };
            assert_eq!(settings.roles, [Role::Odds]);
        }
    }

    #[test]
    fn help_lists_the_commands_and_says_what_none_means() {
        let help = usage(&["sports-bet", "--help"]);
        assert_eq!(help.kind(), ErrorKind::DisplayHelp);
        assert_eq!(help.exit_code(), 0);
        let text = help.to_string();
        for words in ["serve", "check-config", "Without a command it serves"] {
            assert!(text.contains(words), "{text}");
        }
        assert_eq!(
            usage(&["sports-bet", "-V"]).kind(),
            ErrorKind::DisplayVersion
        );
    }

    #[test]
    fn help_names_every_variable_and_shows_none_of_their_values() {
        for args in [
            &["sports-bet", "serve", "--help"][..],
            &["sports-bet", "--role", "odds", "--help"],
        ] {
            let text = usage(args).to_string();
            for variable in show::variables() {
                assert!(
                    text.contains(&format!("[env: {variable}]")),
                    "{variable} is not in\n{text}"
                );
            }
        }
    }

    #[test]
    fn what_is_unknown_is_left_to_clap_with_its_suggestions() {
        let unknown = usage(&["sports-bet", "serv"]);
        assert_eq!(unknown.kind(), ErrorKind::InvalidSubcommand);
        assert!(unknown.to_string().contains("'serve'"), "{unknown}");
        let unknown = usage(&["sports-bet", "--http-port-ods", "1"]);
        assert_eq!(
            (unknown.kind(), unknown.exit_code()),
            (ErrorKind::UnknownArgument, 2)
        );
        assert!(
            unknown.to_string().contains("--http-port-odds"),
            "{unknown}"
        );
        assert_eq!(usage(&["sports-bet", "serve", "--role"]).exit_code(), 2);
    }

    #[test]
    fn check_config_prints_the_settings_or_everything_wrong() {
        let run = |args: &[&str], environment: Environment<'_>| {
            let (command, given) = parse(args.iter().map(OsString::from), environment)?;
            let Command::CheckConfig(args) = command else {
                panic!("{command:?}")
            };
            args.output(given, &[])
        };
        let text = run(
            &["sports-bet", "check-config", "--http-port-odds", "1"],
            &|_| None,
        )
        .unwrap();
        assert!(
            text.contains("HTTP_PORT_ODDS=1                                 # flag\n"),
            "{text}"
        );
        let example = run(&["sports-bet", "check-config", "--example"], &|_| None).unwrap();
        assert_eq!(example, show::example());
        let environment = |name: &str| (name == "HTTP_PORT_ODDS").then(|| "abc".into());
        let stop = run(
            &[
                "sports-bet",
                "check-config",
                "--role=odds",
                "--ws-max-sessions",
                "-",
            ],
            &environment,
        );
        insta::assert_snapshot!(stop.unwrap_err(), @r##"
WS_MAX_SESSIONS (--ws-max-sessions): got "-", want a whole number 1 to 10000000
HTTP_PORT_ODDS: got "abc", want a port number 0 to 65535
ROLE (--role): got "odds", want "processor" beside "odds", or REDIS_URL: the embedded engines join them only within one process
ROLE (--role): got "odds", want "processor" beside "odds", or a DATABASE_URL of PostgreSQL: the embedded engines join them only within one process
"##);
    }
}
