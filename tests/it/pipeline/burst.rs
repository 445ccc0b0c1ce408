//! Clients that subscribe during a burst of updates.

use std::collections::BTreeMap;

use super::*;

const MARKETS: [(&str, Option<f64>); 3] = [
    ("1x2", None),
    ("total_goals", Some(2.5)),
    ("total_goals", Some(3.5)),
];
const ROUNDS: i64 = 400;
const CLIENTS: usize = 60;

/// A client's state: each market's seq, version and selections.
type Folded = BTreeMap<String, (u64, i64, Value)>;

/// Returns the market's version before and after.
fn fold(folded: &mut Folded, seq: &Value, payload: &Value) -> (i64, i64) {
    let key = format!("{} {}", payload["market"], payload["line"]);
    let version = payload["version"].as_i64().unwrap();
    let before = folded.insert(
        key,
        (
            seq.as_u64().unwrap(),
            version,
            payload["selections"].clone(),
        ),
    );
    (before.map_or(0, |(_, version, _)| version), version)
}

/// Subscribes, and reads until every market has its last version. A change of a market may be
/// missing only if the next one is marked as conflated.
async fn follow(address: std::net::SocketAddr) -> Folded {
    let mut client = OddsClient::connect(address).await;
    client.subscribe("BURST").await;
    let snapshot = client.next().await;
    assert_eq!(snapshot["type"], "snapshot", "{snapshot}");
    let mut last = snapshot["seq"].as_u64().unwrap();
    let mut folded = Folded::new();
    for market in snapshot["markets"].as_array().unwrap() {
        assert!(market["seq"].as_u64().unwrap() <= last, "{snapshot}");
        fold(&mut folded, &market["seq"], &market["payload"]);
    }
    while folded.len() < MARKETS.len() || folded.values().any(|(_, version, _)| *version < ROUNDS) {
        let update = client.next().await;
        assert_eq!(update["type"], "update", "{update}");
        let seq = update["seq"].as_u64().unwrap();
        assert!(seq > last, "{seq} after {last}");
        last = seq;
        let (before, after) = fold(&mut folded, &update["seq"], &update["payload"]);
        let follows = if update["conflated"] == true {
            after > before
        } else {
            after == before + 1
        };
        assert!(
            follows,
            "a gap: version {before} of the market, then {update}"
        );
    }
    folded
}

/// Starts clients one after the other during a burst; each must end with the state that REST shows.
async fn joins_during_a_burst(variables: &[(&str, &str)]) {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], variables).await;
    let link = LiveLink::accept(&supplier).await;
    // The book starts before the burst: a starting book may find the store ahead of it.
    link.send(market_frame("BURST", MARKETS[0].0, MARKETS[0].1, 0, 0));
    until_rest(&platform, "BURST", 0).await;
    let total = ROUNDS as usize * MARKETS.len();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut sent = link.sent.clone();
        let address = platform.odds();
        clients.push(actix_web::rt::spawn(async move {
            // The first client starts before anything is sent, the last when only the end is
            // missing.
            sent.wait_for(|sent| *sent >= number * total / CLIENTS)
                .await
                .unwrap();
            follow(address).await
        }));
    }
    for version in 1..=ROUNDS {
        for (market, line) in MARKETS {
            link.send(market_frame("BURST", market, line, version, version));
            tokio::task::yield_now().await;
        }
    }
    let mut ends = Vec::new();
    for client in clients {
        ends.push(
            within("a client receives everything", client)
                .await
                .unwrap(),
        );
    }
    let mut rest = Folded::new();
    rest_odds(&platform, "BURST").await.iter().for_each(|odds| {
        fold(&mut rest, &odds["seq"], odds);
    });
    assert_eq!(rest.len(), MARKETS.len());
    ends.iter().for_each(|end| assert_eq!(end, &rest));
    platform.stop().await;
}

/// There is no gap between snapshot and updates, however fast updates arrive.
#[actix_web::test]
async fn snapshot_and_updates_leave_no_gap() {
    joins_during_a_burst(&[("WS_SESSION_QUEUE", "100000")]).await;
}

/// A client that receives only the latest state of each market ends with the same state.
#[actix_web::test]
async fn conflated_client_ends_with_same_state() {
    joins_during_a_burst(&[("WS_SESSION_QUEUE", "1"), ("BUS_BATCH_SIZE", "20")]).await;
}
