//! Anonymous clients subscribe to events that do not exist while the database is slow: nobody else
//! is affected.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sports_bet_platform::config::settings::Role;
use tokio::time::{interval, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    FakeSupplier, Folder, OddsClient, SlowTcpProxy, SupplierLink, TestPlatform, get_json, send,
    until,
};

/// Flooding sessions, and the subscriptions per second of each.
const FLOODING: usize = 8;
const RATE: u64 = 120;
/// How long the flood lasts before the market is suspended.
const FLOOD: Duration = Duration::from_secs(3);
/// After this time no bet is accepted. Without the flood it takes some milliseconds.
const SUSPENDED_WITHIN: Duration = Duration::from_secs(3);

fn market(event: &str, version: u64, status: &str) -> String {
    let selection =
        |id: &str, price: f64| json!({"id": id, "name": id, "price": price, "status": "active"});
    json!({
        "event_id": event, "home_team": "Flamengo", "away_team": "Palmeiras", "market": "1x2", "status": status,
        "selections": [selection("home", 1.5), selection("away", 4.5)],
        "updated_at": "2026-01-01T00:00:00Z", "source": "test-supplier", "version": version,
    })
    .to_string()
}

/// Subscribes to ids of nonexistent events, each once, within every limit.
async fn flood(address: std::net::SocketAddr, session: usize, subscribed: Arc<AtomicUsize>) {
    let (mut to, mut from) = OddsClient::connect(address).await.socket.split();
    tokio::spawn(async move { while let Some(Ok(_)) = from.next().await {} });
    let mut ticks = interval(Duration::from_micros(1_000_000 / RATE));
    for n in 0_u64.. {
        ticks.tick().await;
        for kind in ["subscribe", "unsubscribe"] {
            let text = json!({"type": kind, "eventId": format!("NONE_{session}_{n}")}).to_string();
            if to.send(Message::text(text)).await.is_err() {
                return;
            }
        }
        subscribed.fetch_add(1, Ordering::Relaxed);
    }
}

/// The supplier: a new event every half second, and a price of `LIVE` every tenth of a second.
/// Suspends `E` on request.
async fn supply(
    mut link: SupplierLink,
    sent: Arc<Mutex<HashMap<u64, Instant>>>,
    suspend: Arc<AtomicBool>,
) {
    let mut ticks = interval(Duration::from_millis(100));
    let mut is_suspended = false;
    for n in 1_u64.. {
        ticks.tick().await;
        if n.is_multiple_of(5) {
            link.send(market(&format!("NEW_{n}"), 1, "open")).await;
        }
        if !is_suspended && suspend.load(Ordering::SeqCst) {
            link.send(market("E", 2, "suspended")).await;
            is_suspended = true;
        }
        sent.lock().unwrap().insert(n, Instant::now());
        link.send(market("LIVE", n, "open")).await;
    }
}

/// The delays of the changes of `LIVE` at a client, by version.
async fn follow(
    mut client: OddsClient,
    sent: Arc<Mutex<HashMap<u64, Instant>>>,
    delays: Arc<Mutex<Vec<Duration>>>,
) {
    while let Some(Ok(message)) = client.socket.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        let update: Value = serde_json::from_str(&text).unwrap();
        if let Some(at) = update["payload"]["version"]
            .as_u64()
            .and_then(|version| sent.lock().unwrap().remove(&version))
        {
            delays.lock().unwrap().push(at.elapsed());
        }
    }
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn unknown_id_flood_delays_no_suspension() {
    let folder = Folder::on_real_engines();
    let mut database = url::Url::parse(folder.sandbox().value("DATABASE_URL").unwrap()).unwrap();
    let engine = format!(
        "{}:{}",
        database.host_str().unwrap(),
        database.port().unwrap_or(5432)
    );
    let proxy = SlowTcpProxy::to(&engine, Duration::from_millis(10)).await;
    database.set_ip_host(proxy.address().ip()).unwrap();
    database.set_port(Some(proxy.address().port())).unwrap();
    let supplier = FakeSupplier::start().await;
    let url = supplier.url();
    let database = database.to_string();
    let variables = [
        ("ROLE", "ingest,processor,odds,wallet,bets,confirmation"),
        ("KAFKA_BROKERS", ""),
        ("REDIS_URL", ""),
        ("SUPPLIER_URLS", url.as_str()),
        ("DATABASE_URL", database.as_str()),
        ("BET_CONFIRM_DEADLINE", "2m"),
        // Fewer reads than the flood requests at once: four for each session.
        ("CLIENT_READ_QUEUE", "16"),
    ];
    let platform = TestPlatform::start_at_once_in(folder, &variables).await;
    let client = reqwest::Client::new();
    let post = async |address, path: &str, body: Value| {
        let answer = send(client.post(format!("http://{address}{path}")).json(&body)).await;
        (answer.status, answer.text().to_owned())
    };
    let mut link = supplier.accept().await;
    link.send(market("E", 1, "open")).await;
    let wallet = platform.wallet();
    until("a wallet", async || {
        let deposit = json!({"userId": "u", "amount_cents": 10_000_000, "external_ref": "first"});
        (post(wallet, "/wallet/deposit", deposit).await.0 == 200).then_some(())
    })
    .await;
    let bet = json!({
        "userId": "u", "eventId": "E", "market": "1x2", "selection": "home", "stake_cents": 100, "odd_value": 1.5,
    });
    let bets = platform.bets();
    until("bets are accepted", async || {
        (post(bets, "/bets", bet.clone()).await.0 == 200).then_some(())
    })
    .await;
    let (sent, delays) = (
        Arc::<Mutex<HashMap<_, _>>>::default(),
        Arc::<Mutex<Vec<Duration>>>::default(),
    );
    let suspend = Arc::new(AtomicBool::new(false));
    actix_web::rt::spawn(supply(link, sent.clone(), suspend.clone()));
    until("the odds of LIVE", async || {
        let (status, _) = get_json(&platform.url("/v1/events/LIVE/odds")).await;
        (status == 200).then_some(())
    })
    .await;
    let healthy = platform.subscriber("LIVE").await;
    actix_web::rt::spawn(follow(healthy, sent, delays.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    report("before the flood", &delays);

    let subscribed = Arc::<AtomicUsize>::default();
    for session in 0..FLOODING {
        actix_web::rt::spawn(flood(platform.odds(), session, subscribed.clone()));
    }
    tokio::time::sleep(FLOOD).await;
    suspend.store(true, Ordering::SeqCst);
    let suspended = Instant::now();
    let mut early = 0;
    let mut late = 0;
    let mut last = Duration::ZERO;
    while suspended.elapsed() < 4 * SUSPENDED_WITHIN {
        let asked_at = suspended.elapsed();
        let (status, text) = post(bets, "/bets", bet.clone()).await;
        assert!([200, 409, 503].contains(&status), "{status}: {text}");
        if status == 200 {
            last = asked_at;
            *if asked_at < SUSPENDED_WITHIN {
                &mut early
            } else {
                &mut late
            } += 1;
        }
        sleep_until(tokio::time::Instant::now() + Duration::from_millis(60)).await;
    }
    eprintln!(
        "bets accepted after the suspension: {}, the last one after {last:?}",
        early + late
    );
    assert!(!delays.lock().unwrap().is_empty(), "changes arrive");
    report("in the flood", &delays);
    eprintln!("{} ids requested", subscribed.load(Ordering::Relaxed));
    assert_eq!(late, 0, "bets on a suspended market");
    let (status, odds) = get_json(&platform.url("/v1/events/LIVE/odds")).await;
    assert_eq!(
        (status, &odds[0]["status"]),
        (200, &json!("open")),
        "REST answers"
    );
    let (status, text) = post(bets, "/bets", bet.clone()).await;
    assert_eq!(status, 409, "{text}");
    let refused = platform.until_metric(Role::Odds, "odds_client_reads_refused_total", |count| {
        count > 0.0
    });
    timeout(Duration::from_secs(20), refused)
        .await
        .expect("the queue was full");
}

fn report(when: &str, delays: &Mutex<Vec<Duration>>) {
    let mut delays = std::mem::take(&mut *delays.lock().unwrap());
    delays.sort();
    let at =
        |share: usize| delays.get((delays.len() * share / 100).min(delays.len().saturating_sub(1)));
    eprintln!(
        "{when}: {} changes, p50 {:?}, p99 {:?}",
        delays.len(),
        at(50),
        at(99)
    );
}
