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
        text_line(record, now(), &record.level(), Some("odds"))
    })
}

fn json(message: &str, fields: &dyn Source) -> String {
    with_record(message, fields, |record| {
        json_line(record, now(), "odds").unwrap()
    })
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
fn lines_of_traced_work_name_the_trace() {
    let none: [(&str, Value<'_>); 0] = [];
    let span = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse();
    trace::within(span.ok(), || {
        insta::assert_snapshot!(text("bet decided", &none), @"2025-11-22T21:00:00.042Z WARN actors::streaming::session: bet decided role=odds trace_id=4bf92f3577b34da6a3ce929d0e0e4736");
        insta::assert_snapshot!(json("bet decided", &none), @r#"{"ts":"2025-11-22T21:00:00.042Z","level":"warn","target":"sports_bet_platform::actors::streaming::session","message":"bet decided","role":"odds","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}"#);
    });
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
fn text_of_startup_can_be_copied() {
    let none: [(&str, Value<'_>); 0] = [];
    let line = with_record("try:  sports-bet watch E", &none, |record| {
        text_line(record, now(), &record.level(), None)
    });
    assert!(line.ends_with("try:  sports-bet watch E"), "{line}");
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
