//! Log lines: text for people, JSON for machines. One record is one line, whatever it contains.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::sync::OnceLock;
use std::time::Instant;

use chrono::{DateTime, SecondsFormat, Utc};
use env_logger::{Builder, Logger, Target};
use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Record, SetLoggerError};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::limited_logger::LimitedLogger;
use super::log_filter::check_filter;
use super::log_format::LogFormat;
use super::role::{self, RoleName};
use super::trace;

/// The crate's own part of a target, which is of no use to a reader.
const OWN_PREFIX: &str = concat!(env!("CARGO_CRATE_NAME"), "::");
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
///
/// JSON lines of code outside of all roles, such as startup, have `process_role`. Text lines leave
/// it out: it is the same for all of them, and people copy commands from these lines.
pub fn init(format: LogFormat, filter: &str, process_role: String) -> Result<(), LoggingError> {
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
            writeln!(
                out,
                "{}",
                text_line(record, Utc::now(), &level, role::current())
            )
        }),
        LogFormat::Json => builder.format(move |out, record| {
            let role = role::current().unwrap_or(&process_role);
            writeln!(out, "{}", json_line(record, Utc::now(), role)?)
        }),
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

/// A record as text: time, level, target, message, role, trace, fields. `level` is passed in because it
/// may be coloured.
pub fn text_line(
    record: &Record<'_>,
    now: DateTime<Utc>,
    level: &dyn Display,
    role: RoleName,
) -> String {
    let target = record
        .target()
        .strip_prefix(OWN_PREFIX)
        .unwrap_or(record.target());
    let mut line = format!("{} {level} {target}: ", time_of(now));
    push_escaped(&mut line, &record.args().to_string());
    let mut fields = TextFields { line };
    if let Some(role) = role {
        fields.line.push_str(" role=");
        fields.line.push_str(role);
    }
    if let Some(span) = trace::current() {
        fields.line.push_str(" trace_id=");
        fields.line.push_str(&span.trace_id_text());
    }
    // Fields that cannot be read are left out; the rest of the line is kept.
    let _ = record.key_values().visit(&mut fields);
    fields.line
}

/// A record as one JSON object. A field with the name of a member that exists already gets a `_`
/// prefix.
pub fn json_line(
    record: &Record<'_>,
    now: DateTime<Utc>,
    role: &str,
) -> Result<String, serde_json::Error> {
    let mut object = JsonObject::default();
    object.push("ts", &time_of(now))?;
    object.push("level", &record.level().as_str().to_ascii_lowercase())?;
    object.push("target", record.target())?;
    object.push("message", record.args())?;
    object.push("role", role)?;
    if let Some(span) = trace::current() {
        object.push("trace_id", &span.trace_id_text())?;
    }
    // Fields that cannot be read are left out; the rest of the line is kept.
    let _ = record.key_values().visit(&mut object);
    serde_json::to_string(&object)
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

/// The members of a JSON object, in the order in which they are added.
#[derive(Default)]
struct JsonObject(Vec<(String, Box<RawValue>)>);

impl JsonObject {
    /// Adds a member. Serialized at once, so that a value that fails leaves the others as they are.
    fn push(
        &mut self,
        name: &str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), serde_json::Error> {
        let value = to_raw_value(value)?;
        let mut name = name.to_owned();
        while self.0.iter().any(|(existing, _)| *existing == name) {
            name.insert(0, '_');
        }
        self.0.push((name, value));
        Ok(())
    }
}

impl Serialize for JsonObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'kvs> VisitSource<'kvs> for JsonObject {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let added = match value.to_f64() {
            // JSON has no such number.
            Some(number) if !number.is_finite() => self.push(key.as_str(), &number.to_string()),
            _ => self.push(key.as_str(), &value),
        };
        added.map_err(Error::boxed)
    }
}

#[cfg(test)]
mod tests;
