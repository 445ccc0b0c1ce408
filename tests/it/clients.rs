//! Clients of `/ws/odds`: the messages they receive, their limits, and the handling of misbehaving
//! ones.

mod floods;
mod frames;
mod handshakes;
mod limits;
mod liveness;
mod many_clients;
mod origin;
mod protocol;
pub mod raw;
mod resume;
mod slow;
mod stalled;
mod unavailable;
mod watch;

use serde_json::{Value, json};
use sports_bet_platform::config::settings::Role;
use sports_bet_platform::domain::timestamp::Timestamp;

use self::raw::RawClient;
use super::support::{FakeSupplier, SupplierLink, TestPlatform, until};

/// The event used by most tests.
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

/// A supplier's frame: a change of a market about `size` bytes long, timestamped now.
pub fn change_of(event: &str, market: &str, version: u64, size: usize) -> String {
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

/// A small change of `EVENT`.
fn change(version: u64) -> String {
    change_of(EVENT, "1x2", version, 1)
}

/// Sends the first change of an event and waits until a client has received it. After that the
/// event's book is running, and later changes are not replaced by what a starting book loads from
/// the database.
async fn first_change(supplier: &mut SupplierLink, event: &str, client: &mut RawClient) {
    supplier.send(change_of(event, "1x2", 1, 1)).await;
    assert_eq!(client.next_text().await.number("version"), 1);
}

/// Waits until the role `odds` reports no sessions and no subscriptions.
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

/// A metric of the role `odds`, summed over all labels.
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

/// Waits for this many deliveries. There may be more: a market is sent again if its source is not
/// heard for a moment.
async fn until_delivered(platform: &TestPlatform, changes: u64) {
    until("all is delivered", || async {
        let delivered = total(platform, "odds_ws_deliveries_total").await;
        (delivered >= changes as f64).then_some(())
    })
    .await;
}

/// Waits until a metric of the role `odds`, summed over all labels, has this value.
async fn until_total(platform: &TestPlatform, name: &str, wanted: f64) {
    until(name, || async {
        (total(platform, name).await == wanted).then_some(())
    })
    .await;
}
