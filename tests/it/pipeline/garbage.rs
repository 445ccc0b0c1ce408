//! Invalid frames: counted by reason, kept with their bytes, without blocking valid ones.

use std::collections::BTreeMap;

use sports_bet_platform::config::settings::Role;
use sports_bet_platform::domain::timestamp::Timestamp;

use super::*;
use crate::support::original_frame;

/// A `1x2` frame with one field changed.
fn changed(field: &str, value: Value) -> String {
    let mut frame: Value = serde_json::from_str(&original_frame("BAD", &at(1), 1)).unwrap();
    frame[field] = value;
    frame.to_string()
}

fn hours_ahead(hours: i64) -> String {
    let micros = Timestamp::now().micros() + hours * 3_600_000_000;
    Timestamp::from_micros(micros).unwrap().to_string()
}

/// Frames, and the reason each is rejected for.
fn bad_frames() -> Vec<(Message, &'static str)> {
    let text = |text: &str, reason| (Message::text(text.to_owned()), reason);
    let selection = |id: &str| json!({"id": id, "name": id, "price": 2.5, "status": "active"});
    let many: Vec<_> = (0..1_001)
        .map(|number| selection(&number.to_string()))
        .collect();
    let odds = |home: Value| changed("odds", json!({"home": home, "draw": 3.2, "away": 4.5}));
    vec![
        text("hello", "malformed"),
        text("", "malformed"),
        text("[1, 2]", "malformed"),
        text(r#"{"event_id":"BAD","market":"1x2"#, "malformed"),
        text(&changed("version", json!("1")), "malformed"),
        text(&changed("event_id", json!("BA\u{0}D")), "malformed"),
        text(&changed("updated_at", json!("yesterday")), "malformed"),
        (Message::binary(&b"\xff\xfe\x00 no text"[..]), "malformed"),
        // Rejected, not clamped to the valid range.
        text(&odds(json!(1.0)), "bad_price"),
        text(&odds(json!(1000.001)), "bad_price"),
        text(&odds(json!(-2.5)), "bad_price"),
        text(&odds(json!("2.5")), "bad_price"),
        text(&changed("home_team", json!("Fla\u{0}mengo")), "bad_name"),
        text(
            &changed(
                "selections",
                json!([{"id": "a", "name": "A\u{0}", "price": 2.5}]),
            ),
            "bad_name",
        ),
        text(&changed("odds", json!({})), "no_selections"),
        text(
            &changed("selections", json!([selection("a"), selection("a")])),
            "duplicate_selection",
        ),
        text(&changed("selections", json!(many)), "too_many_selections"),
        text(&changed("status", json!("halted")), "malformed"),
        text(&changed("type", json!("resettlement")), "unknown_type"),
        text(&changed("type", json!("odds_update")), "unknown_type"),
        text(&changed("type", json!(7)), "unknown_type"),
        text(
            r#"{"type":"heartbeat","at":"2026-12-01T21:52:10Z"}"#,
            "unknown_type",
        ),
        text(
            r#"{"type":"bet_stop","event_id":"BAD","status":"suspended"}"#,
            "malformed",
        ),
        text(r#"{"type":"alive","at":"yesterday"}"#, "malformed"),
        text(&changed("updated_at", json!(hours_ahead(1))), "future"),
        text(
            &changed("updated_at", json!("9999-12-31T23:59:59Z")),
            "future",
        ),
    ]
}

/// An invalid frame is counted and kept, and the next valid one is processed.
#[actix_web::test]
async fn invalid_frames_are_counted_and_kept() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.subscriber("GOOD").await;
    let mut bad = platform.subscriber("BAD").await;
    let frames = bad_frames();
    for (number, (frame, _)) in frames.iter().enumerate() {
        let version = number as i64 + 1;
        link.send_message(frame.clone());
        link.send(original_frame("GOOD", &at(version), version));
        assert_eq!(
            versions_of(&updates_until(&mut client, version).await),
            [version],
            "after {frame:?}"
        );
    }
    assert!(!link.is_over(), "all on one connection");

    let mut wanted = BTreeMap::<&str, f64>::new();
    frames
        .iter()
        .for_each(|(_, reason)| *wanted.entry(*reason).or_default() += 1.0);
    for (reason, count) in wanted {
        let name = format!("odds_ingest_refused_total{{reason=\"{reason}\"}}");
        platform
            .until_metric(Role::Ingest, &name, |value| value == count)
            .await;
    }
    let kept = Database::of(&platform.folder)
        .until_dead_letters(frames.len())
        .await;
    let kept: Vec<_> = kept
        .iter()
        .map(|one| (one.raw.to_vec(), one.reason.clone()))
        .collect();
    let sent: Vec<_> = frames
        .iter()
        .map(|(frame, why)| (frame.clone().into_data().to_vec(), why.to_string()))
        .collect();
    assert_eq!(kept, sent);

    // None of them became odds.
    assert!(rest_odds(&platform, "BAD").await.is_empty());
    link.send(original_frame("BAD", &at(1), 1));
    assert_eq!(updates_until(&mut bad, 1).await.len(), 1);
    let folder = platform.stop().await;
    assert_eq!(
        Database::of(&folder).dead_letters()[0].origin,
        supplier.url()
    );
    assert_eq!(Database::of(&folder).versions("BAD"), [1]);
}

#[actix_web::test]
async fn oversized_frame_only_ends_its_connection() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[("SUPPLIER_MAX_FRAME", "2KiB")]).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.subscriber("M").await;
    link.send(original_frame("M", &at(1), 1));
    link.send("x".repeat(3_000));
    updates_until(&mut client, 1).await;
    link.until_over().await;
    let link = LiveLink::accept(&supplier).await;
    link.send(original_frame("M", &at(2), 2));
    updates_until(&mut client, 2).await;
    let name = "odds_ingest_disconnects_total{reason=\"frame_too_large\"}";
    platform
        .until_metric(Role::Ingest, name, |count| count == 1.0)
        .await;
    platform.stop().await;
}

#[actix_web::test]
async fn far_future_update_blocks_no_later_ones() {
    let supplier = FakeSupplier::start().await;
    let platform =
        TestPlatform::fed_by(&[supplier.url()], &[("SUPPLIER_MAX_CLOCK_SKEW", "1m")]).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.subscriber("M").await;
    link.send(original_frame("M", &hours_ahead(24), 1));
    link.send(original_frame("M", &Timestamp::now().to_string(), 2));
    assert_eq!(versions_of(&updates_until(&mut client, 2).await), [2]);
    Database::of(&platform.folder)
        .until_versions("M", &[2])
        .await;
    platform.stop().await;
}

/// Mistake 6: the original's health check published a message to the topic of odds. Such a message
/// is not taken for odds, and our health check publishes nothing.
#[actix_web::test]
async fn health_checks_publish_no_odds() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    platform
        .until_metric(Role::Ingest, "odds_ingest_suppliers_connected", |count| {
            count == 1.0
        })
        .await;
    for role in [Role::Ingest, Role::Processor, Role::Odds] {
        let (status, body) =
            crate::support::get_text(&format!("http://{}/healthz", platform.health(role))).await;
        assert_eq!((status, body.trim()), (200, "ok"));
    }
    link.send(r#"{"type":"health_check","status":"ok"}"#);
    link.send(r#"{"eventId":"health-check","payload":{}}"#);
    link.send(original_frame("M", &at(1), 1));
    until_rest(&platform, "M", 1).await;
    let (_, events) = until("the event", async || {
        let answer = get_json(&platform.url("/v1/events")).await;
        (!answer.1.as_array().unwrap().is_empty()).then_some(answer)
    })
    .await;
    assert_eq!(events.as_array().unwrap().len(), 1, "{events}");
    Database::of(&platform.folder).until_dead_letters(2).await;
    platform
        .until_metric(
            Role::Ingest,
            "odds_ingest_updates_published_total",
            |count| count == 1.0,
        )
        .await;
    platform.stop().await;
}
