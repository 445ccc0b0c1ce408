//! One update from the supplier's frame to the client's.

use serde::Deserialize;

use super::*;
use crate::support::original_frame;

/// A frame of the original reaches the subscriber, REST and the history.
#[actix_web::test]
async fn original_frame_reaches_every_reader() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.subscriber("MATCH_001").await;
    link.send(original_frame("MATCH_001", &at(0), 978));

    let update = client.next().await;
    assert_eq!(
        (&update["type"], &update["eventId"]),
        (&json!("update"), &json!("MATCH_001"))
    );
    assert!(update["seq"].as_u64().unwrap() > 0);
    let payload = &update["payload"];
    assert_eq!(
        payload["odds"],
        json!({"home": 2.478, "draw": 3.2, "away": 4.5})
    );
    assert_eq!(
        (&payload["version"], &payload["updated_at"]),
        (&json!(978), &json!(at(0)))
    );
    assert_eq!(payload["selections"][0]["name"], "Flamengo");

    let odds = rest_odds(&platform, "MATCH_001").await;
    assert_eq!(odds.len(), 1);
    assert_eq!(
        (&odds[0]["homeOdd"], &odds[0]["drawOdd"]),
        (&json!(2.478), &json!(3.2))
    );
    assert_eq!(
        (&odds[0]["seq"], &odds[0]["version"]),
        (&update["seq"], &json!(978))
    );

    Database::of(&platform.folder)
        .until_versions("MATCH_001", &[978])
        .await;
    let (status, history) =
        get_json(&platform.url("/v1/events/MATCH_001/markets/1x2/history")).await;
    assert_eq!(
        (status, history["entries"].as_array().unwrap().len()),
        (200, 1)
    );
    assert_eq!(history["entries"][0]["homeOdd"], 2.478);
    let (_, events) = get_json(&platform.url("/v1/events")).await;
    let event = json!({"eventId": "MATCH_001", "homeTeam": "Flamengo", "awayTeam": "Palmeiras", "status": "upcoming",
        "inPlay": false, "openMarkets": 1});
    assert_eq!(events, json!([event]));
    platform.stop().await;
}

/// The fields that the original's client reads of a message, and nothing else.
#[derive(Debug, Deserialize)]
struct OriginalMessage {
    #[serde(rename = "eventId")]
    event_id: String,
    payload: OriginalUpdate,
}

#[derive(Debug, Deserialize)]
struct OriginalUpdate {
    event_id: String,
    home_team: String,
    away_team: String,
    market: String,
    odds: OriginalOdds,
    updated_at: String,
    source: String,
    version: i64,
}

#[derive(Debug, Deserialize)]
struct OriginalOdds {
    home: f64,
    draw: f64,
    away: f64,
}

async fn next_as_the_original_reads(client: &mut OddsClient) -> OriginalMessage {
    loop {
        let message = client.next().await;
        if message.get("eventId").is_some() && message.get("payload").is_some() {
            return serde_json::from_value(message).unwrap();
        }
    }
}

#[actix_web::test]
async fn original_client_works_unchanged() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    // Subscribed before there is anything: the first message it understands is the first update.
    let mut early = platform.subscriber("MATCH_002").await;
    link.send(original_frame("MATCH_002", &at(1), 7));
    until("the market", async || {
        (rest_odds(&platform, "MATCH_002").await.len() == 1).then_some(())
    })
    .await;
    // A market that the original cannot read must not replace the one that it can.
    link.send(market_frame("MATCH_002", "btts", None, 2, 1));
    until("both markets", async || {
        (rest_odds(&platform, "MATCH_002").await.len() == 2).then_some(())
    })
    .await;

    let mut late = platform.client().await;
    late.send(r#"{"type":"subscribe","eventId":"MATCH_002"}"#)
        .await;
    for (client, what) in [(&mut early, "an update"), (&mut late, "a snapshot")] {
        let OriginalMessage { event_id, payload } = next_as_the_original_reads(client).await;
        assert_eq!(
            (event_id.as_str(), payload.event_id.as_str()),
            ("MATCH_002", "MATCH_002"),
            "{what}"
        );
        assert_eq!(
            (payload.home_team.as_str(), payload.away_team.as_str()),
            ("Flamengo", "Palmeiras"),
            "{what}"
        );
        assert_eq!(
            (payload.market.as_str(), payload.source.as_str()),
            ("1x2", "test-supplier"),
            "{what}"
        );
        assert_eq!((payload.version, payload.updated_at), (7, at(1)), "{what}");
        assert_eq!(
            (payload.odds.home, payload.odds.draw, payload.odds.away),
            (1.507, 3.2, 4.5),
            "{what}"
        );
    }
    link.send(original_frame("MATCH_002", &at(3), 8));
    assert_eq!(
        next_as_the_original_reads(&mut late).await.payload.version,
        8
    );
    platform.stop().await;
}

#[actix_web::test]
async fn late_subscriber_gets_current_state() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    link.send(original_frame("M", &at(1), 1));
    link.send(market_frame("M", "total_goals", Some(2.5), 1, 1));
    link.send(original_frame("M", &at(2), 2));
    until_rest(&platform, "M", 2).await;

    let mut client = platform.client().await;
    client.subscribe("M").await;
    let snapshot = client.next().await;
    assert_eq!(
        (&snapshot["type"], &snapshot["eventId"]),
        (&json!("snapshot"), &json!("M"))
    );
    let markets = snapshot["markets"].as_array().unwrap();
    let versions: Vec<_> = markets
        .iter()
        .map(|one| (&one["payload"]["market"], &one["payload"]["version"]))
        .collect();
    assert_eq!(
        versions,
        [
            (&json!("1x2"), &json!(2)),
            (&json!("total_goals"), &json!(1))
        ]
    );
    assert_eq!(snapshot["payload"], markets[0]["payload"]);
    assert_eq!(snapshot["seq"], markets[0]["seq"]);
    platform.stop().await;
}

/// An unknown event has an empty snapshot, and its subscriber receives updates once it appears.
#[actix_web::test]
async fn unknown_event_starts_with_empty_snapshot() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.client().await;
    client.subscribe("NEW").await;
    let snapshot = client.next().await;
    assert_eq!(
        snapshot,
        json!({"type": "snapshot", "eventId": "NEW", "seq": 0, "markets": []})
    );
    let (status, body) = get_json(&platform.url("/v1/events/NEW/odds")).await;
    assert_eq!((status, body["code"].is_string()), (404, true), "{body}");
    link.send(original_frame("OTHER", &at(1), 1));
    link.send(original_frame("NEW", &at(1), 1));
    let update = client.next().await;
    assert_eq!(
        (&update["type"], &update["eventId"]),
        (&json!("update"), &json!("NEW"))
    );
    // The response from before the event was known was not cached.
    assert_eq!(rest_odds(&platform, "NEW").await.len(), 1);
    platform.stop().await;
}

/// An update has one sequence number in REST, snapshots and updates.
#[actix_web::test]
async fn seq_is_the_same_everywhere() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.subscriber("M").await;
    for version in 1..=5 {
        link.send(original_frame("M", &at(version), version));
        let update = client.next_of("update").await;
        let seq = &update["seq"];
        let payload = &update["payload"];
        let odds = rest_odds(&platform, "M").await;
        assert_eq!(
            (&odds[0]["seq"], &odds[0]["version"]),
            (seq, &json!(version))
        );
        let (_, markets) = get_json(&platform.url("/v1/events/M/markets")).await;
        assert_eq!(&markets[0]["seq"], seq);
        let mut late = platform.client().await;
        late.subscribe("M").await;
        let snapshot = late.next().await;
        assert_eq!(
            (&snapshot["seq"], &snapshot["markets"][0]["seq"]),
            (seq, seq)
        );
        assert_eq!(
            (&snapshot["payload"], &snapshot["markets"][0]["payload"]),
            (payload, payload)
        );
    }
    platform.stop().await;
}

/// Mistake 1: three key schemes for one state, and REST lagged by up to 30 s.
#[actix_web::test]
async fn rest_is_never_behind_clients() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.subscriber("M").await;
    for version in 1..=50 {
        link.send(original_frame("M", &at(version), version));
        let update = client.next_of("update").await;
        let odds = rest_odds(&platform, "M").await;
        assert!(
            odds[0]["seq"].as_u64().unwrap() >= update["seq"].as_u64().unwrap(),
            "{odds:?} after {update}"
        );
    }
    platform.stop().await;
}
