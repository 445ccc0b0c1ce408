//! Clients that read more slowly than changes come.

use std::collections::BTreeMap;

use sports_bet_platform::config::settings::Role;

use super::raw::RawClient;
use super::{EVENT, change_of, first_change, start, total, until_nobody_is_left};
use crate::support::{SupplierLink, TestPlatform};

const MARKETS: [&str; 3] = ["1x2", "btts", "totals"];
/// So large that a socket is full after some.
const LARGE: usize = 5_000;
/// Enough of them to fill what the kernel takes ahead of a client, and more than the session's
/// queue.
const CHANGES: u64 = 241;

const NARROW: &[(&str, &str)] = &[("WS_SESSION_QUEUE", "4"), ("SLOW_CLIENT_LIMIT", "60s")];

/// What a client has seen.
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

    /// Reads until the last change of each market is there, and checks that it was not given every
    /// one.
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

/// The version that each market has in the end.
fn end_state() -> BTreeMap<&'static str, u64> {
    (2..=CHANGES)
        .map(|version| (market(version), version))
        .collect()
}

/// Sends a change, and waits until a client that keeps up has it, unconflated.
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

#[actix_web::test]
async fn a_client_that_pauses_gets_the_latest_of_each_market_and_the_others_get_every_change() {
    let (platform, mut supplier) = start(NARROW).await;
    let mut pausing = narrow_client(&platform).await;
    let mut fast = RawClient::connect(platform.odds()).await;
    fast.subscribe(EVENT).await;
    first_change(&mut supplier, EVENT, &mut fast).await;
    for version in 2..=CHANGES {
        send(&mut supplier, version, &mut fast).await;
    }
    // The fast one has everything, so the rest waits for the other.
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
    let (delivered, replaced) = (
        total(&platform, "odds_ws_deliveries_total").await,
        total(&platform, "odds_ws_conflations_total").await,
    );
    assert_eq!(delivered, (CHANGES + seen.updates) as f64);
    assert_eq!(replaced, (CHANGES - seen.updates) as f64);
    assert_eq!(total(&platform, "odds_ws_evictions_total").await, 0.0);
    // From here on it keeps up again, and gets each change unconflated.
    supplier.send(change_of(EVENT, "1x2", CHANGES + 1, 1)).await;
    assert!(!pausing.next_text().await.text().contains("conflated"));
}

#[actix_web::test]
async fn a_client_that_reads_slowly_all_the_time_is_not_ended_and_ends_where_the_book_ends() {
    let limits = [("WS_SESSION_QUEUE", "4"), ("SLOW_CLIENT_LIMIT", "5s")];
    let (platform, mut supplier) = start(&limits).await;
    let mut slow = narrow_client(&platform).await;
    let mut fast = RawClient::connect(platform.odds()).await;
    fast.subscribe(EVENT).await;
    first_change(&mut supplier, EVENT, &mut fast).await;
    let mut seen = Seen::default();
    for version in 2..=CHANGES {
        send(&mut supplier, version, &mut fast).await;
        // It begins when its socket is full: reading makes the kernel take more ahead of it.
        if version > CHANGES / 2 && version % 4 == 0 {
            seen.read_one(&mut slow).await;
        }
    }
    seen.read_to_the_end(&mut slow).await;
    assert_eq!(total(&platform, "odds_ws_evictions_total").await, 0.0);
    drop((slow, fast));
    until_nobody_is_left(&platform).await;
}
