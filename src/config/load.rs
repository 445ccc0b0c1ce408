//! Parses a command line and an environment with clap, and collects every wrong value instead of
//! stopping at the first.
//!
//! By default clap reads the process environment. Here it must not: the environment is passed in as
//! a lookup function, each variable is checked with clap's own value parsers, and the valid ones
//! are added to the command line. So a test can bring its own environment, an empty variable counts
//! as unset, and all wrong values are reported together.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use clap::builder::{Resettable, ValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

use super::address;
use crate::store::postgres::PgStore;
use crate::telemetry::redact::MASK;

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The exit code for a wrong command line or setting.
const WRONG_USAGE: u8 = 2;
/// Settings whose value is an address, which is displayed without the secrets in it.
const ADDRESSES: [&str; 10] = [
    "database_url",
    "database_ro_url",
    "postgres_dsn",
    "redis_url",
    "redis_addr",
    "supplier_urls",
    "supplier_ws_url",
    "supplier_url",
    "kafka_brokers",
    "url",
];

/// A setting whose value is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{}: got {got}, want {want}", name_of(.variable, .flag.as_deref()))]
pub struct ConfigError {
    /// Its environment variable, or its flag if it has none.
    pub variable: String,
    /// The flag, if the value came from one.
    pub flag: Option<String>,
    /// The value in quotes, with secrets masked.
    pub got: String,
    /// The expected form; completes the sentence "want …".
    pub want: String,
}

fn name_of(variable: &str, flag: Option<&str>) -> String {
    match flag {
        Some(flag) if flag != variable => format!("{variable} ({flag})"),
        _ => variable.to_owned(),
    }
}

/// Why the program exits instead of running a command. Requested help is one of the reasons.
#[derive(Debug)]
pub enum ConfigExit {
    /// clap answers: help, version, or an unknown flag or subcommand.
    Usage(Box<clap::Error>),
    /// Some settings have wrong values.
    Wrong(Vec<ConfigError>),
}

impl ConfigExit {
    /// Prints the message and returns the exit code: 0 for requested help, 2 for an error.
    pub fn report(&self) -> ExitCode {
        if let ConfigExit::Usage(usage) = self {
            // If even this cannot be written, nothing more can be done.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(WRONG_USAGE));
        }
        let _ = writeln!(std::io::stderr(), "{self}");
        ExitCode::from(WRONG_USAGE)
    }
}

impl fmt::Display for ConfigExit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigExit::Usage(usage) => fmt::Display::fmt(usage, formatter),
            ConfigExit::Wrong(wrong) => {
                let lines: Vec<String> = wrong.iter().map(ConfigError::to_string).collect();
                formatter.write_str(&lines.join("\n"))
            }
        }
    }
}

impl std::error::Error for ConfigExit {}

/// The origin of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The value is the default.
    Default,
    /// The value comes from an environment variable or `.env`.
    Environment,
    /// The value comes from the command line.
    Flag,
}

impl Source {
    /// The source's name in the output of `check-config`.
    pub fn name(self) -> &'static str {
        match self {
            Source::Default => "default",
            Source::Environment => "environment",
            Source::Flag => "flag",
        }
    }
}

/// A setting in displayable form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// The help heading that it belongs to.
    pub heading: String,
    /// Its environment variable.
    pub variable: String,
    /// Its flag.
    pub flag: String,
    /// Its value with secrets masked; empty if it has none.
    pub value: String,
    /// Where the value comes from.
    pub source: Source,
}

/// The settings as displayed and the errors found while parsing; complements the typed values.
#[derive(Clone, Debug, Default)]
pub struct ConfigInput {
    /// Every setting of the command, in the order of its help.
    pub settings: Vec<EffectiveSetting>,
    /// Errors for wrong values; the typed values hold the defaults instead.
    pub wrong: Vec<ConfigError>,
}

impl ConfigInput {
    /// A setting by its variable.
    pub fn setting(&self, variable: &str) -> Option<&EffectiveSetting> {
        self.settings
            .iter()
            .find(|setting| setting.variable == variable)
    }

    /// Whether the setting was set by a flag or a variable.
    pub fn is_set(&self, variable: &str) -> bool {
        self.setting(variable)
            .is_some_and(|setting| setting.source != Source::Default)
    }

    /// An error about a setting, with its value masked.
    pub fn error(&self, variable: &str, want: impl Into<String>) -> ConfigError {
        let setting = self.setting(variable);
        ConfigError {
            variable: variable.to_owned(),
            flag: setting
                .filter(|setting| setting.source == Source::Flag)
                .map(|setting| setting.flag.clone()),
            got: setting.map_or_else(|| "nothing".to_owned(), |setting| quoted(&setting.value)),
            want: want.into(),
        }
    }

    /// Fails if any value was wrong.
    pub fn complete(&self) -> Result<(), ConfigExit> {
        if self.wrong.is_empty() {
            Ok(())
        } else {
            Err(ConfigExit::Wrong(self.wrong.clone()))
        }
    }
}

/// Parses `args`, which starts with the program name, over `environment` over the defaults, for a
/// command or its subcommand. Wrong values are reported in [`ConfigInput::wrong`]; parsing fails
/// only if there is no default to continue with.
pub fn load<C: CommandFactory + FromArgMatches>(
    args: impl IntoIterator<Item = OsString>,
    environment: Environment<'_>,
) -> Result<(C, ConfigInput), ConfigExit> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let mut described = C::command();
    described.build();
    let (command, place) = innermost(&described, &args);

    let mut wrong = Vec::new();
    let flagged = read_flags::<C>(command, &mut args, &mut wrong)?;
    let from_environment = read_environment(command, &flagged, environment, &mut wrong);
    let tokens: Vec<OsString> = from_environment
        .iter()
        .filter_map(|(arg, text)| as_flag(arg, text))
        .collect();
    args.splice(place.min(args.len())..place.min(args.len()), tokens);

    let read = detached(C::command(), false)
        .try_get_matches_from(&args)
        .and_then(|matches| {
            let typed = C::from_arg_matches(&matches)?;
            Ok((typed, matches))
        });
    let (typed, matches) = match read {
        Ok(read) => read,
        Err(_) if !wrong.is_empty() => return Err(ConfigExit::Wrong(wrong)),
        Err(usage) => return Err(ConfigExit::Usage(Box::new(usage))),
    };
    let matches = innermost_matches(&matches);
    let settings = command
        .get_arguments()
        .filter_map(|arg| shown(arg, matches, &flagged))
        .collect();
    Ok((typed, ConfigInput { settings, wrong }))
}

/// The innermost subcommand that the arguments name, and the number of arguments that name it,
/// including the program name.
fn innermost<'a>(program: &'a Command, args: &[OsString]) -> (&'a Command, usize) {
    let (mut command, mut place) = (program, 1);
    while let Some(subcommand) = args
        .get(place)
        .and_then(|name| command.find_subcommand(name))
    {
        (command, place) = (subcommand, place + 1);
    }
    (command, place)
}

fn innermost_matches(matches: &ArgMatches) -> &ArgMatches {
    let mut innermost = matches;
    while let Some((_, matches)) = innermost.subcommand() {
        innermost = matches;
    }
    innermost
}

/// The command without its links to the process environment. `environment_may_give` makes the
/// arguments optional that a variable can provide.
fn detached(command: Command, environment_may_give: bool) -> Command {
    command
        .mut_args(move |arg| {
            let optional = environment_may_give && arg.get_env().is_some();
            let arg = arg.env(Resettable::Reset);
            if optional { arg.required(false) } else { arg }
        })
        .mut_subcommands(move |command| detached(command, environment_may_give))
}

/// The command for printing help: with variable names, but without their values.
fn discreet(command: Command) -> Command {
    command
        .mut_args(|arg| arg.hide_env_values(true))
        .mut_subcommands(discreet)
}

/// Parses the flags alone. Removes wrong ones from `args` and returns the ids of all that were
/// given.
fn read_flags<C: CommandFactory>(
    command: &Command,
    args: &mut Vec<OsString>,
    wrong: &mut Vec<ConfigError>,
) -> Result<BTreeSet<String>, ConfigExit> {
    let mut flagged = BTreeSet::new();
    loop {
        let error = match detached(C::command(), true).try_get_matches_from(&*args) {
            Ok(matches) => {
                let matches = innermost_matches(&matches);
                let given = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
                flagged.extend(
                    matches
                        .ids()
                        .map(clap::Id::as_str)
                        .filter(given)
                        .map(str::to_owned),
                );
                return Ok(flagged);
            }
            Err(error) => error,
        };
        let arg = wrong_arg(command, &error).filter(|arg| remove_wrong(arg, args, wrong));
        match arg {
            Some(arg) => flagged.insert(arg.get_id().to_string()),
            None if !wrong.is_empty() && is_about_a_value(&error) => {
                wrong.push(from_clap(&error));
                return Err(ConfigExit::Wrong(std::mem::take(wrong)));
            }
            None => {
                return Err(ConfigExit::Usage(Box::new(with_help_text::<C>(
                    error, args,
                ))));
            }
        };
    }
}

/// Help rendered from the detached command lacks the variables, so it is rendered again.
fn with_help_text<C: CommandFactory>(error: clap::Error, args: &[OsString]) -> clap::Error {
    match error.kind() {
        ErrorKind::DisplayHelp => discreet(C::command())
            .try_get_matches_from(args)
            .err()
            .unwrap_or(error),
        _ => error,
    }
}

fn is_about_a_value(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidUtf8
    )
}

/// The argument whose value clap rejects.
fn wrong_arg<'a>(command: &'a Command, error: &clap::Error) -> Option<&'a Arg> {
    if !is_about_a_value(error) {
        return None;
    }
    let Some(ContextValue::String(usage)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = usage.split([' ', '=']).next()?.strip_prefix("--")?;
    command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(flag))
}

/// Removes an argument's wrong values from `args` and records them. Returns false if none was
/// found, so that the caller does not loop forever.
fn remove_wrong(arg: &Arg, args: &mut Vec<OsString>, wrong: &mut Vec<ConfigError>) -> bool {
    let Some(long) = arg.get_long() else {
        return false;
    };
    let (flag, flag_with_value) = (OsString::from(format!("--{long}")), format!("--{long}="));
    let before = wrong.len();
    let mut kept = Vec::with_capacity(args.len());
    let mut rest = args.iter().cloned();
    while let Some(token) = rest.next() {
        let value = if token == flag {
            rest.next()
        } else {
            token
                .as_encoded_bytes()
                .strip_prefix(flag_with_value.as_bytes())
                .map(|value| text_of(value).into())
        };
        match value {
            Some(value) => wrong.extend(wrong_values(arg, &value, Source::Flag)),
            None => kept.push(token),
        }
    }
    if wrong.len() == before {
        return false;
    }
    *args = kept;
    true
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The variables that are set and not empty, for arguments without a flag on the command line.
/// Wrong values are recorded instead.
fn read_environment<'a>(
    command: &'a Command,
    flagged: &BTreeSet<String>,
    environment: Environment<'_>,
    wrong: &mut Vec<ConfigError>,
) -> Vec<(&'a Arg, OsString)> {
    let mut good = Vec::new();
    for arg in command
        .get_arguments()
        .filter(|arg| !flagged.contains(arg.get_id().as_str()))
    {
        let Some(text) = arg.get_env().and_then(OsStr::to_str).and_then(environment) else {
            continue;
        };
        if text.is_empty() {
            continue;
        }
        match wrong_values(arg, &text, Source::Environment) {
            found if found.is_empty() => good.push((arg, text)),
            found => wrong.extend(found),
        }
    }
    good
}

/// A variable's value in the form of a flag. `None` for a flag without a value that must not be
/// set.
fn as_flag(arg: &Arg, text: &OsStr) -> Option<OsString> {
    let mut flag = OsString::from(format!("--{}", arg.get_long()?));
    if arg.get_action().takes_values() {
        flag.push("=");
        flag.push(text);
        return Some(flag);
    }
    let yes = ["true", "yes", "on", "y", "t", "1"];
    text.to_str()
        .is_some_and(|text| yes.contains(&text.to_ascii_lowercase().as_str()))
        .then_some(flag)
}

/// The errors in an argument's value; a list is checked item by item.
fn wrong_values(arg: &Arg, text: &OsStr, source: Source) -> Vec<ConfigError> {
    let error = |piece: &str, want: String| ConfigError {
        variable: variable_of(arg),
        flag: arg
            .get_long()
            .filter(|_| source == Source::Flag)
            .map(|long| format!("--{long}")),
        got: quoted(&masked(arg, piece)),
        want,
    };
    let Some(whole) = text.to_str() else {
        return vec![error(&text.to_string_lossy(), "text in UTF-8".to_owned())];
    };
    let pieces: Vec<&str> = match arg.get_value_delimiter() {
        Some(delimiter) => whole.split(delimiter).collect(),
        None => vec![whole],
    };
    let mut wrong = Vec::new();
    for piece in pieces {
        let Some(want) = expected_instead(arg.get_value_parser(), piece) else {
            continue;
        };
        // A password may contain the delimiter, and its parts would not be recognized as secret.
        if whole.contains('@') {
            return vec![error(whole, want)];
        }
        wrong.push(error(piece, want));
    }
    wrong.dedup();
    wrong
}

/// Parses one value with the argument's value parser. Returns the expected form if it is rejected.
fn expected_instead(reader: &ValueParser, text: &str) -> Option<String> {
    let value = Arg::new("value").long("value").value_parser(reader.clone());
    let command = Command::new("value")
        .no_binary_name(true)
        .disable_help_flag(true)
        .arg(value);
    let error = command
        .try_get_matches_from([format!("--value={text}")])
        .err()?;
    Some(want_of(&error))
}

fn want_of(error: &clap::Error) -> String {
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(names)) if !names.is_empty() => {
            format!("one of {}", names.join(", "))
        }
        _ => std::error::Error::source(error)
            .map_or_else(|| "another value".to_owned(), ToString::to_string),
    }
}

/// An error about a value without a flag, such as a file name.
fn from_clap(error: &clap::Error) -> ConfigError {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    ConfigError {
        variable: text(ContextKind::InvalidArg),
        flag: None,
        got: quoted(&text(ContextKind::InvalidValue)),
        want: want_of(error),
    }
}

/// An argument's variable, or else its flag, or else its name.
fn variable_of(arg: &Arg) -> String {
    match (arg.get_env().and_then(OsStr::to_str), arg.get_long()) {
        (Some(variable), _) => variable.to_owned(),
        (None, Some(long)) => format!("--{long}"),
        (None, None) => arg.get_id().to_string(),
    }
}

/// An argument's value without its secrets. If an address cannot be parsed, only its scheme is
/// displayed.
fn masked(arg: &Arg, text: &str) -> String {
    if ADDRESSES.contains(&arg.get_id().as_str()) {
        return PgStore::shown_address(text).unwrap_or_else(|| address::shown(text));
    }
    if text.is_empty() || !arg.is_hide_env_values_set() {
        text.to_owned()
    } else {
        MASK.to_owned()
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_debug())
}

fn shown(arg: &Arg, matches: &ArgMatches, flagged: &BTreeSet<String>) -> Option<EffectiveSetting> {
    let variable = arg.get_env()?.to_str()?.to_owned();
    let id = arg.get_id().as_str();
    let mut delimiter = [0; 4];
    let delimiter = arg
        .get_value_delimiter()
        .unwrap_or(',')
        .encode_utf8(&mut delimiter);
    let values: Vec<String> = matches
        .get_raw(id)
        .into_iter()
        .flatten()
        .map(|value| masked(arg, &value.to_string_lossy()))
        .collect();
    let source = match matches.value_source(id) {
        Some(ValueSource::CommandLine) if flagged.contains(id) => Source::Flag,
        Some(ValueSource::CommandLine) => Source::Environment,
        _ => Source::Default,
    };
    Some(EffectiveSetting {
        heading: arg.get_help_heading().unwrap_or("Other").to_owned(),
        variable,
        flag: format!("--{}", arg.get_long().unwrap_or(id)),
        value: values.join(delimiter),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, show};
    use clap::Parser;
    use proptest::prelude::*;

    /// A command with kinds of arguments that the settings of `serve` do not have.
    #[derive(Parser, Debug)]
    struct Player {
        #[arg(long, env = "PLAYER_LOOP")]
        r#loop: bool,
        #[arg(long, env = "PLAYER_SPEED")]
        speed: u32,
        #[arg(long)]
        limit: Option<u32>,
        numbers: Vec<u32>,
    }

    fn player(
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<(Player, ConfigInput), ConfigExit> {
        let args = ["player"].iter().chain(args).map(OsString::from);
        load(args, &|name| {
            variables
                .iter()
                .find(|(other, _)| *other == name)
                .map(|(_, value)| value.into())
        })
    }

    #[test]
    fn variable_replaces_required_or_valueless_flag() {
        for (value, plays) in [("true", true), ("false", false), ("", false)] {
            let (player, _) = player(
                &["1", "2"],
                &[("PLAYER_SPEED", "3"), ("PLAYER_LOOP", value)],
            )
            .unwrap();
            assert_eq!(
                (player.r#loop, player.speed, player.numbers),
                (plays, 3, vec![1, 2]),
                "{value}"
            );
        }
        assert!(
            matches!(player(&[], &[]), Err(ConfigExit::Usage(error)) if error.kind() == ErrorKind::MissingRequiredArgument)
        );
    }

    #[test]
    fn wrong_value_is_reported_by_flag() {
        let (_, given) = player(&["--speed", "1", "--limit=x"], &[]).unwrap();
        assert_eq!(
            given.wrong[0].to_string(),
            "--limit: got \"x\", want invalid digit found in string"
        );
        assert!(given.complete().is_err());
        // A value without a flag cannot be left out, so parsing fails, but the errors found before
        // are reported too.
        let stop = player(&["--limit", "x", "y"], &[("PLAYER_SPEED", "1")])
            .unwrap_err()
            .to_string();
        assert!(
            stop.contains("--limit: got \"x\"") && stop.contains("[NUMBERS]...: got \"y\""),
            "{stop}"
        );
    }

    #[test]
    fn process_environment_is_ignored() {
        // Every process has a PATH.
        #[derive(Parser)]
        struct Walker {
            #[arg(long, env = "PATH")]
            path: Option<String>,
        }
        assert!(std::env::var_os("PATH").is_some());
        let (walker, _) = load::<Walker>([OsString::from("walker")], &|_| None).unwrap();
        assert_eq!(walker.path, None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn random_values_never_panic(place in 0_usize..52, text in "\\PC{0,20}|[a-z0-9,:/@.]{0,20}|-.*") {
            let variables: Vec<String> = show::variables().collect();
            let variable = &variables[place % variables.len()];
            let _ = Config::from_variables(&[(variable, &text)]);
            let flag = format!("--{}={text}", variable.to_lowercase().replace('_', "-"));
            let _ = Config::from_args_and_env([OsString::from(flag), OsString::from(&text)].into_iter(), &|_| None);
        }
    }
}
