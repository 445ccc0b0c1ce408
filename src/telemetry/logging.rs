//! Log lines: text for people, JSON for machines. One record is one line, whatever it contains.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::sync::OnceLock;
use std::time::Instant;

use chrono::{DateTime, SecondsFormat, Utc};
use env_logger::{Builder, Logger, Target};
use log::kv::{Error, Key, Value, VisitSource, VisitValue};
use log::{LevelFilter, Record, SetLoggerError};

use super::limited_logger::LimitedLogger;
use super::log_filter::check_filter;
use super::log_format::LogFormat;
use crate::config::settings::Role;

/// The crate's own part of a target, which is of no use to a reader.
const OWN_PREFIX: &str = concat!(env!("CARGO_CRATE_NAME"), "::");
/// The members that every JSON line has.
const MEMBERS: [&str; 4] = ["ts", "level", "target", "message"];

/// The role that a module works for, added to each of its lines. Modules of several roles, such as
/// the server, are not listed.
const ROLES: [(&str, Role); 20] = [
    ("simulator", Role::Simulator),
    ("supplier::confirm", Role::Confirmation),
    ("supplier", Role::Ingest),
    ("actors::ingest", Role::Ingest),
    ("actors::odds::consumers", Role::Processor),
    ("actors::odds::book_router", Role::Processor),
    ("actors::odds::odds_book", Role::Processor),
    ("actors::odds::cache_writer", Role::Processor),
    ("actors::odds::store_writer", Role::Processor),
    ("store", Role::Processor),
    ("actors::streaming", Role::Odds),
    ("http::odds", Role::Odds),
    ("http::streaming", Role::Odds),
    ("actors::wallet", Role::Wallet),
    ("http::wallet", Role::Wallet),
    ("http::bets", Role::Bets),
    ("actors::bets::outbox_relay", Role::Bets),
    ("actors::bets::bet_consumer", Role::Confirmation),
    ("actors::bets::overdue_sweeper", Role::Confirmation),
    ("actors::bets::canceller", Role::Confirmation),
];
/// The logger of this process, once it is set up.
static LIMITED: OnceLock<&'static LimitedLogger<Logger>> = OnceLock::new();
/// Crates that log worker threads and similar details. Only their warnings and errors are shown,
/// unless the filter names them.
const SERVER_CRATES: [&str; 2] = ["actix_server", "actix_http"];
/// Crates whose debug and trace lines contain what they send and receive, including addresses with
/// tokens.
const VERBOSE_CRATES: [&str; 3] = ["tungstenite", "tokio_tungstenite", "rustls"];

/// Why logging was not set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is invalid.
    #[error("invalid log filter: expected {0}")]
    Filter(String),
    /// Logging was set up before.
    #[error(transparent)]
    Twice(#[from] SetLoggerError),
}

/// Sends what the filter lets through to stderr. May be called once per process.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    check_filter(filter).map_err(LoggingError::Filter)?;
    let mut builder = Builder::new();
    for module in SERVER_CRATES {
        builder.filter_module(module, LevelFilter::Warn);
    }
    builder.parse_filters(filter).target(Target::Stderr);
    for module in VERBOSE_CRATES {
        builder.filter_module(module, LevelFilter::Info);
    }
    match format {
        LogFormat::Text => builder.format(|out, record| {
            let style = out.default_level_style(record.level());
            let level = format!("{style}{:<5}{style:#}", record.level());
            writeln!(out, "{}", text_line(record, Utc::now(), &level))
        }),
        LogFormat::Json => {
            builder.format(|out, record| writeln!(out, "{}", json_line(record, Utc::now())))
        }
    };
    let inner = builder.build();
    log::set_max_level(inner.filter());
    let logger: &'static LimitedLogger<Logger> =
        Box::leak(Box::new(LimitedLogger::new(inner, &SERVER_CRATES)));
    log::set_logger(logger)?;
    let _ = LIMITED.set(logger);
    Ok(())
}

/// Logs how many of the lines caused by clients were left out. Must be called about once a minute.
pub fn report_left_out() {
    if let Some(logger) = LIMITED.get() {
        logger.report(Instant::now());
    }
}

/// A record as text: time, level, target, message, fields. `level` is passed in because it may be
/// coloured.
pub fn text_line(record: &Record<'_>, now: DateTime<Utc>, level: &dyn Display) -> String {
    let target = record
        .target()
        .strip_prefix(OWN_PREFIX)
        .unwrap_or(record.target());
    let mut line = format!("{} {level} {target}: ", time_of(now));
    push_escaped(&mut line, &record.args().to_string());
    let mut fields = TextFields { line };
    if let Some(role) = role_of(record.target()) {
        fields.line.push_str(" role=");
        fields.line.push_str(role.name());
    }
    // Fields that cannot be read are left out; the rest of the line is kept.
    let _ = record.key_values().visit(&mut fields);
    fields.line
}

/// A record as one JSON object. A field with the name of a member that exists already gets a `_`
/// prefix.
pub fn json_line(record: &Record<'_>, now: DateTime<Utc>) -> String {
    let mut object = JsonObject {
        text: "{".to_owned(),
        names: BTreeSet::new(),
    };
    let values = [
        json_text(&time_of(now)),
        json_text(&record.level().as_str().to_ascii_lowercase()),
        json_text(record.target()),
        json_text(&record.args().to_string()),
    ];
    for (name, value) in MEMBERS.iter().zip(values) {
        object.push(name, &value);
    }
    if let Some(role) = role_of(record.target()) {
        object.push("role", &json_text(role.name()));
    }
    let _ = record.key_values().visit(&mut object);
    object.text.push('}');
    object.text
}

fn role_of(target: &str) -> Option<Role> {
    let module = target.strip_prefix(OWN_PREFIX)?;
    let is_within = |part: &str| {
        module
            .strip_prefix(part)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    ROLES
        .iter()
        .find(|(part, _)| is_within(part))
        .map(|(_, role)| *role)
}

fn time_of(now: DateTime<Utc>) -> String {
    now.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Writes control characters as escapes, so that text from a client or a supplier cannot forge a
/// line or colour a screen.
fn push_escaped(line: &mut String, text: &str) {
    for letter in text.chars() {
        if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
}

/// The fields of a record as ` key=value`, quoted if the value needs it.
struct TextFields {
    line: String,
}

impl<'kvs> VisitSource<'kvs> for TextFields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let value = value.to_string();
        self.line.push(' ');
        push_escaped(&mut self.line, key.as_str());
        self.line.push('=');
        let plain = |letter: char| {
            !letter.is_whitespace() && !letter.is_control() && !"\"='\\".contains(letter)
        };
        if !value.is_empty() && value.chars().all(plain) {
            self.line.push_str(&value);
        } else {
            write!(self.line, "{value:?}")?;
        }
        Ok(())
    }
}

/// A JSON object that is being written.
struct JsonObject {
    text: String,
    names: BTreeSet<String>,
}

impl JsonObject {
    fn push(&mut self, name: &str, value: &str) {
        let mut name = name.to_owned();
        while self.names.contains(&name) {
            name.insert(0, '_');
        }
        if !self.names.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(&json_text(&name));
        self.text.push(':');
        self.text.push_str(value);
        self.names.insert(name);
    }
}

impl<'kvs> VisitSource<'kvs> for JsonObject {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let mut written = JsonValue(String::new());
        value.visit(&mut written)?;
        self.push(key.as_str(), &written.0);
        Ok(())
    }
}

/// The value of a field as JSON. Numbers stay numbers; a number that JSON cannot express is a
/// string.
struct JsonValue(String);

impl JsonValue {
    fn put(&mut self, value: impl Display) -> Result<(), Error> {
        self.0 = value.to_string();
        Ok(())
    }
}

impl<'v> VisitValue<'v> for JsonValue {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), Error> {
        self.put(json_text(&value.to_string()))
    }

    fn visit_null(&mut self) -> Result<(), Error> {
        self.put("null")
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), Error> {
        self.put(value)
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), Error> {
        self.put(value)
    }

    fn visit_u128(&mut self, value: u128) -> Result<(), Error> {
        self.put(value)
    }

    fn visit_i128(&mut self, value: i128) -> Result<(), Error> {
        self.put(value)
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), Error> {
        if value.is_finite() {
            self.put(value)
        } else {
            self.put(json_text(&value.to_string()))
        }
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), Error> {
        self.put(value)
    }

    fn visit_str(&mut self, value: &str) -> Result<(), Error> {
        self.put(json_text(value))
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
