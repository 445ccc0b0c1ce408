//! The limits on clients: in common with REST and sockets.

use std::time::{Duration, Instant};

use pretty_assertions::assert_eq;
use sports_bet_platform::config::settings::Role;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic_types::StatusExt;

use super::{Fixture, market};
use crate::support::grpc::{
    Stream, address, call, odds_api, refusal, v1, wallet_api, watch, watched,
};
use crate::support::{Database, OddsClient, get_text, metric, until, within};

fn list() -> v1::ListEventsRequest {
    v1::ListEventsRequest::default()
}

#[actix_web::test]
async fn rate_limit_counts_rest_and_grpc() {
    let fixture = Fixture::odds(&[("RATE_LIMIT_READ", "1:3")]).await;
    let mut api = odds_api(&fixture.platform).await;
    let (status, _) = get_text(&fixture.platform.url("/v1/events")).await;
    assert_eq!(status, 200);
    let refused = until("a refusal", || {
        let mut api = api.clone();
        async move { api.list_events(list()).await.err() }
    })
    .await;
    assert_eq!(refusal(&refused), "ResourceExhausted TOO_MANY_REQUESTS");
    let details = refused.get_error_details();
    let retry = details.retry_info().unwrap().retry_delay.unwrap();
    assert_eq!(retry, Duration::from_secs(1));
    let (status, _) = get_text(&fixture.platform.url("/v1/events")).await;
    assert_eq!(status, 429);
    // A stream has a limit of its own.
    watch(&mut api, "E").await.snapshot().await;
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn address_limit_counts_every_call() {
    let fixture = Fixture::odds(&[("RATE_LIMIT_ADDRESS", "1:3")]).await;
    let api = odds_api(&fixture.platform).await;
    let refused = until("a refusal", || {
        let mut api = api.clone();
        async move { api.list_events(list()).await.err() }
    })
    .await;
    assert_eq!(refusal(&refused), "ResourceExhausted TOO_MANY_REQUESTS");
    assert!(refused.message().contains("address"), "{refused:?}");
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn streams_count_as_sessions() {
    let fixture = Fixture::odds(&[("WS_MAX_SESSIONS", "2")]).await;
    let mut api = odds_api(&fixture.platform).await;
    let socket = OddsClient::connect(fixture.platform.odds()).await;
    let mut stream = watch(&mut api, "E").await;
    stream.snapshot().await;
    let request = || v1::WatchOddsRequest {
        events: vec![watched("E", None)],
        ..Default::default()
    };
    let refused = api.watch_odds(request()).await.map(|_| ()).unwrap_err();
    assert_eq!(refusal(&refused), "ResourceExhausted TOO_MANY_SESSIONS");
    drop(socket);
    until("the place of the socket", || {
        let mut api = api.clone();
        async move { api.watch_odds(request()).await.ok() }
    })
    .await;
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn stream_has_limited_subscriptions() {
    let fixture = Fixture::odds(&[("WS_MAX_SUBSCRIPTIONS", "2")]).await;
    let mut api = odds_api(&fixture.platform).await;
    let request = v1::WatchOddsRequest {
        events: ["A", "B", "C"].map(|event| watched(event, None)).into(),
        ..Default::default()
    };
    let end = Stream::open(&mut api, request).await.end().await;
    assert_eq!(refusal(&end), "ResourceExhausted TOO_MANY_SUBSCRIPTIONS");
    fixture.platform.stop().await;
}

/// A request may subscribe to more events than a client gets snapshots of at once. They follow at the
/// rate of the limit: an empty one counts as 100 bytes, and eight times the rate are sent at once.
#[actix_web::test]
async fn snapshots_of_one_request_are_paced() {
    const EVENTS: usize = 120;
    let settings = [
        ("WS_MAX_SNAPSHOT_BYTES_PER_SECOND", "1KiB"),
        ("WS_MAX_SUBSCRIPTIONS", "200"),
    ];
    let fixture = Fixture::odds(&settings).await;
    let mut api = odds_api(&fixture.platform).await;
    let events = (0..EVENTS).map(|event| watched(&format!("E{event:03}"), None));
    let request = v1::WatchOddsRequest {
        events: events.collect(),
        ..Default::default()
    };
    let began = Instant::now();
    let mut stream = Stream::open(&mut api, request).await;
    for event in 0..EVENTS {
        let snapshot = stream.snapshot().await;
        assert_eq!(snapshot.event_id, format!("E{event:03}"));
    }
    // 8 KiB at once, and 10 snapshots a second afterwards.
    assert!(began.elapsed() > Duration::from_secs(3));
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn large_requests_and_metadata_are_refused() {
    let fixture = Fixture::odds(&[]).await;
    let mut api = odds_api(&fixture.platform).await;
    let large = v1::GetOddsRequest {
        event_id: "E".repeat(70_000),
    };
    let refused = api.get_odds(large).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused:?}");
    let text = "m".repeat(20_000);
    let metadata = [("x-note", text.as_str())];
    let refused = api.list_events(call(list(), &metadata)).await.unwrap_err();
    assert_ne!(refused.code(), tonic::Code::Ok, "{refused:?}");
    api.list_events(list()).await.unwrap();
    fixture.platform.stop().await;
}

/// A client that cancels a call gets no answer; the call is counted.
#[actix_web::test]
async fn cancelled_call_is_counted() {
    let fixture = Fixture::start(",wallet", &[]).await;
    let wallet = wallet_api(&fixture.platform).await;
    let deposit = |external_ref: &str| v1::DepositRequest {
        user_id: "u".to_owned(),
        amount_cents: 100,
        external_ref: external_ref.to_owned(),
    };
    wallet.clone().deposit(deposit("first")).await.unwrap();
    let database = Database::of(&fixture.platform.folder);
    let lock = database.lock();
    let count = r#"wallet_grpc_calls_total{code="CANCELLED",method="WalletService/Deposit"}"#;
    until("a cancelled call is counted", || async {
        let mut api = wallet.clone();
        let call = api.deposit(deposit("second"));
        let answer = tokio::time::timeout(Duration::from_millis(300), call).await;
        assert!(!matches!(answer, Ok(Ok(_))), "the database is locked");
        let page = fixture.platform.metrics(Role::Wallet).await;
        metric(&page, count).filter(|it| *it >= 1.0)
    })
    .await;
    drop(lock);
    until("deposits are accepted again", || {
        let mut api = wallet.clone();
        let deposit = deposit("third");
        async move { api.deposit(deposit).await.ok() }
    })
    .await;
    fixture.platform.stop().await;
}

/// A page of a browser can send a simple request to any server without asking.
#[actix_web::test]
async fn pages_are_refused() {
    let fixture = Fixture::odds(&[]).await;
    let mut api = odds_api(&fixture.platform).await;
    for header in [
        ("origin", "https://localhost"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let refused = api.list_events(call(list(), &[header])).await.unwrap_err();
        assert_eq!(refusal(&refused), "PermissionDenied ORIGIN_NOT_ALLOWED");
    }
    fixture.platform.stop().await;
}

/// Reads until the server closes the connection.
async fn closed(stream: &mut TcpStream) {
    let mut bytes = [0; 1_024];
    let closing = async { while matches!(stream.read(&mut bytes).await, Ok(read) if read > 0) {} };
    within("the end of the connection", closing).await;
}

/// Waits until the server has ended a connection for this reason.
async fn ended(fixture: &Fixture, reason: &str) {
    let name = "odds_http_connections_ended_total";
    let series = format!("{name}{{port=\"grpc\",reason=\"{reason}\"}}");
    let one = |count: f64| count == 1.0;
    fixture
        .platform
        .until_metric(Role::Odds, &series, one)
        .await;
}

#[actix_web::test]
async fn connections_of_address_are_limited() {
    let limits = [
        ("HTTP_MAX_CONNECTIONS_PER_ADDRESS", "2"),
        ("HTTP_HEAD_TIMEOUT", "5m"),
    ];
    let fixture = Fixture::odds(&limits).await;
    let grpc = address(&fixture.platform, Role::Odds);
    // REST and gRPC count together.
    let rest = reqwest::Client::new();
    let events = rest.get(fixture.platform.url("/v1/events")).send();
    assert_eq!(events.await.unwrap().status(), 200);
    let mut api = odds_api(&fixture.platform).await;
    api.list_events(list()).await.unwrap();
    let mut excess = TcpStream::connect(grpc).await.unwrap();
    closed(&mut excess).await;
    ended(&fixture, "address_limit").await;
    drop(rest);
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn connections_are_limited_in_all() {
    let limits = [("HTTP_MAX_CONNECTIONS", "16"), ("HTTP_HEAD_TIMEOUT", "5m")];
    let fixture = Fixture::odds(&limits).await;
    let grpc = address(&fixture.platform, Role::Odds);
    let mut open = Vec::new();
    for _ in 0..17 {
        open.push(TcpStream::connect(grpc).await.unwrap());
    }
    ended(&fixture, "crowded").await;
    open.clear();
    until("room", || async {
        let mut api = odds_api_or_none(&fixture).await?;
        api.list_events(list()).await.ok()
    })
    .await;
    fixture.platform.stop().await;
}

async fn odds_api_or_none(fixture: &Fixture) -> Option<crate::support::grpc::OddsApi> {
    let address = address(&fixture.platform, Role::Odds);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).ok()?;
    Some(crate::support::grpc::OddsApi::new(
        endpoint.connect().await.ok()?,
    ))
}

#[actix_web::test]
async fn silent_connection_is_closed() {
    let fixture = Fixture::odds(&[("HTTP_HEAD_TIMEOUT", "1500ms")]).await;
    let grpc = address(&fixture.platform, Role::Odds);
    let mut silent = TcpStream::connect(grpc).await.unwrap();
    closed(&mut silent).await;
    ended(&fixture, "preface_timeout").await;
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn calls_are_counted_by_method_and_code() {
    let mut fixture = Fixture::odds(&[]).await;
    fixture.show(market("E", 1, 1.5)).await;
    let mut api = odds_api(&fixture.platform).await;
    let odds = |event: &str| v1::GetOddsRequest {
        event_id: event.to_owned(),
    };
    api.get_odds(odds("E")).await.unwrap();
    api.get_odds(odds("NONE")).await.unwrap_err();
    drop(watch(&mut api, "E").await);
    until("the end of the stream", || async {
        let page = fixture.platform.metrics(Role::Odds).await;
        [
            ("GetOdds", "OK"),
            ("GetOdds", "NOT_FOUND"),
            ("WatchOdds", "CANCELLED"),
        ]
        .iter()
        .all(|(method, code)| {
            let series = format!(
                "odds_grpc_calls_total{{code=\"{code}\",method=\"OddsService/{method}\"}} 1\n"
            );
            page.contains(&series)
        })
        .then_some(())
    })
    .await;
    fixture.platform.stop().await;
}
