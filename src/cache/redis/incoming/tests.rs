use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::odds::source_status::SourceState;
use crate::domain::odds::update::testing::update;

fn message(deployment: &str, seq: &str) -> String {
    let payload = update(1, 1, 1).to_json();
    format!(r#"{{"eventId":"MATCH_001","payload":{payload}{seq}{deployment}}}"#)
}

fn channels() -> Channels {
    Channels::new("odds", "db0", true)
}

fn read(channel: &str, message: &str) -> Incoming {
    let now = update(1, 1, 1).revision.updated_at;
    channels().read(
        channel,
        message.as_bytes(),
        Plausibility::within(Duration::from_secs(300)),
        now,
    )
}

#[test]
fn deployments_receive_own_messages() {
    let (ours, theirs, unnamed) = (r#","deployment":"db0""#, r#","deployment":"db1""#, "");
    let stranger = |name: &str| Incoming::Stranger(name.to_owned());
    assert!(matches!(
        read("odds:db0", &message(ours, "")),
        Incoming::Change(_)
    ));
    assert_eq!(
        read("odds", &message(ours, "")),
        Incoming::Copy,
        "never applied twice"
    );
    assert!(channels().is_copy(b"odds", message(ours, "").as_bytes()));
    assert!(!channels().is_copy(b"odds:db0", message(ours, "").as_bytes()));
    assert!(!channels().is_copy(b"odds", message(theirs, "").as_bytes()));
    assert_eq!(read("odds", &message(theirs, "")), stranger("db1"));
    assert_eq!(read("odds:db0", &message(theirs, "")), stranger("db1"));
    // The original sends no deployment name.
    assert!(matches!(
        read("odds", &message(unnamed, "")),
        Incoming::Change(_)
    ));
    assert_eq!(read("odds:db0", &message(unnamed, "")), stranger(""));
    // Formatting of the name does not matter.
    let spaced = message(r#", "deployment" : "db0" "#, "");
    assert_eq!(read("odds", &spaced), Incoming::Copy);
    assert_eq!(
        read("odds", &message(r#","deployment":7"#, "")).kind(),
        "unreadable"
    );
}

#[test]
fn heartbeat_counts_for_own_deployment() {
    let heartbeat = |channels: Channels| channels.heartbeat("p1", &sources()).unwrap();
    let ours = heartbeat(channels());
    let theirs = heartbeat(Channels::new("odds", "db1", true));
    insta::assert_snapshot!(ours, @r#"{"deployment":"db0","processor":"p1","sources":{"a":{"state":"live","at":"2025-11-09T21:07:46Z"},"b":{"state":"stale","at":null}}}"#);
    let view = SourceView {
        processor: "p1".to_owned(),
        sources: sources(),
    };
    let own = Incoming::Alive {
        is_own: true,
        view: Ok(Some(view)),
    };
    assert_eq!(read("odds:db0:alive", &ours), own);
    assert_eq!(read("odds:alive", &ours), Incoming::Copy);
    assert!(!channels().is_copy(b"odds:db0:alive", ours.as_bytes()));
    for channel in ["odds:db0:alive", "odds:alive"] {
        assert_eq!(
            read(channel, &theirs),
            Incoming::Stranger("db1".to_owned()),
            "{channel}"
        );
    }
    assert_eq!(
        read("odds:alive", "1"),
        Incoming::Alive {
            is_own: false,
            view: Ok(None)
        },
        "from an earlier version"
    );
}

#[test]
fn heartbeat_without_sources_has_no_view() {
    let unreadable = |view: &str| {
        let message = format!(r#"{{"deployment":"db0"{view}}}"#);
        match read("odds:db0:alive", &message) {
            Incoming::Alive { is_own: true, view } => view,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(unreadable(""), Ok(None));
    assert_eq!(unreadable(r#","sources":{}"#), Ok(None));
    assert_eq!(unreadable(r#","processor":"p1""#), Ok(None));
    let many: Vec<_> = (0..=MAX_SOURCES)
        .map(|number| format!(r#""s{number}":{{"state":"live","at":null}}"#))
        .collect();
    for sources in [
        r#"{"a":{"state":"unknown","at":null}}"#.to_owned(),
        r#"{"a":["live",null]}"#.to_owned(),
        r#"[]"#.to_owned(),
        format!("{{{}}}", many.join(",")),
    ] {
        let view = unreadable(&format!(r#","processor":"p1","sources":{sources}"#));
        assert!(view.is_err(), "{sources}");
    }
    // It counts as a heartbeat, and what cannot be read is counted.
    let unnamed = r#"{"processor":"p1","sources":{}}"#;
    let alive = Incoming::Alive {
        is_own: false,
        view: Ok(None),
    };
    assert_eq!(read("odds:alive", unnamed), alive);
}

fn sources() -> BTreeMap<Source, SourceStatus> {
    let at = update(1, 1, 1).revision.updated_at;
    let live = (SourceState::Live, Some(at));
    [("a", live), ("b", (SourceState::Stale, None))]
        .map(|(source, (state, at))| (Source::new(source).unwrap(), SourceStatus { state, at }))
        .into()
}

#[test]
fn implausible_messages_are_rejected() {
    let at = |time: &str| message("", "").replace("2025-11-09T21:07:46Z", time);
    for time in [
        "2099-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "2025-11-09T21:12:47Z",
    ] {
        assert_eq!(read("odds", &at(time)).kind(), "future", "{time}");
    }
    assert!(matches!(
        read("odds", &at("2025-11-09T21:12:46Z")),
        Incoming::Change(_)
    ));
    for seq in [u64::MAX, i64::MAX as u64, 9_007_199_254_740_991] {
        assert_eq!(
            read("odds", &message("", &format!(r#","seq":{seq}"#))).kind(),
            "seq",
            "{seq}"
        );
    }
    for seq in ["-1", "1e30", "18446744073709551616"] {
        assert_eq!(
            read("odds", &message("", &format!(r#","seq":{seq}"#))).kind(),
            "unreadable",
            "{seq}"
        );
    }
    let settlement = message(r#","type":"settlement""#, "");
    assert_eq!(read("odds", &settlement).kind(), "unreadable");
    let inside =
        message("", "").replacen(r#""payload":{"#, r#""payload":{"type":"settlement","#, 1);
    assert_eq!(read("odds", &inside).kind(), "unreadable");
}

#[test]
fn only_own_channels_without_original() {
    let apart = Channels::new("odds", "db0", false);
    assert_eq!(apart.all(), ["odds:db0", "odds:db0:alive"]);
    assert_eq!(
        channels().all(),
        ["odds:db0", "odds:db0:alive", "odds", "odds:alive"]
    );
}

impl Incoming {
    fn kind(&self) -> &'static str {
        match self {
            Incoming::Change(_) => "change",
            Incoming::Alive { .. } => "alive",
            Incoming::Copy => "copy",
            Incoming::Unreadable(_) => "unreadable",
            Incoming::Implausible(_, why) => why.reason(),
            Incoming::Stranger(_) => "stranger",
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_messages_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        for channel in channels().all() {
            let _ = channels().read(channel, &bytes, Plausibility::any_time(), Timestamp::now());
        }
    }
}
