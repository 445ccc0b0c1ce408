//! Redis outage under load, after which Redis is empty.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use redis::Commands;

use super::outage::{
    self, Costs, Follower, OUTAGE, eventually, fall_silent, until_down, until_stored, until_up,
};
use crate::support::{
    Database, FakeSupplier, PrivateEngine, ServerProcess, get_json, original_frame,
};

const EVENTS: usize = 20;
const QUIET: &str = "QUIET";

/// Clients are correct again soon after Redis is back without data, and nothing is lost.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn clients_recover_after_redis_comes_back_empty() {
    let redis = PrivateEngine::up("redis").await;
    let mut cluster = outage::cluster(EVENTS, &redis.variables()).await;
    // A second supplier, whose only market never changes.
    let quiet = FakeSupplier::start().await;
    let suppliers = format!("{},{}", cluster.supplier.url(), quiet.url());
    cluster.set("SUPPLIER_URLS", &suppliers);
    let database = Database::of(&cluster.folder);
    let processor = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let ingest = cluster.start("ingest").await;
    let mut link = quiet.accept().await;
    link.send(original_frame(QUIET, "2026-01-01T00:00:00Z", 7))
        .await;
    tokio::spawn(async move { link.serve_pings().await });
    let events: Vec<String> = cluster.supplier.events().collect();
    let all: Vec<String> = events.iter().cloned().chain([QUIET.to_owned()]).collect();
    cluster.supplier.send_at(300);
    let follower = Follower::of(odds.odds(), all.clone()).await;
    follower.until_received(&events, 5).await;
    eventually("the quiet market", async || {
        (follower.last(QUIET).1 == 7).then_some(())
    })
    .await;

    let costs = Costs::of(&[
        ("ingest", &ingest),
        ("processor", &processor),
        ("odds", &odds),
    ]);
    redis.stop().await;
    let since = Instant::now();
    eprintln!(
        "readiness: {}",
        until_down(&processor, "processor", "cache").await
    );
    eprintln!("readiness: {}", until_down(&odds, "odds", "feed").await);
    eventually("stale", async || {
        (follower.account().feed == ["stale"]).then_some(())
    })
    .await;
    assert_eq!(is_stale(&odds, &events[0]).await, Some(true));
    assert_eq!(is_stale(&odds, QUIET).await, Some(true));
    let late = Follower::of(odds.odds(), all.clone()).await;
    eventually("snapshots that are marked", async || {
        let marked = late
            .account()
            .feed
            .iter()
            .filter(|state| *state == "stale snapshot")
            .count();
        (marked == all.len()).then_some(())
    })
    .await;
    while since.elapsed() < OUTAGE {
        // The store path continues.
        let stored = database.versions(&events[0]).len();
        eventually("rows of history", async || {
            (database.versions(&events[0]).len() > stored).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    costs.report("Redis away").await;

    // Nothing changes any more, so a client that is correct stays correct.
    cluster.supplier.send_at(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let last = cluster.supplier.last();
    let (back, ()) = tokio::join!(answers(redis.address()), redis.start());
    follower.until_at(&last).await;
    late.until_at(&last).await;
    let took = back.elapsed();
    eprintln!("clients are correct {took:?} after Redis is back");
    assert!(took < Duration::from_secs(10));
    eventually("live", async || {
        let is_live = |follower: &Follower| {
            follower
                .account()
                .feed
                .last()
                .is_some_and(|status| status == "live")
        };
        (is_live(&follower) && is_live(&late)).then_some(())
    })
    .await;
    eprintln!("the feed is live {:?} after Redis is back", back.elapsed());
    until_up(&processor, "processor").await;
    until_up(&odds, "odds").await;
    until_kept(&redis, &all).await;
    eprintln!(
        "everything is in Redis {:?} after it is back",
        back.elapsed()
    );
    let after = Follower::of(odds.odds(), all.clone()).await;
    after.until_at(&last).await;
    eventually("the quiet market", async || {
        (after.last(QUIET).1 == 7).then_some(())
    })
    .await;
    assert_eq!(is_stale(&odds, &events[0]).await, None);
    assert!(after.account().feed.is_empty());
    until_stored(&database, &last).await;

    cluster.supplier.send_at(300);
    follower.until_received(&events, 3).await;
    let last = fall_silent(&cluster, &follower).await;
    until_stored(&database, &last).await;
    late.until_at(&last).await;
    for follower in [&follower, &late, &after] {
        assert_eq!(follower.last(QUIET).1, 7);
        follower.check();
    }
    assert_eq!(
        cluster.supplier.connections(),
        1,
        "the supplier was never held back"
    );
    costs.report("Redis back").await;
}

/// A Redis that comes back empty is filled even if no market has changed meanwhile.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn empty_redis_is_refilled_without_changes() {
    let redis = PrivateEngine::up("redis").await;
    let cluster = outage::cluster(EVENTS, &redis.variables()).await;
    let processor = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let _ingest = cluster.start("ingest").await;
    let events: Vec<String> = cluster.supplier.events().collect();
    cluster.supplier.send_at(300);
    let follower = Follower::of(odds.odds(), events.clone()).await;
    follower.until_received(&events, 5).await;
    let last = fall_silent(&cluster, &follower).await;
    until_kept(&redis, &events).await;
    for is_killed in [true, false] {
        if is_killed {
            redis.kill().await
        } else {
            redis.stop().await
        }
        redis.start().await;
        let back = Instant::now();
        until_kept(&redis, &events).await;
        eprintln!(
            "everything is in Redis {:?} after it is back",
            back.elapsed()
        );
    }
    // A process that starts now reads the state from there.
    let second = cluster.start("odds").await;
    Follower::of(second.odds(), events.clone())
        .await
        .until_at(&last)
        .await;
    until_up(&processor, "processor").await;
    follower.check();
}

/// Whether REST marks an event's odds as stale; `None` if it does not answer.
async fn is_stale(odds: &ServerProcess, event: &str) -> Option<bool> {
    let (status, odds) = get_json(&format!("http://{}/v1/events/{event}/odds", odds.odds())).await;
    assert_eq!(status, 200, "{odds}");
    odds[0]["stale"].as_bool()
}

/// Returns when a Redis accepts connections again.
async fn answers(url: &str) -> Instant {
    let url = url::Url::parse(url).unwrap();
    let address: SocketAddr = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
        .parse()
        .unwrap();
    eventually("Redis answers", async || {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await;
    Instant::now()
}

/// Waits until a Redis holds the hot copy of every event.
async fn until_kept(redis: &PrivateEngine, events: &[String]) {
    let mut connection = redis::Client::open(redis.address())
        .unwrap()
        .get_connection()
        .unwrap();
    let keys: Vec<String> = events
        .iter()
        .map(|event| format!("odds:book:{event}"))
        .collect();
    eventually("every book in Redis", async || {
        let count: usize = connection.exists(&keys).unwrap();
        (count == keys.len()).then_some(())
    })
    .await;
}
