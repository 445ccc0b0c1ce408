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
use crate::config::settings::{LogFormat, Role};
use crate::config::values::check_filter;

/// The crate's own part of a target, which is of no use to a reader.
const OWN_PREFIX: &str = concat!(env!("CARGO_CRATE_NAME"), "::");
/// The members that every JSON line has.
const MEMBERS: [&str; 4] = ["ts", "level", "target", "message"];

/// The role that a module works for, added to each of its lines. Modules of several roles, such as
/// the server, are not listed.
const ROLES: [(&str, Role); 16] = [
    ("simulator", Role::Simulator),
    ("supplier::confirm", Role::Confirmation),
    ("supplier", Role::Ingest),
    ("actors::ingest", Role::Ingest),
    ("actors::odds", Role::Processor),
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
mod tests {
    use super::*;
    use log::Level;
    use log::kv::Source;
    use proptest::prelude::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_763_845_200_042).unwrap()
    }

    /// Builds a record and passes it on: its arguments live only as long as the call.
    fn with_record<T>(message: &str, fields: &dyn Source, use_it: impl Fn(&Record<'_>) -> T) -> T {
        use_it(
            &Record::builder()
                .level(Level::Warn)
                .target("sports_bet_platform::actors::streaming::session")
                .key_values(&fields)
                .args(format_args!("{message}"))
                .build(),
        )
    }

    fn text(message: &str, fields: &dyn Source) -> String {
        with_record(message, fields, |record| {
            text_line(record, now(), &record.level())
        })
    }

    fn json(message: &str, fields: &dyn Source) -> String {
        with_record(message, fields, |record| json_line(record, now()))
    }

    #[test]
    fn text_line_format() {
        let none: [(&str, Value<'_>); 0] = [];
        insta::assert_snapshot!(text("the session ended", &none), @r#"2025-11-22T21:00:00.042Z WARN actors::streaming::session: the session ended role=odds"#);
        let fields = [
            ("event", Value::from("MATCH_001")),
            ("reason", Value::from("too slow")),
            ("empty", Value::from("")),
            ("seconds", Value::from(1.5)),
            ("none", Value::null()),
        ];
        insta::assert_snapshot!(text("the session ended", &fields), @r#"2025-11-22T21:00:00.042Z WARN actors::streaming::session: the session ended role=odds event=MATCH_001 reason="too slow" empty="" seconds=1.5 none=None"#);
    }

    #[test]
    fn json_line_format() {
        let fields = [
            ("event", Value::from("MATCH_\"001\"")),
            ("count", Value::from(3_u64)),
            ("delta", Value::from(-3_i64)),
            ("seconds", Value::from(1.5)),
            ("never", Value::from(f64::NAN)),
            ("open", Value::from(true)),
            ("none", Value::null()),
            ("big", Value::from(u128::MAX)),
            ("letter", Value::from('x')),
            ("shown", Value::from_debug(&Some(1))),
            ("level", Value::from("mine")),
            ("_level", Value::from("also mine")),
        ];
        insta::assert_snapshot!(json("line one\nline \"two\"", &fields), @r#"{"ts":"2025-11-22T21:00:00.042Z","level":"warn","target":"sports_bet_platform::actors::streaming::session","message":"line one\nline \"two\"","role":"odds","event":"MATCH_\"001\"","count":3,"delta":-3,"seconds":1.5,"never":"NaN","open":true,"none":null,"big":340282366920938463463374607431768211455,"letter":"x","shown":"Some(1)","_level":"mine","__level":"also mine"}"#);
    }

    #[test]
    fn line_contains_role_of_module() {
        let role = |target| role_of(target).map(Role::name);
        assert_eq!(
            role("sports_bet_platform::supplier::betfair::decoder"),
            Some("ingest")
        );
        assert_eq!(role("sports_bet_platform::simulator"), Some("simulator"));
        assert_eq!(
            role("sports_bet_platform::store::sqlite"),
            Some("processor")
        );
        for other in [
            "sports_bet_platform::cli::serve",
            "sports_bet_platform::storehouse",
            "actix_server",
            "store",
        ] {
            assert_eq!(role(other), None, "{other}");
        }
    }

    #[test]
    fn record_cannot_forge_a_line() {
        let fields = [("from", Value::from("a\nb\u{1b}[31m"))];
        insta::assert_snapshot!(text("one\r\ntwo\u{1b}[2J\u{2028}", &fields), @r#"2025-11-22T21:00:00.042Z WARN actors::streaming::session: one\r\ntwo\u{1b}[2J\u{2028} role=odds from="a\nb\u{1b}[31m""#);
    }

    #[test]
    fn invalid_filter_is_refused() {
        for good in [
            "info",
            "INFO",
            "off",
            "",
            "warn,sports_bet_platform::bus=debug",
            "actix_web",
            "info/word",
            "a=, b",
        ] {
            assert!(check_filter(good).is_ok(), "{good}");
        }
        for bad in [
            "info=loud",
            "a=b=c",
            "info/a/b",
            "no level",
            "a=debug;b=info",
        ] {
            assert!(check_filter(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn json_line_reads_back(message in ".*", name in ".{0,8}", value in ".*", number in any::<i64>()) {
            let name = format!("x{name}");
            let fields = [(name.as_str(), Value::from(value.as_str())), ("ts", Value::from(number))];
            let line = json(&message, &fields);
            prop_assert!(!line.contains('\n'));
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&read["message"], &message);
            prop_assert_eq!(&read[&name], &value);
            prop_assert_eq!(&read["_ts"], &number);
        }

        #[test]
        fn text_is_one_line(message in ".*", value in "\\PC*|[\r\n\t\u{b}]{1,4}") {
            let fields = [("value", Value::from(value.as_str()))];
            prop_assert_eq!(text(&message, &fields).lines().count(), 1);
        }
    }
}
