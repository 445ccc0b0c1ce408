use proptest::prelude::*;

use super::*;
use crate::domain::ids::Source;
use crate::domain::odds::book::Book;
use crate::domain::odds::restrictions::Restrictions;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::testing::*;
use crate::domain::streaming::protocol::{
    FeedStatus, Form, Refusal, ResumePoint, SnapshotExtension, SnapshotView, UpdateFrame,
    error_message, feed_message, pong_message, snapshot_message, source_message,
    unsubscribed_message,
};

fn event() -> EventId {
    EventId::new("MATCH_001").unwrap()
}

fn view() -> View {
    View::new(&[event()])
}

/// The changes that a message causes: version, whether an earlier state was printed, and
/// whether it is conflated.
fn changes_of(view: &mut View, text: &str) -> Vec<(i64, bool, bool)> {
    let view_events = view.take(text).unwrap();
    let change = |one: ViewEvent| match one {
        ViewEvent::Change(change) => (
            change.update.revision.version,
            change.before.is_some(),
            change.conflated,
        ),
        other => panic!("{other:?}"),
    };
    view_events.into_iter().map(change).collect()
}

#[test]
fn snapshot_then_only_newer_updates() {
    let mut view = view();
    let mut book = Book::new(event());
    let nothing = vec![ViewEvent::NothingKnown(event())];
    assert_eq!(
        view.take(&snapshot_message(
            &book.snapshot(),
            &SnapshotView::default()
        ))
        .unwrap(),
        nothing
    );
    let first = UpdateFrame::new(&book.apply(update(1, 1, 1), 10).unwrap());
    let second = UpdateFrame::new(&book.apply(update(1, 1, 2), 11).unwrap());
    assert_eq!(
        changes_of(
            &mut view,
            &snapshot_message(&book.snapshot(), &SnapshotView::default())
        ),
        [(2, false, false)]
    );
    assert_eq!(changes_of(&mut view, first.text(Form::Plain)), []);
    assert_eq!(changes_of(&mut view, second.text(Form::Plain)), []);
    let third = UpdateFrame::new(&book.apply(update(1, 1, 3), 12).unwrap());
    assert_eq!(
        changes_of(&mut view, third.text(Form::Conflated)),
        [(3, true, true)]
    );
    assert_eq!(changes_of(&mut view, third.text(Form::Plain)), []);
}

#[test]
fn reconnect_prints_only_new_changes() {
    let mut view = view();
    let mut book = Book::new(event());
    book.apply(market_update("MATCH_001", "1x2", None, 1, 1), 100)
        .unwrap();
    book.apply(market_update("MATCH_001", "btts", None, 1, 2), 101)
        .unwrap();
    assert_eq!(
        changes_of(
            &mut view,
            &snapshot_message(&book.snapshot(), &SnapshotView::default())
        )
        .len(),
        2
    );
    // The server restarts with new sequence numbers.
    let mut again = Book::new(event());
    again
        .apply(market_update("MATCH_001", "1x2", None, 1, 1), 0)
        .unwrap();
    again
        .apply(market_update("MATCH_001", "btts", None, 2, 7), 1)
        .unwrap();
    assert_eq!(
        changes_of(
            &mut view,
            &snapshot_message(&again.snapshot(), &SnapshotView::default())
        ),
        [(7, true, false)]
    );
    let next = UpdateFrame::new(&again.apply(update(1, 3, 9), 2).unwrap());
    assert_eq!(
        changes_of(&mut view, next.text(Form::Plain)),
        [(9, true, false)]
    );
}

/// A snapshot of a server with an epoch, for a client that has everything up to `since`.
fn extended(book: &Book, since: Option<u64>) -> String {
    let epoch = || "3f9c".to_owned();
    let resume = since.map(|since| ResumePoint {
        since,
        epoch: Some(epoch()),
    });
    let extension = SnapshotExtension {
        epoch: Some("3f9c"),
        resume,
        conflate_ms: 0,
        heartbeat_ms: Some(5_000),
    };
    let view = SnapshotView {
        extension: Some(extension),
        ..SnapshotView::default()
    };
    snapshot_message(&book.snapshot(), &view).to_string()
}

#[test]
fn reconnect_resumes_from_last_change() {
    let mut view = view();
    let mut book = Book::new(event());
    book.apply(update(1, 1, 1), 10).unwrap();
    let limit = Duration::from_secs(60);
    assert_eq!(
        (view.token(&event()), view.silence_limit(limit)),
        (None, limit)
    );
    assert_eq!(changes_of(&mut view, &extended(&book, None)).len(), 1);
    assert_eq!(view.silence_limit(limit), Duration::from_secs(15));
    let frame = UpdateFrame::new(&book.apply(update(1, 1, 2), 11).unwrap());
    changes_of(&mut view, frame.text(Form::Extended));
    assert_eq!(view.token(&event()).unwrap().since, 12);
    book.apply(market_update("MATCH_001", "btts", None, 1, 7), 12)
        .unwrap();
    let resumed = view.take(&extended(&book, Some(12))).unwrap();
    assert_eq!(resumed[0], ViewEvent::Resumed(event(), 1));
    assert_eq!(resumed.len(), 2);
    let replaced = view.take(&extended(&book, Some(99))).unwrap();
    assert_eq!(replaced, [ViewEvent::Replaced(event())]);
}

#[test]
fn lost_source_is_shown_once() {
    let mut view = view();
    let mut book = Book::new(event());
    let state = book.apply(update(1, 1, 1), 10).unwrap();
    changes_of(&mut view, &extended(&book, None));
    let source = Source::new("a").unwrap();
    let message = source_message(FeedStatus::Stale, &source, &event());
    let lost = ViewEvent::SourceStale("a".to_owned(), true);
    assert_eq!(view.take(&message).unwrap(), [lost]);
    assert_eq!(view.take(&message).unwrap(), []);
    let restrictions = Restrictions {
        unreported_from: u64::MAX,
        ..Restrictions::default()
    };
    let restated = UpdateFrame::restricted(&state, &restrictions, false, Some(11));
    let shown = view.take(restated.text(Form::Extended)).unwrap();
    let [ViewEvent::Change(change)] = &shown[..] else {
        panic!("{shown:?}");
    };
    assert!(change.stale && change.update.status == MarketStatus::Suspended);
    assert_eq!(view.token(&event()), None, "restrictions have no number");
}

#[test]
fn stale_and_live_feed_are_reported() {
    let mut view = view();
    for (status, view_events) in [
        (FeedStatus::Stale, ViewEvent::Stale(true)),
        (FeedStatus::Live, ViewEvent::Stale(false)),
    ] {
        assert_eq!(view.take(&feed_message(status)).unwrap(), [view_events]);
    }
    assert_eq!(
        view.take(r#"{"type":"feed","status":"of a later server"}"#)
            .unwrap(),
        []
    );
}

#[test]
fn original_update_format_is_accepted() {
    let mut view = view();
    for version in [1, 2] {
        let text = format!(
            r#"{{"eventId":"MATCH_001","payload":{}}}"#,
            update(1, 1, version).to_json()
        );
        assert_eq!(
            changes_of(&mut view, &text),
            [(version, version == 2, false)]
        );
    }
}

#[test]
fn unrequested_events_are_ignored() {
    let mut view = View::new(&[EventId::new("MATCH_002").unwrap()]);
    let mut book = Book::new(event());
    let frame = UpdateFrame::new(&book.apply(update(1, 1, 1), 0).unwrap());
    assert_eq!(changes_of(&mut view, frame.text(Form::Plain)), []);
    assert_eq!(
        changes_of(
            &mut view,
            &snapshot_message(&book.snapshot(), &SnapshotView::default())
        ),
        []
    );
}

#[test]
fn errors_are_reported_others_ignored() {
    let mut view = view();
    let refusal = Refusal::SnapshotUnavailable(event());
    let view_events = view.take(&error_message(&refusal)).unwrap();
    assert_eq!(
        view_events,
        [ViewEvent::Refused {
            code: "SNAPSHOT_UNAVAILABLE".to_owned(),
            message: refusal.to_string(),
            event_id: Some(event())
        }]
    );
    assert_eq!(view.take(&pong_message()).unwrap(), []);
    assert_eq!(view.take(&unsubscribed_message(&event())).unwrap(), []);
    assert_eq!(view.take(r#"{"type":"of_tomorrow","seq":1}"#).unwrap(), []);
    assert_eq!(
        view.take("{}").unwrap_err().to_string(),
        "unreadable message from the server: an update without payload"
    );
    assert!(view.take(r#"{"type":"snapshot","markets":[]}"#).is_err());
}

proptest! {
    #[test]
    fn random_text_never_panics(text in ".{0,80}") {
        let _ = view().take(&text);
    }
}
