//! One argument's value: what is wrong with it, and how it is displayed.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use crate::config::address;
use crate::config::input::{ConfigError, EffectiveSetting, Source, quoted};
use crate::telemetry::redact::MASK;

/// Settings whose value is an address, which is displayed without the secrets in it.
const ADDRESSES: [&str; 14] = [
    "auth_jwks_url",
    "database_url",
    "database_ro_url",
    "postgres_dsn",
    "redis_url",
    "redis_addr",
    "supplier_urls",
    "supplier_ws_url",
    "supplier_url",
    "kafka_brokers",
    "gateway_odds_url",
    "gateway_wallet_url",
    "gateway_bets_url",
    "url",
];

/// The errors in an argument's value; a list is checked item by item.
pub(super) fn wrong_values(arg: &Arg, text: &OsStr, source: Source) -> Vec<ConfigError> {
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
pub(super) fn from_clap(error: &clap::Error) -> ConfigError {
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
        return address::postgres::shown(text).unwrap_or_else(|| address::shown(text));
    }
    if text.is_empty() || !arg.is_hide_env_values_set() {
        text.to_owned()
    } else {
        MASK.to_owned()
    }
}

/// A setting for display; `None` if the argument has no variable.
pub(super) fn shown(
    arg: &Arg,
    matches: &ArgMatches,
    flagged: &BTreeSet<String>,
) -> Option<EffectiveSetting> {
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
