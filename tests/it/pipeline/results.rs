//! Results of markets: published to their own topic, and refused ones kept with their bytes.

use sports_bet_platform::config::settings::Role;

use super::*;
use crate::support::{are_real, original_frame, records};

fn settlement(event: &str, result: &str, source: &str) -> String {
    let selections = json!([{"id": "home", "result": result}]);
    json!({
        "type": "settlement", "event_id": event, "market": "1x2", "selections": selections,
        "updated_at": at(5), "source": source, "version": 5,
    })
    .to_string()
}

/// A result opens no market, and changes no price.
#[actix_web::test]
async fn results_reach_their_topic_and_no_client() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.subscriber("M").await;
    let sent = settlement("M", "won", "test-supplier");
    let refused = [
        (settlement("M", "refunded", "test-supplier"), "malformed"),
        (settlement("M", "won", "operator:ann"), "reserved_source"),
    ];
    link.send(original_frame("M", &at(1), 1));
    link.send(sent.clone());
    for (frame, _) in &refused {
        link.send(frame.clone());
    }
    link.send(original_frame("M", &at(2), 2));
    let updates = updates_until(&mut client, 2).await;
    assert_eq!(versions_of(&updates), [1, 2], "neither suspends the market");
    assert!(!link.is_over());
    let is_one = |count| count == 1.0;
    let published = "odds_ingest_results_published_total";
    platform.until_metric(Role::Ingest, published, is_one).await;
    for (_, reason) in &refused {
        let name = format!("odds_ingest_refused_total{{reason=\"{reason}\"}}");
        platform.until_metric(Role::Ingest, &name, is_one).await;
    }
    let kept = kept(&platform, refused.len()).await;
    let raw: Vec<_> = refused.iter().map(|(frame, _)| frame.clone()).collect();
    assert_eq!(kept, raw);
    if are_real() {
        let [topic] = values(&platform, ["KAFKA_TOPIC_MARKET_RESULTS"]);
        let found = on_topic(&platform, &topic, 1).await;
        let found: Value = serde_json::from_str(&found[0]).unwrap();
        let sent: Value = serde_json::from_str(&sent).unwrap();
        assert_eq!(found["selections"], sent["selections"]);
    }
    platform.stop().await;
}

fn values<const N: usize>(platform: &TestPlatform, names: [&str; N]) -> [String; N] {
    names.map(|name| platform.folder.sandbox().value(name).unwrap().to_owned())
}

/// The payloads of a topic of Kafka.
async fn on_topic(platform: &TestPlatform, topic: &str, count: usize) -> Vec<String> {
    let [brokers] = values(platform, ["KAFKA_BROKERS"]);
    until(topic, || async {
        let found = records(&brokers, topic);
        (found.len() >= count).then(|| {
            let payloads = found.iter().map(|one| one.record.payload.clone());
            payloads
                .map(|payload| String::from_utf8(payload.to_vec()).unwrap())
                .collect()
        })
    })
    .await
}

/// The bytes of the dead letters of results.
async fn kept(platform: &TestPlatform, count: usize) -> Vec<String> {
    if are_real() {
        let [topic] = values(platform, ["KAFKA_TOPIC_MARKET_RESULTS_DLQ"]);
        return on_topic(platform, &topic, count).await;
    }
    let kept = Database::of(&platform.folder)
        .until_dead_letters(count)
        .await;
    let raw = kept
        .iter()
        .map(|one| String::from_utf8(one.raw.to_vec()).unwrap());
    raw.collect()
}
