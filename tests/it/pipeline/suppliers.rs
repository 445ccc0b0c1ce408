//! Suppliers that disconnect, stay silent or fail, and the feeds that reconnect to them.

use std::time::{Duration, Instant};

use sports_bet_platform::config::settings::Role;

use super::*;
use crate::support::{metric, original_frame};

fn disconnects(reason: &str) -> String {
    format!("odds_ingest_disconnects_total{{reason=\"{reason}\"}}")
}

/// Mistake 8: a hot loop when the supplier closed cleanly.
#[actix_web::test]
async fn repeated_clean_closes_back_off() {
    let supplier = FakeSupplier::start().await;
    let variables = [
        ("SUPPLIER_RECONNECT_MIN", "50ms"),
        ("SUPPLIER_RECONNECT_MAX", "400ms"),
        // A request that meets the close frame would be another reason.
        ("SUPPLIER_RECOVERY", "false"),
    ];
    let platform = TestPlatform::fed_by(&[supplier.url()], &variables).await;
    let mut link = supplier.accept().await;
    for least in [50, 100, 200, 400, 400] {
        let closed = Instant::now();
        link.socket.close(None).await.unwrap();
        link.serve_pings().await;
        drop(link);
        link = supplier.accept().await;
        let waited = closed.elapsed();
        assert!(
            waited >= Duration::from_millis(least),
            "reconnected after {waited:?}, expected at least {least} ms"
        );
    }
    platform
        .until_metric(Role::Ingest, &disconnects("closed"), |count| count == 5.0)
        .await;
    platform
        .until_metric(Role::Ingest, "odds_ingest_connects_total", |count| {
            count == 6.0
        })
        .await;
    // The connection works like any other.
    let mut client = platform.subscriber("M").await;
    link.send(original_frame("M", &at(1), 1)).await;
    updates_until(&mut client, 1).await;
    platform.stop().await;
}

/// A supplier that sends a close frame but keeps the connection open is not waited for.
#[actix_web::test]
async fn close_frame_ends_a_standing_connection() {
    let supplier = FakeSupplier::start().await;
    // Neither a ping nor the read timeout ends it: both would take longer than this test waits.
    let variables = [
        ("SUPPLIER_READ_TIMEOUT", "3m"),
        ("SUPPLIER_STALE_AFTER", "2m"),
        ("SUPPLIER_PING_INTERVAL", "1m"),
        ("SUPPLIER_RECOVERY", "false"),
    ];
    let platform = TestPlatform::fed_by(&[supplier.url()], &variables).await;
    let mut standing = supplier.accept().await;
    standing.socket.close(None).await.unwrap();
    let link = LiveLink::accept(&supplier).await;
    platform
        .until_metric(Role::Ingest, &disconnects("closed"), |count| count == 1.0)
        .await;
    // The close frame was answered, and nothing was sent after it.
    assert!(matches!(
        within("an answer", standing.socket.next()).await,
        Some(Ok(Message::Close(_)))
    ));
    let mut client = platform.subscriber("M").await;
    link.send(original_frame("M", &at(1), 1));
    updates_until(&mut client, 1).await;
    platform.stop().await;
}

#[actix_web::test]
async fn reconnects_lose_and_repeat_nothing() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let mut client = platform.subscriber("M").await;
    for round in 0..5 {
        let link = LiveLink::accept(&supplier).await;
        if round == 0 {
            appear(&link, &mut client, "M").await;
        }
        // Like a supplier that sends its state first: the last update of the previous round is
        // repeated.
        for version in round * 10..=round * 10 + 10 {
            link.send(original_frame("M", &at(version), version));
        }
        let seen = updates_until(&mut client, round * 10 + 10).await;
        let first = if round == 0 { 0 } else { round * 10 + 1 };
        assert_eq!(
            versions_of(&seen),
            (first..=round * 10 + 10).collect::<Vec<_>>()
        );
    }
    platform
        .until_metric(Role::Ingest, &disconnects("read"), |count| count >= 4.0)
        .await;
    let folder = platform.stop().await;
    assert_eq!(
        Database::of(&folder).versions("M"),
        (0..=50).collect::<Vec<_>>()
    );
}

/// Mistake 8: without a read deadline a silent supplier looked alive.
#[actix_web::test]
async fn embedded_silent_supplier_is_reconnected() {
    let supplier = FakeSupplier::start().await;
    let variables = [
        ("SUPPLIER_READ_TIMEOUT", "1s"),
        ("SUPPLIER_PING_INTERVAL", "100ms"),
    ];
    let platform = TestPlatform::fed_by(&[supplier.url()], &variables).await;
    // Its socket stays open and unread.
    let accepted = Instant::now();
    let _silent = supplier.accept().await;
    let link = LiveLink::accept(&supplier).await;
    assert!(
        accepted.elapsed() >= Duration::from_millis(900),
        "disconnected after only {:?}",
        accepted.elapsed()
    );
    platform
        .until_metric(Role::Ingest, &disconnects("silent"), |count| count >= 1.0)
        .await;
    let mut client = platform.subscriber("M").await;
    link.send(original_frame("M", &at(1), 1));
    updates_until(&mut client, 1).await;
    platform.stop().await;
}

#[actix_web::test]
async fn unfinished_handshake_is_retried() {
    let supplier = FakeSupplier::start().await;
    let variables = [
        ("SUPPLIER_READ_TIMEOUT", "1s"),
        ("SUPPLIER_PING_INTERVAL", "100ms"),
    ];
    let platform = TestPlatform::fed_by(&[supplier.url()], &variables).await;
    let _mute = supplier.accept_raw().await;
    let _link = LiveLink::accept(&supplier).await;
    platform
        .until_metric(Role::Ingest, &disconnects("connect_timeout"), |count| {
            count == 1.0
        })
        .await;
    platform.stop().await;
}

#[actix_web::test]
async fn quiet_supplier_answering_pings_is_kept() {
    let supplier = FakeSupplier::start().await;
    // A timeout that a busy machine does not exceed by itself.
    let variables = [
        ("SUPPLIER_READ_TIMEOUT", "3s"),
        ("SUPPLIER_PING_INTERVAL", "300ms"),
    ];
    let platform = TestPlatform::fed_by(&[supplier.url()], &variables).await;
    let link = LiveLink::accept(&supplier).await;
    // Twenty pings take twice the read timeout.
    let mut pings = link.pings.clone();
    within("twenty pings", pings.wait_for(|count| *count >= 20))
        .await
        .unwrap();
    assert!(!link.is_over());
    let page = platform.metrics(Role::Ingest).await;
    assert_eq!(metric(&page, "odds_ingest_connects_total"), Some(1.0));
    let mut client = platform.subscriber("M").await;
    link.send(original_frame("M", &at(1), 1));
    updates_until(&mut client, 1).await;
    platform.stop().await;
}

/// Suppliers that refuse connections, send garbage or stay silent do not disturb the one that
/// works.
#[actix_web::test]
async fn broken_suppliers_do_not_disturb_others() {
    const FRAMES: i64 = 300;
    let refusing = FakeSupplier::start().await.url();
    let garbage = FakeSupplier::start().await;
    let silent = FakeSupplier::start().await;
    let good = FakeSupplier::start().await;
    let variables = [
        ("SUPPLIER_READ_TIMEOUT", "4s"),
        ("SUPPLIER_PING_INTERVAL", "100ms"),
        ("WS_SESSION_QUEUE", "1000"),
    ];
    let suppliers = [refusing, garbage.url(), silent.url(), good.url()];
    let platform = TestPlatform::fed_by(&suppliers, &variables).await;
    let garbage = LiveLink::accept(&garbage).await;
    let link = LiveLink::accept(&good).await;
    let _silent = silent.accept().await;
    let mut client = platform.subscriber("M").await;
    appear(&link, &mut client, "M").await;
    for version in 1..=FRAMES {
        (0..5).for_each(|_| garbage.send("}{ garbage"));
        link.send(original_frame("M", &at(version), version));
    }
    let seen = updates_until(&mut client, FRAMES).await;
    assert_eq!(versions_of(&seen), (1..=FRAMES).collect::<Vec<_>>());
    platform
        .until_metric(Role::Ingest, &disconnects("silent"), |count| count >= 1.0)
        .await;
    platform
        .until_metric(Role::Ingest, &disconnects("connect"), |count| count >= 3.0)
        .await;
    let refused = "odds_ingest_refused_total{reason=\"malformed\"}";
    platform
        .until_metric(Role::Ingest, refused, |count| count == 5.0 * FRAMES as f64)
        .await;
    assert!(
        !link.is_over() && !garbage.is_over(),
        "both stayed connected throughout"
    );
    link.send(original_frame("M", &at(FRAMES + 1), FRAMES + 1));
    updates_until(&mut client, FRAMES + 1).await;
    let folder = platform.stop().await;
    let database = Database::of(&folder);
    assert_eq!(database.versions("M").len() as i64, FRAMES + 1);
    assert_eq!(database.dead_letters().len() as i64, 5 * FRAMES);
}
