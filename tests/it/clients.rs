//! Clients of `/ws/odds`: what they are told, what they may do, and what becomes of those that
//! misbehave.

mod crowd;
mod floods;
mod frames;
mod handshakes;
mod limits;
mod liveness;
mod origin;
mod protocol;
mod raw;
mod slow;
mod stalled;
mod unavailable;

use serde_json::{Value, json};
use sports_bet_platform::config::settings::Role;
use sports_bet_platform::domain::timestamp::Timestamp;

use self::raw::RawClient;
use super::support::{FakeSupplier, SupplierLink, TestPlatform, until};

/// The event of most tests.
const EVENT: &str = "MATCH_001";

/// A platform, and the supplier's side of its only feed.
async fn start(variables: &[(&str, &str)]) -> (TestPlatform, SupplierLink) {
    let supplier = FakeSupplier::start().await;
    // The fake supplier answers no pings while a test is busy with its clients.
    let mut all = vec![("SUPPLIER_READ_TIMEOUT", "10m")];
    all.extend_from_slice(variables);
    let platform = TestPlatform::fed_by(&[supplier.url()], &all).await;
    let link = supplier.accept().await;
    (platform, link)
}

/// A supplier's frame: a change of a market, about `size` bytes long, of this moment.
fn change_of(event: &str, market: &str, version: u64, size: usize) -> String {
    let name = "n".repeat(size.clamp(1, 250));
    let selections: Vec<Value> = (0..size.div_ceil(290).max(1))
        .map(|id| json!({"id": format!("s{id}"), "name": name, "price": 2.5, "status": "active"}))
        .collect();
    json!({
        "event_id": event, "home_team": "Flamengo", "away_team": "Palmeiras", "market": market,
        "selections": selections, "updated_at": Timestamp::now().to_string(), "source": "test", "version": version,
    })
    .to_string()
}

/// A small change of the event of most tests.
fn change(version: u64) -> String {
    change_of(EVENT, "1x2", version, 1)
}

/// Sends a first change of an event and waits until a client has it. From then on the event's book
/// runs, and nobody is told of changes by what the book has read from the database.
async fn first_change(supplier: &mut SupplierLink, event: &str, client: &mut RawClient) {
    supplier.send(change_of(event, "1x2", 1, 1)).await;
    assert_eq!(client.next_text().await.number("version"), 1);
}

/// Waits until the role `odds` counts no session and no subscription.
async fn until_nobody_is_left(platform: &TestPlatform) {
    platform
        .until_metric(Role::Odds, "odds_ws_sessions", |sessions| sessions == 0.0)
        .await;
    platform
        .until_metric(Role::Odds, "odds_ws_subscriptions", |subscriptions| {
            subscriptions == 0.0
        })
        .await;
}

/// What a metric of the role `odds` counts, all its labels together.
async fn total(platform: &TestPlatform, name: &str) -> f64 {
    let page = platform.metrics(Role::Odds).await;
    let of_metric = |line: &&str| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    let values = page
        .lines()
        .filter(of_metric)
        .filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

/// Waits until a metric of the role `odds`, all its labels together, is what is wanted.
async fn until_total(platform: &TestPlatform, name: &str, wanted: f64) {
    until(name, || async {
        (total(platform, name).await == wanted).then_some(())
    })
    .await;
}
