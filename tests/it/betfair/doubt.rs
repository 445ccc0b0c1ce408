//! An exchange controlled by the test: after unreadable or outdated data, no price stays open that
//! a bet could be placed at.

use std::time::Duration;

use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use sports_bet_platform::cli::replay::{self, ReplayConfig};
use sports_bet_platform::config::settings::Role;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{FakeSupplier, TestPlatform, get_json, metric, until, within};

/// A Betfair exchange that accepts connections of the platform's feed.
struct Exchange {
    listener: TcpListener,
}

/// A subscribed connection of the feed.
struct Link {
    requests: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    subscription: Value,
}

impl Exchange {
    async fn start() -> Exchange {
        Exchange {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    fn url(&self) -> String {
        format!("betfair://{}", self.listener.local_addr().unwrap())
    }

    /// Accepts the feed's next connection and completes its subscription.
    async fn accept(&self) -> Link {
        let stream: TcpStream = within("a connection of the feed", self.listener.accept())
            .await
            .unwrap()
            .0;
        let (read, writer) = stream.into_split();
        let mut link = Link {
            requests: BufReader::new(read).lines(),
            writer,
            subscription: Value::Null,
        };
        link.send(r#"{"op":"connection","connectionId":"1"}"#).await;
        link.answer("authentication").await;
        link.subscription = link.answer("marketSubscription").await;
        link
    }
}

impl Link {
    async fn send(&mut self, line: &str) {
        within(
            "the feed reads a line",
            self.writer.write_all(format!("{line}\r\n").as_bytes()),
        )
        .await
        .unwrap();
    }

    /// Reads the next request and answers it with success.
    async fn answer(&mut self, op: &str) -> Value {
        let line = within(op, self.requests.next_line())
            .await
            .unwrap()
            .unwrap();
        let request: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(request["op"], op, "{request}");
        self.send(
            &json!({"op": "status", "id": request["id"], "statusCode": "SUCCESS"}).to_string(),
        )
        .await;
        request
    }
}

/// A change of a market with runner 11.
fn market(id: &str, status: &str, version: u64, price: f64) -> Value {
    let definition = json!({"status": status, "version": version, "marketType": "WIN", "runners": [{"id": 11, "status": "ACTIVE"}]});
    json!({"id": id, "img": true, "marketDefinition": definition, "rc": [{"id": 11, "batb": [[0, price, 10.0]]}]})
}

fn message(fields: Value, changes: Value) -> String {
    let mut message = json!({"op": "mcm", "id": 2, "pt": 1_700_000_000_000_u64, "mc": changes});
    message
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    message.to_string()
}

fn image(changes: Value) -> String {
    message(
        json!({"ct": "SUB_IMAGE", "initialClk": "i", "clk": "c"}),
        changes,
    )
}

/// Every role except the simulator, and a user with money.
async fn start_platform(supplier: String, variables: &[(&str, &str)]) -> TestPlatform {
    let mut all = vec![
        ("ROLE", "ingest,processor,odds,wallet,bets,confirmation"),
        ("SUPPLIER_URLS", supplier.as_str()),
    ];
    all.extend_from_slice(variables);
    let platform = TestPlatform::start(&all).await;
    let url = format!("http://{}/wallet/deposit", platform.wallet());
    let body = json!({"userId": "u", "amount_cents": 1_000_000, "external_ref": "first"});
    let answer = reqwest::Client::new()
        .post(url)
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    platform
}

/// `200` or `409 MARKET_SUSPENDED`.
async fn bet(
    platform: &TestPlatform,
    event: &str,
    market: &str,
    selection: &str,
    price: f64,
) -> String {
    let body = json!({"userId": "u", "eventId": event, "market": market, "selection": selection, "stake_cents": 100, "odd_value": price});
    let request = reqwest::Client::new()
        .post(format!("http://{}/bets", platform.bets()))
        .json(&body);
    let answer = within("an answer", request.send()).await.unwrap();
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    body["code"]
        .as_str()
        .map_or(status.to_string(), |code| format!("{status} {code}"))
}

/// Waits until the event's only market has this status and its first selection this price.
async fn until_shown(platform: &TestPlatform, event: &str, status: &str, price: f64) {
    until(&format!("{event} {status} {price}"), || async {
        let (_, odds) = get_json(&platform.url(&format!("/v1/events/{event}/odds"))).await;
        let shown = (
            odds[0]["status"].as_str(),
            odds[0]["selections"][0]["price"].as_f64(),
        );
        (shown == (Some(status), Some(price))).then_some(())
    })
    .await;
}

#[actix_web::test]
async fn rejected_change_suspends_the_market() {
    let exchange = Exchange::start().await;
    let platform = start_platform(exchange.url(), &[]).await;
    let mut link = exchange.accept().await;
    assert_eq!(link.subscription["segmentationEnabled"], true);
    link.send(&image(json!([
        market("1.1", "OPEN", 1, 3.0),
        market("1.2", "OPEN", 1, 4.0)
    ])))
    .await;
    until_shown(&platform, "1.1", "open", 3.0).await;
    assert_eq!(bet(&platform, "1.1", "win", "11", 3.0).await, "200");

    link.send(&message(
        json!({"clk": "d"}),
        json!([{"id": "1.1", "rc": [{"id": 11, "batb": [[], [0, 2.0, 10]]}]}]),
    ))
    .await;
    until_shown(&platform, "1.1", "suspended", 3.0).await;
    assert_eq!(
        bet(&platform, "1.1", "win", "11", 3.0).await,
        "409 MARKET_SUSPENDED"
    );
    assert_eq!(
        bet(&platform, "1.2", "win", "11", 4.0).await,
        "200",
        "the other market continues"
    );
    let again = link.answer("marketSubscription").await;
    assert_eq!(again["initialClk"], Value::Null);
    link.send(&image(json!([
        market("1.1", "OPEN", 1, 2.0),
        market("1.2", "OPEN", 1, 4.0)
    ])))
    .await;
    until_shown(&platform, "1.1", "open", 2.0).await;
    assert_eq!(bet(&platform, "1.1", "win", "11", 2.0).await, "200");

    // An unreadable message may be about any market.
    link.send(r#"{"op":"mcm","id":2,"pt":1700000000001,"mc":[{"id":"1.1","marketDef"#)
        .await;
    until_shown(&platform, "1.1", "suspended", 2.0).await;
    until_shown(&platform, "1.2", "suspended", 4.0).await;
    // The market is suspended, and a moment later its source is not live.
    let refused = bet(&platform, "1.2", "win", "11", 4.0).await;
    assert!(
        ["409 MARKET_SUSPENDED", "409 MARKET_STALE"].contains(&refused.as_str()),
        "{refused}"
    );
    let name = "odds_ingest_suspended_after_loss_total";
    platform
        .until_metric(Role::Ingest, name, |count| count == 2.0)
        .await;
    let mut link = exchange.accept().await;
    assert_eq!(link.subscription["initialClk"], Value::Null);
    link.send(&image(json!([
        market("1.1", "OPEN", 1, 2.0),
        market("1.2", "OPEN", 1, 4.0)
    ])))
    .await;
    until_shown(&platform, "1.2", "open", 4.0).await;

    // The connection is lost in the middle of a segmented message.
    let start = json!({"segmentType": "SEG_START", "clk": "e"});
    link.send(&message(start, json!([market("1.2", "SUSPENDED", 2, 4.0)])))
        .await;
    platform
        .until_metric(Role::Ingest, "odds_ingest_frames_total", |frames| {
            frames >= 11.0
        })
        .await;
    drop(link);
    until_shown(&platform, "1.1", "suspended", 2.0).await;
    let mut link = exchange.accept().await;
    assert_eq!(
        link.subscription["clk"], "c",
        "after the last whole message"
    );
    link.send(&message(
        json!({"ct": "RESUB_DELTA"}),
        json!([market("1.2", "SUSPENDED", 2, 4.0)]),
    ))
    .await;
    until_shown(&platform, "1.1", "open", 2.0).await;
    until_shown(&platform, "1.2", "suspended", 4.0).await;
    platform.stop().await;
}

#[actix_web::test]
async fn outdated_market_image_is_not_offered() {
    let exchange = Exchange::start().await;
    let platform = start_platform(exchange.url(), &[]).await;
    let mut link = exchange.accept().await;
    let copies = |id: &str| {
        [
            market(id, "SUSPENDED", 3_179_930_626, 3.0),
            market(id, "OPEN", 3_179_830_612, 9.0),
        ]
    };
    let ([new, old], [new_last, old_first]) = (copies("1.100"), copies("1.101"));
    link.send(&image(json!([
        new,
        old,
        old_first,
        new_last,
        market("1.102", "OPEN", 1, 5.0)
    ])))
    .await;
    for event in ["1.100", "1.101"] {
        until_shown(&platform, event, "suspended", 3.0).await;
        let answer = until("the prices are not stale any more", || async {
            let answer = bet(&platform, event, "win", "11", 9.0).await;
            (answer != "409 MARKET_STALE").then_some(answer)
        });
        assert_eq!(answer.await, "409 MARKET_SUSPENDED");
    }
    link.send(&message(
        json!({}),
        json!([market("1.100", "OPEN", 3_179_830_613, 9.0)]),
    ))
    .await;
    link.send(&message(
        json!({}),
        json!([market("1.102", "OPEN", 2, 6.0)]),
    ))
    .await;
    until_shown(&platform, "1.102", "open", 6.0).await;
    until_shown(&platform, "1.100", "suspended", 3.0).await;
    platform.stop().await;
}

#[actix_web::test]
async fn segmented_image_may_exceed_frame_limit() {
    let large = |market: usize| {
        let name = |id: usize| {
            format!(
                "Runner {id} of market {market} with a name that is neither short nor very long, in Portuguese"
            )
        };
        let runners: Vec<_> = (1..=24)
            .map(|id| json!({"id": id, "status": "ACTIVE", "sortPriority": id, "name": name(id)}))
            .collect();
        let prices: Vec<_> = (1..=24)
            .map(|id| json!({"id": id, "batb": [[0, 1.5 + id as f64, 120.5]], "ltp": 2.5}))
            .collect();
        let definition =
            json!({"status": "OPEN", "version": 1, "marketType": "WIN", "runners": runners});
        json!({"id": format!("1.{}", 1_000 + market), "marketDefinition": definition, "rc": prices})
    };
    let line = image(json!((0..250).map(large).collect::<Vec<_>>()));
    assert!(line.len() > 1024 * 1024, "{}", line.len());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), line).unwrap();
    let replay = replay::start(ReplayConfig::at_once(vec![file.path().to_owned()]))
        .await
        .unwrap();
    let platform = TestPlatform::fed_by(&[format!("betfair://{}", replay.addr)], &[]).await;
    // In steps, each with its own deadline.
    for known in (10..=250).step_by(10) {
        until("every market is known", || async {
            let (_, events) = get_json(&platform.url("/v1/events?limit=1000")).await;
            (events.as_array()?.len() >= known).then_some(())
        })
        .await;
    }
    for market in [0, 124, 249] {
        until_shown(&platform, &format!("1.{}", 1_000 + market), "open", 2.5).await;
    }
    assert_eq!(
        metric(
            &platform.metrics(Role::Ingest).await,
            "odds_ingest_connects_total"
        ),
        Some(1.0)
    );
    platform.stop().await;
    replay.stop().await;
}

fn native(event: &str, version: u32) -> Value {
    let selections = json!([{"id": "home", "name": "Home", "price": 1.5, "status": "active"}]);
    let updated_at = format!("2026-01-01T00:{:02}:{:02}Z", version / 60, version % 60);
    json!({"event_id": event, "market": "1x2", "status": "open", "selections": selections, "updated_at": updated_at, "source": "s", "version": version})
}

#[actix_web::test]
async fn unreadable_native_update_suspends_the_market() {
    let supplier = FakeSupplier::start().await;
    let platform = start_platform(supplier.url(), &[]).await;
    let mut link = supplier.accept().await;
    for event in ["A", "B"] {
        link.send(native(event, 1).to_string()).await;
        until_shown(&platform, event, "open", 1.5).await;
    }
    let mut halted = native("A", 2);
    halted["status"] = json!("halted");
    link.send(halted.to_string()).await;
    until_shown(&platform, "A", "suspended", 1.5).await;
    assert_eq!(
        bet(&platform, "A", "1x2", "home", 1.5).await,
        "409 MARKET_SUSPENDED"
    );
    link.send(native("A", 3).to_string()).await;
    until_shown(&platform, "A", "open", 1.5).await;
    assert_eq!(bet(&platform, "A", "1x2", "home", 1.5).await, "200");
    assert_eq!(
        bet(&platform, "B", "1x2", "home", 1.5).await,
        "200",
        "the other market continues"
    );
    platform.stop().await;
}

/// A pong proves that the supplier is alive, but says nothing about its prices.
#[actix_web::test]
async fn pongs_do_not_keep_prices_fresh() {
    let supplier = FakeSupplier::start().await;
    let quick = [
        ("SUPPLIER_STALE_AFTER", "3s"),
        ("SUPPLIER_PING_INTERVAL", "100ms"),
    ];
    let platform = start_platform(supplier.url(), &quick).await;
    let mut link = supplier.accept().await;
    link.send(native("A", 1).to_string()).await;
    link.send(native("B", 1).to_string()).await;
    link.send("{garbage").await;
    // B is updated repeatedly, A is not.
    let pongs = actix_web::rt::spawn(async move {
        for version in 2.. {
            link.send(native("B", version).to_string()).await;
            let _ = tokio::time::timeout(Duration::from_millis(200), link.serve_pings()).await;
        }
    });
    until_shown(&platform, "A", "suspended", 1.5).await;
    until_shown(&platform, "B", "open", 1.5).await;
    assert_eq!(
        bet(&platform, "A", "1x2", "home", 1.5).await,
        "409 MARKET_SUSPENDED"
    );
    let name = "odds_ingest_suspended_as_stale_total";
    platform
        .until_metric(Role::Ingest, name, |count| count == 1.0)
        .await;
    pongs.abort();
    platform.stop().await;
}

/// A market that ended while no process watched is suspended with the image after the start.
#[actix_web::test]
async fn market_missing_after_restart_is_suspended() {
    let exchange = Exchange::start().await;
    let url = exchange.url();
    let variables = TestPlatform::fed(&url, &[]);
    let platform = TestPlatform::start(&variables).await;
    let mut link = exchange.accept().await;
    let open = |id| market(id, "OPEN", 1, 3.0);
    link.send(&image(json!([open("1.200"), open("1.201")])))
        .await;
    for id in ["1.200", "1.201"] {
        until_market(&platform, id, "open").await;
    }
    let folder = platform.stop().await;
    drop(link);
    let platform = TestPlatform::start_in(folder, &variables).await;
    let mut link = exchange.accept().await;
    link.send(&image(json!([open("1.201")]))).await;
    until_market(&platform, "1.200", "suspended").await;
    until_market(&platform, "1.201", "open").await;
    platform.stop().await;
}

async fn until_market(platform: &TestPlatform, id: &str, status: &str) {
    until(&format!("{id} is {status}"), || async {
        let (_, odds) = get_json(&platform.url(&format!("/v1/events/{id}/odds"))).await;
        (odds[0]["status"] == status).then_some(())
    })
    .await;
}
