//! Several sources on one connection.

use super::*;
use crate::domain::ids::Source;
use crate::supplier::{FrameSource, MarketRevision};

fn of(source: &str, update: OddsUpdate) -> OddsUpdate {
    OddsUpdate {
        source: Source::new(source).unwrap(),
        ..update
    }
}

/// The source and status of each update.
fn states(updates: &[OddsUpdate]) -> Vec<(&str, MarketStatus)> {
    let mut states: Vec<_> = updates
        .iter()
        .map(|update| (update.source.as_str(), update.status))
        .collect();
    states.sort();
    states
}

fn both() -> NativeDecoder {
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    read(&mut decoder, &of("x", market("a", 20)));
    read(&mut decoder, &of("y", market("a", 10)));
    decoder
}

#[test]
fn sources_of_one_market_are_kept_apart() {
    let mut decoder = both();
    let next = decoder
        .on_frame(of("y", market("a", 11)).to_json().as_bytes())
        .unwrap();
    assert_eq!(
        (next.late, next.heard),
        (0, Some(FrameSource::Message(Source::new("y").unwrap())))
    );
    assert_eq!(
        states(&decoder.on_stale()),
        [("x", SUSPENDED), ("y", SUSPENDED)]
    );
    assert_eq!(states(&decoder.on_resumed()), [("x", OPEN), ("y", OPEN)]);
    let stop = |source: &str| {
        let at = serde_json::to_string(&update(1, 30, 1).revision.updated_at).unwrap();
        format!(r#"{{"type":"bet_stop","event_id":"MATCH_001","updated_at":{at}{source}}}"#)
    };
    let stopped = message(&mut decoder, &stop(r#","source":"x""#)).updates;
    assert_eq!(states(&stopped), [("x", SUSPENDED)]);
    let stopped = message(&mut both(), &stop("")).updates;
    assert_eq!(states(&stopped), [("x", SUSPENDED), ("y", SUSPENDED)]);
}

#[test]
fn refused_update_suspends_market_of_its_source() {
    let unreadable = json(
        &of("x", market("a", 30)),
        r#""status":"open""#,
        r#""status":"halted""#,
    );
    let refused = both().on_frame(unreadable.as_bytes()).unwrap();
    assert_eq!(states(&refused.updates), [("x", SUSPENDED)]);
    let nameless = unreadable.replace(r#""source":"x""#, r#""source":7"#);
    let refused = both().on_frame(nameless.as_bytes()).unwrap();
    assert_eq!(
        states(&refused.updates),
        [("x", SUSPENDED), ("y", SUSPENDED)]
    );
}

#[test]
fn update_is_identified_with_its_source() {
    let one = market("a", 1);
    assert_ne!(
        MarketRevision::of(&of("x", one.clone())),
        MarketRevision::of(&of("y", one))
    );
}

/// The connection is live, so only the markets of the silent source are suspended, and only its own
/// messages open them.
#[test]
fn silent_source_of_live_connection_is_suspended() {
    let mut decoder = both();
    let (x, y) = (Source::new("x").unwrap(), Source::new("y").unwrap());
    decoder.record_source_silence(&x);
    assert_eq!(
        states(&decoder.suspend_unconfirmed(&|_| false)),
        [("x", SUSPENDED)]
    );
    assert!(
        decoder.on_resumed().is_empty(),
        "the connection is not the source"
    );
    assert!(decoder.on_source_resumed(&y).is_empty());
    assert_eq!(states(&decoder.on_source_resumed(&x)), [("x", OPEN)]);
}

/// A recovery makes up for what was missed, but not for the silence of a source.
#[test]
fn recovery_does_not_open_silent_source() {
    let mut decoder = NativeDecoder::new(true, false);
    decoder.on_connected();
    read(&mut decoder, &of("x", market("a", 20)));
    read(&mut decoder, &of("y", market("a", 10)));
    let x = Source::new("x").unwrap();
    decoder.record_source_silence(&x);
    decoder.on_stale();
    decoder.on_connected();
    let recovered = message(&mut decoder, r#"{"type":"recovered","request":"r2"}"#);
    assert_eq!(states(&recovered.updates), [("y", OPEN)]);
    assert!(decoder.suspend_unconfirmed(&|_| false).is_empty());
    assert_eq!(states(&decoder.on_source_resumed(&x)), [("x", OPEN)]);
}
