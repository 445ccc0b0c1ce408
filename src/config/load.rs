//! Parses a command line and an environment with clap, and collects every wrong value instead of
//! stopping at the first.
//!
//! By default clap reads the process environment. Here it must not: the environment is passed in as
//! a lookup function, each variable is checked with clap's own value parsers, and the valid ones
//! are added to the command line. So a test can bring its own environment, an empty variable counts
//! as unset, and all wrong values are reported together.

mod values;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

use self::values::{from_clap, shown, wrong_values};
use super::input::{ConfigError, ConfigExit, ConfigInput, Source};

/// Looks up an environment variable.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Parses `args`, which starts with the program name, over `environment` over the defaults, for a
/// command or its subcommand. Wrong values are reported in [`ConfigInput::wrong`]; parsing fails
/// only if there is no default to continue with.
pub(crate) fn load<C: CommandFactory + FromArgMatches>(
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
    let mut command = program;
    let mut place = 1;
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
            // What is missing may be an argument whose wrong value was removed.
            None if !wrong.is_empty() && error.kind() == ErrorKind::MissingRequiredArgument => {
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
    let flag = OsString::from(format!("--{long}"));
    let flag_with_value = format!("--{long}=");
    let before = wrong.len();
    let mut remaining = Vec::with_capacity(args.len());
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
            None => remaining.push(token),
        }
    }
    if wrong.len() == before {
        return false;
    }
    *args = remaining;
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

#[cfg(test)]
mod tests;
