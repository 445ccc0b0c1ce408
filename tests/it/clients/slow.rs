//! Clients that read more slowly than changes arrive.

use std::collections::BTreeMap;

use sports_bet_platform::config::settings::Role;

use super::raw::RawClient;
use super::{EVENT, change_of, first_change, start, total, until_nobody_is_left};
use crate::support::{SupplierLink, TestPlatform};

const MARKETS: [&str; 3] = ["1x2", "btts", "totals"];
/// Large enough that a few changes fill a socket.
const LARGE: usize = 5_000;
/// Enough changes to fill a client's kernel buffers and more than the session's queue.
const CHANGES: u64 = 241;

const NARROW: &[(&str, &str)] = &[("WS_SESSION_QUEUE", "4"), ("SLOW_CLIENT_LIMIT", "60s")];

/// The state that a client has seen.
#[derive(Default)]
struct Seen {
    updates: u64,
    conflated: u64,
    last_seq: u64,
    last: BTreeMap<&'static str, u64>,
}

impl Seen {
    /// Reads one change; its seq must be above the last one's.
    async fn read_one(&mut self, client: &mut RawClient) {
        let update = client.next_text().await;
        let seq = update.number("seq");
        assert!(seq > self.last_seq, "{seq} after {}", self.last_seq);
        self.last_seq = seq;
        self.updates += 1;
        self.conflated += u64::from(update.text().contains(r#""conflated":true"#));
        let market = MARKETS
            .iter()
            .find(|market| update.text().contains(&format!(r#""market":"{market}""#)));
        self.last.insert(market.unwrap(), update.number("version"));
    }

    /// Reads until the last change of each market has arrived, and checks that some changes were
    /// skipped.
    async fn read_to_the_end(&mut self, client: &mut RawClient) {
        while self.last != end_state() {
            self.read_one(client).await;
        }
        assert!(
            self.conflated > 0 && self.updates < CHANGES,
            "{} of {} conflated",
            self.conflated,
            self.updates
        );
    }
}

fn market(version: u64) -> &'static str {
    MARKETS[(version % MARKETS.len() as u64) as usize]
}

/// The final version of each market.
fn end_state() -> BTreeMap<&'static str, u64> {
    (2..=CHANGES)
        .map(|version| (market(version), version))
        .collect()
}

/// Sends a change, and waits until a fast client has received it unconflated.
async fn send(supplier: &mut SupplierLink, version: u64, fast: &mut RawClient) {
    supplier
        .send(change_of(EVENT, market(version), version, LARGE))
        .await;
    let update = fast.next_text().await;
    assert_eq!(update.number("version"), version);
    assert!(!update.text().contains("conflated"));
}

async fn narrow_client(platform: &TestPlatform) -> RawClient {
    let mut client = RawClient::connect_narrow(platform.odds()).await;
    client.subscribe(EVENT).await;
    client
}

/// A client that pauses receives the latest state of each market, and the others receive every
/// change.
#[actix_web::test]
async fn paused_client_gets_conflated_changes() {
    let (platform, mut supplier) = start(NARROW).await;
    let mut pausing = narrow_client(&platform).await;
    let mut fast = RawClient::connect(platform.odds()).await;
    fast.subscribe(EVENT).await;
    first_change(&mut supplier, EVENT, &mut fast).await;
    for version in 2..=CHANGES {
        send(&mut supplier, version, &mut fast).await;
    }
    // The fast client has everything, so only the other one still has pending changes.
    platform
        .until_metric(Role::Odds, "odds_ws_stalled_sessions", |stalled| {
            stalled == 1.0
        })
        .await;
    let mut seen = Seen::default();
    seen.read_to_the_end(&mut pausing).await;
    platform
        .until_metric(Role::Odds, "odds_ws_stalled_sessions", |stalled| {
            stalled == 0.0
        })
        .await;
    // Every change was either delivered or replaced by a later one.
    let delivered = total(&platform, "odds_ws_deliveries_total").await;
    let replaced = total(&platform, "odds_ws_conflations_total").await;
    assert_eq!(delivered, (CHANGES + seen.updates) as f64);
    assert_eq!(replaced, (CHANGES - seen.updates) as f64);
    assert_eq!(total(&platform, "odds_ws_evictions_total").await, 0.0);
    // The client keeps up again from here on, and receives each change unconflated.
    supplier.send(change_of(EVENT, "1x2", CHANGES + 1, 1)).await;
    assert!(!pausing.next_text().await.text().contains("conflated"));
}

/// A client that always reads slowly is not evicted, and ends with the book's final state.
#[actix_web::test]
async fn slow_reader_stays_and_ends_current() {
    let limits = [("WS_SESSION_QUEUE", "4"), ("SLOW_CLIENT_LIMIT", "5s")];
    let (platform, mut supplier) = start(&limits).await;
    let mut slow = narrow_client(&platform).await;
    let mut fast = RawClient::connect(platform.odds()).await;
    fast.subscribe(EVENT).await;
    first_change(&mut supplier, EVENT, &mut fast).await;
    let mut seen = Seen::default();
    for version in 2..=CHANGES {
        send(&mut supplier, version, &mut fast).await;
        // It starts reading when its socket is full: reading earlier would enlarge the kernel's
        // buffers.
        if version > CHANGES / 2 && version % 4 == 0 {
            seen.read_one(&mut slow).await;
        }
    }
    seen.read_to_the_end(&mut slow).await;
    assert_eq!(total(&platform, "odds_ws_evictions_total").await, 0.0);
    drop((slow, fast));
    until_nobody_is_left(&platform).await;
}
