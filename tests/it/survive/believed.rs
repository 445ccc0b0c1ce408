//! Data written by others to Kafka, Redis or the database is validated as strictly as a supplier's
//! data.

use redis::Commands;
use serde_json::{Value, json};
use sports_bet_platform::bus::dead_letter;
use sports_bet_platform::config::settings::Role;
use sports_bet_platform::domain::timestamp::Timestamp;

use crate::support::{
    Database, Folder, OddsTopic, TestPlatform, get_json, original_frame, records, until,
};

const EVENT: &str = "M";
const ROLES: [(&str, &str); 1] = [("ROLE", "processor,odds")];

fn ago(seconds: i64) -> String {
    Timestamp::from_micros(Timestamp::now().micros() - seconds * 1_000_000)
        .unwrap()
        .to_string()
}

fn frame(updated_at: &str, version: i64) -> Value {
    serde_json::from_str(&original_frame(EVENT, updated_at, version)).unwrap()
}

fn suspended(updated_at: &str, version: i64) -> Value {
    let mut frame = frame(updated_at, version);
    frame["status"] = json!("suspended");
    frame
}

async fn publish(topic: &OddsTopic, frames: &[Value]) {
    let records = frames
        .iter()
        .map(|frame| (EVENT.into(), frame.to_string().into_bytes()))
        .collect();
    topic.publish(records).await;
}

/// The markets of the event from REST: name, line, version and status.
async fn shown(platform: &TestPlatform) -> Vec<(String, Value, i64, String)> {
    let (_, odds) = get_json(&platform.url(&format!("/v1/events/{EVENT}/odds"))).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let market = |odds: &Value| {
        (
            text(&odds["market"]),
            odds["line"].clone(),
            odds["version"].as_i64().unwrap(),
            text(&odds["status"]),
        )
    };
    odds.as_array()
        .map(|all| all.iter().map(market).collect())
        .unwrap_or_default()
}

async fn until_shown(platform: &TestPlatform, version: i64, status: &str) {
    until(&format!("version {version}, {status}"), async || {
        let shown = shown(platform).await;
        shown
            .iter()
            .any(|market| (market.2, market.3.as_str()) == (version, status))
            .then_some(())
    })
    .await;
}

fn redis_of(folder: &Folder) -> redis::Connection {
    redis::Client::open(folder.sandbox().value("REDIS_URL").unwrap())
        .unwrap()
        .get_connection()
        .unwrap()
}

/// A8 and A11: other producers write to the topic as well.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn implausible_records_become_dead_letters() {
    let folder = Folder::on_real_engines();
    let topic = OddsTopic::make(&folder).await;
    let platform = TestPlatform::start_in(folder, &ROLES).await;
    publish(&topic, &[frame(&ago(60), 1)]).await;
    until_shown(&platform, 1, "open").await;
    let mut settlement = frame(&ago(50), 9);
    settlement["type"] = json!("settlement");
    let bad = [
        frame("2099-01-01T00:00:00Z", 2),
        frame("9999-12-31T23:59:59.999999Z", i64::MAX),
        settlement,
        json!({"type": "alive", "at": ago(0)}),
    ];
    publish(&topic, &bad).await;
    publish(&topic, &[suspended(&ago(30), 3)]).await;
    until_shown(&platform, 3, "suspended").await;
    for (path, reason) in [
        ("live", "future"),
        ("store", "future"),
        ("live", "unknown_type"),
        ("store", "unknown_type"),
    ] {
        let name =
            format!("odds_proc_records_refused_total{{path=\"{path}\",reason=\"{reason}\"}}");
        platform
            .until_metric(Role::Processor, &name, |count| count == 2.0)
            .await;
    }
    topic
        .until_done(platform.folder.sandbox().store_group())
        .await;
    let brokers = platform
        .folder
        .sandbox()
        .value("KAFKA_BROKERS")
        .unwrap()
        .to_owned();
    let letters = records(&brokers, &format!("{}_dlq", topic.name));
    let mut reasons: Vec<_> = letters
        .iter()
        .map(|letter| dead_letter::read(letter).reason)
        .collect();
    reasons.sort();
    assert_eq!(
        reasons,
        ["future", "future", "unknown_type", "unknown_type"]
    );

    // A restart on the same database and topic gives the same result.
    let folder = platform.stop().await;
    let platform = TestPlatform::start_in(folder, &ROLES).await;
    until_shown(&platform, 3, "suspended").await;
    publish(&topic, &[frame(&ago(20), 4)]).await;
    until_shown(&platform, 4, "open").await;
    platform.stop().await;
}

/// A8: invalid rows and keys accepted by an earlier version.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn poisoned_row_and_hot_copy_are_replaced() {
    let folder = Folder::on_real_engines();
    let topic = OddsTopic::make(&folder).await;
    let platform = TestPlatform::start_in(folder, &ROLES).await;
    publish(&topic, &[frame(&ago(60), 1)]).await;
    until_shown(&platform, 1, "open").await;
    topic
        .until_done(platform.folder.sandbox().store_group())
        .await;
    let folder = platform.stop().await;
    Database::of(&folder)
        .execute("UPDATE odds_current SET updated_at = '2099-01-01T00:00:00Z', version = 99");
    let mut redis = redis_of(&folder);
    let held: String = redis.hget(format!("odds:book:{EVENT}"), "1x2").unwrap();
    let mut held: Value = serde_json::from_str(&held).unwrap();
    held["payload"]["updated_at"] = json!("2099-01-01T00:00:00Z");
    held["payload"]["version"] = json!(99);
    let seq = held["seq"].clone();
    let order = format!("{:0>40}", "9".repeat(39));
    let payload = held["payload"].to_string();
    let poisoned = format!(r#"{{"order":"{order}","seq":{seq},"payload":{payload}}}"#);
    let _: () = redis
        .hset(format!("odds:book:{EVENT}"), "1x2", poisoned)
        .unwrap();

    let platform = TestPlatform::start_in(folder, &ROLES).await;
    assert_eq!(shown(&platform).await, [], "implausible data is not shown");
    publish(&topic, &[suspended(&ago(30), 2)]).await;
    until_shown(&platform, 2, "suspended").await;
    topic
        .until_done(platform.folder.sandbox().store_group())
        .await;
    let stored = "SELECT version AS number FROM odds_current";
    assert_eq!(Database::of(&platform.folder).number(stored), 2);
    platform.stop().await;
}

/// A9: anybody with permission to publish on the channel.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn forged_broadcasts_block_no_genuine_price() {
    let folder = Folder::on_real_engines();
    let topic = OddsTopic::make(&folder).await;
    let platform = TestPlatform::start_in(folder, &ROLES).await;
    publish(&topic, &[frame(&ago(60), 1)]).await;
    until_shown(&platform, 1, "open").await;
    let channel = platform
        .folder
        .sandbox()
        .value("REDIS_PUBSUB_CHANNEL")
        .unwrap()
        .to_owned();
    let mut redis = redis_of(&platform.folder);
    let mut forge = |payload: &Value, seq: &str| {
        let message = format!(r#"{{"eventId":"{EVENT}","payload":{payload}{seq}}}"#);
        let _: () = redis.publish(&channel, message).unwrap();
    };
    forge(&frame("2099-01-01T00:00:00Z", 900), "");
    forge(&frame(&ago(10), 901), &format!(r#","seq":{}"#, u64::MAX));
    for reason in ["future", "seq"] {
        let name = format!("odds_broadcasts_refused_total{{reason=\"{reason}\"}}");
        platform
            .until_metric(Role::Odds, &name, |count| count == 1.0)
            .await;
    }
    assert_eq!(shown(&platform).await[0].2, 1);
    // Within the allowed clock skew: the hot copy corrects it, without a genuine price.
    forge(&frame(&ago(-240), 902), r#","seq":50"#);
    platform
        .until_metric(Role::Odds, "odds_mirror_corrections_total", |count| {
            count == 1.0
        })
        .await;
    until_shown(&platform, 1, "open").await;
    // In the past, with a large seq: the next genuine price replaces it.
    forge(&frame(&ago(5), 903), r#","seq":1700000000000"#);
    until_shown(&platform, 903, "open").await;
    publish(&topic, &[suspended(&ago(20), 2)]).await;
    until_shown(&platform, 2, "suspended").await;
    publish(&topic, &[frame(&ago(4), 3)]).await;
    until_shown(&platform, 3, "open").await;
    platform.stop().await;
}

/// A10: two deployments on one Redis, separated by database number, with the same channel.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn deployments_sharing_redis_stay_separate() {
    let channel = format!("shared_{:016x}", fastrand::u64(..));
    let variables = [ROLES[0], ("REDIS_PUBSUB_CHANNEL", channel.as_str())];
    let mut both = Vec::new();
    for version in [1, 2] {
        let folder = Folder::on_real_engines();
        let topic = OddsTopic::make(&folder).await;
        let platform = TestPlatform::start_in(folder, &variables).await;
        both.push((platform, topic, version));
    }
    // Without separation, the later one would win in both.
    for (_, topic, version) in &both {
        publish(topic, &[frame(&ago(60 - version), *version)]).await;
    }
    for (platform, _, version) in &both {
        until_shown(platform, *version, "open").await;
        let name = "odds_broadcasts_refused_total{reason=\"deployment\"}";
        platform
            .until_metric(Role::Odds, name, |count| count >= 1.0)
            .await;
        assert_eq!(shown(platform).await[0].2, *version);
    }
    // The original's writers name no deployment, and are accepted.
    let mut redis = redis_of(&both[0].0.folder);
    let message = format!(r#"{{"eventId":"{EVENT}","payload":{}}}"#, frame(&ago(1), 7));
    let _: () = redis.publish(&channel, message).unwrap();
    for (platform, ..) in &both {
        until_shown(platform, 7, "open").await;
    }
    for (platform, ..) in both {
        platform.stop().await;
    }
}

/// B5: another process reads both markets from the hot copy.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn market_named_like_a_line_is_separate() {
    let folder = Folder::on_real_engines();
    let topic = OddsTopic::make(&folder).await;
    let platform = TestPlatform::start_in(folder, &ROLES).await;
    let mut named = frame(&ago(60), 1);
    let mut lined = frame(&ago(60), 2);
    named["market"] = json!("total@2.5");
    lined["market"] = json!("total");
    lined["line"] = json!(2.5);
    publish(&topic, &[named, lined]).await;
    let wanted = [
        ("total".to_owned(), json!(2.5), 2),
        ("total@2.5".to_owned(), Value::Null, 1),
    ];
    let until_both = async |platform: &TestPlatform| {
        until("both markets", async || {
            let shown = shown(platform).await;
            let markets: Vec<_> = shown
                .into_iter()
                .map(|(market, line, version, _)| (market, line, version))
                .collect();
            (markets == wanted).then_some(())
        })
        .await;
    };
    until_both(&platform).await;
    let fields: Vec<String> = redis_of(&platform.folder)
        .hkeys(format!("odds:book:{EVENT}"))
        .unwrap();
    assert_eq!(fields.len(), 2, "{fields:?}");
    topic
        .until_done(platform.folder.sandbox().store_group())
        .await;
    let stored = "SELECT count(*) AS number FROM odds_current";
    assert_eq!(Database::of(&platform.folder).number(stored), 2);
    let folder = platform.stop().await;
    let platform = TestPlatform::start_in(folder, &ROLES).await;
    until_both(&platform).await;
    platform.stop().await;
}
