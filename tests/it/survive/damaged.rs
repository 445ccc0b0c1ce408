//! A damaged Redis entry: only its event is marked stale, and the entry is rewritten.

use serde_json::Value;

use super::outage::{self, Follower, eventually};
use crate::support::{PrivateEngine, get_json};

const EVENTS: usize = 3;

/// A string in place of the hash, and a field whose order no later state can exceed. The event does
/// not change meanwhile.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn damaged_redis_entry_is_repaired() {
    let redis = PrivateEngine::up("redis").await;
    let cluster = outage::cluster(EVENTS, &redis.variables()).await;
    let mut processor = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let _ingest = cluster.start("ingest").await;
    let events: Vec<String> = cluster.supplier.events().collect();
    cluster.supplier.send_at(100);
    let follower = Follower::of(odds.odds(), events.clone()).await;
    follower.until_received(&events, 5).await;
    cluster.supplier.send_at(0);
    let last = outage::fall_silent(&cluster, &follower).await;
    let mut connection = redis::Client::open(redis.address())
        .unwrap()
        .get_connection()
        .unwrap();
    let key = format!("odds:book:{}", events[0]);
    let unbeatable = format!(r#"{{"order":"{}","seq":9,"payload":{{}}}}"#, "9".repeat(40));
    for damage in [
        vec!["SET", &key, "x"],
        vec!["HSET", &key, "1x2", &unbeatable],
    ] {
        let mut command = redis::cmd(damage[0]);
        damage[1..]
            .iter()
            .for_each(|argument| _ = command.arg(argument));
        let _: redis::Value = command.query(&mut connection).unwrap();
        // A process that starts now reads the damaged entry.
        let late = cluster.start("odds").await;
        let of = |event: &str| format!("http://{}/v1/events/{event}/odds", late.odds());
        for event in &events[1..] {
            let (status, odds) = get_json(&of(event)).await;
            assert_eq!(
                (status, &odds[0]["stale"]),
                (200, &Value::Null),
                "other events are not affected: {odds}"
            );
        }
        let is_marked = get_json(&of(&events[0])).await.1[0]["stale"] == true;
        eprintln!("{damage:?}: marked {is_marked}");
        eventually("it is repaired", async || {
            let (status, odds) = get_json(&of(&events[0])).await;
            (status == 200 && odds[0]["stale"].is_null()).then_some(())
        })
        .await;
        let kind: String = redis::cmd("TYPE").arg(&key).query(&mut connection).unwrap();
        assert_eq!(kind, "hash");
        let newcomer = Follower::of(late.odds(), events.clone()).await;
        newcomer.until_at(&last).await;
    }
    // A processor that starts now has no book of a quiet event. It restores the state from the
    // database.
    processor.kill().await;
    let _processor = cluster.start("processor").await;
    let _: () = redis::cmd("SET")
        .arg(&key)
        .arg("x")
        .query(&mut connection)
        .unwrap();
    let late = cluster.start("odds").await;
    let of = format!("http://{}/v1/events/{}/odds", late.odds(), events[0]);
    eventually("it is repaired from the database", async || {
        let (status, odds) = get_json(&of).await;
        let kind: String = redis::cmd("TYPE").arg(&key).query(&mut connection).unwrap();
        (status == 200 && odds[0]["stale"].is_null() && kind == "hash").then_some(())
    })
    .await;
    let newcomer = Follower::of(late.odds(), events.clone()).await;
    newcomer.until_at(&last).await;
    cluster.supplier.send_at(100);
    follower.until_received(&events, 3).await;
    follower.check();
}
