//! Two suppliers of one market, with an order of priority.

use super::*;
use crate::support::original_frame;

/// A frame of the event `M`.
fn frame(source: &str, version: i64) -> String {
    original_frame("M", &at(version), version).replace("test-supplier", source)
}

/// Waits until REST shows this version, and returns its source and status.
async fn shown(platform: &TestPlatform, version: i64) -> (String, String) {
    let odds = until_rest(platform, "M", version).await;
    let text = |field: &str| odds[field].as_str().unwrap().to_owned();
    (text("source"), text("status"))
}

async fn until_shown(platform: &TestPlatform, version: i64, source: &str, status: &str) {
    until(&format!("{source} {status}"), async || {
        let shown = shown(platform, version).await;
        (shown == (source.to_owned(), status.to_owned())).then_some(())
    })
    .await;
}

/// The updates of the second source are kept and not published: a suspension by the first one is
/// what clients see.
#[actix_web::test]
async fn only_first_source_is_published() {
    let (first, second) = (FakeSupplier::start().await, FakeSupplier::start().await);
    let variables = [("SUPPLIER_PRIORITY", "a,b")];
    let platform = TestPlatform::fed_by(&[first.url(), second.url()], &variables).await;
    let (a, b) = (
        LiveLink::accept(&first).await,
        LiveLink::accept(&second).await,
    );
    a.send(frame("a", 1));
    until_shown(&platform, 1, "a", "open").await;
    b.send(frame("b", 2));
    b.send("garbage");
    let refused = "odds_ingest_refused_total{reason=\"malformed\"}";
    let role = sports_bet_platform::config::settings::Role::Ingest;
    platform
        .until_metric(role, refused, |count| count == 1.0)
        .await;
    let suspended = frame("a", 3).replacen('{', r#"{"status":"suspended","#, 1);
    a.send(suspended);
    until_shown(&platform, 3, "a", "suspended").await;
    let folder = platform.stop().await;
    let database = Database::of(&folder);
    assert_eq!(database.versions("M"), [1, 3]);
    assert_eq!(database.dead_letters().len(), 1);
}

#[actix_web::test]
async fn silent_source_is_replaced_until_it_is_back() {
    let (first, second) = (FakeSupplier::start().await, FakeSupplier::start().await);
    let variables = [
        ("SUPPLIER_PRIORITY", "a,b"),
        ("SUPPLIER_STALE_AFTER", "1s"),
        ("SUPPLIER_PING_INTERVAL", "50ms"),
        ("FAILBACK_AFTER", "1s"),
    ];
    let platform = TestPlatform::fed_by(&[first.url(), second.url()], &variables).await;
    let mut silent = first.accept().await;
    let b = LiveLink::accept(&second).await;
    silent.send(frame("a", 1)).await;
    silent
        .live_until(until_shown(&platform, 1, "a", "open"))
        .await;
    // From here on nobody answers the pings to the first one.
    b.send(frame("b", 2));
    until_shown(&platform, 2, "b", "open").await;
    let a = LiveLink::over(silent);
    a.send(frame("a", 3));
    until_shown(&platform, 3, "a", "open").await;
    b.send(frame("b", 4));
    a.send(frame("a", 5));
    until_shown(&platform, 5, "a", "open").await;
    platform.stop().await;
}
