//! `WatchOdds`: the snapshot, changes, resuming, conflation, heartbeats, and slow clients.

use std::collections::BTreeMap;
use std::time::Duration;

use pretty_assertions::assert_eq;
use sports_bet_platform::config::settings::Role;

use super::{Fixture, market, market_of};
use crate::support::grpc::v1::watch_odds_response::Message;
use crate::support::grpc::{Stream, address, odds_api, refusal, v1, watch, watched};
use crate::support::{OddsClient, until};

#[actix_web::test]
async fn snapshot_is_followed_by_every_change() {
    let mut fixture = Fixture::odds(&[]).await;
    fixture.show(market("E", 1, 1.5)).await;
    fixture.show(market("F", 1, 1.5)).await;
    let mut api = odds_api(&fixture.platform).await;
    let request = v1::WatchOddsRequest {
        events: vec![watched("E", None), watched("F", None), watched("NEW", None)],
        ..Default::default()
    };
    let mut stream = Stream::open(&mut api, request).await;
    let mut shown = BTreeMap::new();
    for _ in 0..3 {
        let snapshot = stream.snapshot().await;
        assert!(!snapshot.recovered && !snapshot.stale);
        shown.insert(snapshot.event_id.clone(), snapshot);
    }
    assert_eq!(shown["E"].markets.len(), 1);
    assert_eq!((shown["NEW"].seq, shown["NEW"].markets.len()), (0, 0));
    let mut socket = OddsClient::connect(fixture.platform.odds()).await;
    socket.subscribe("E").await;
    socket.next_of("snapshot").await;
    let mut last = shown["E"].seq;
    for version in 2..=20 {
        fixture.show(market("E", version, 1.5)).await;
        let (update, frame) = (stream.update().await, socket.next_of("update").await);
        assert_eq!(update.version(), version);
        assert_eq!(frame["seq"], update.seq);
        assert!(update.seq > last && update.resumable && !update.conflated);
        assert_eq!((update.why(), update.stale), (v1::Why::Unspecified, None));
        last = update.seq;
    }
    fixture.show(market("NEW", 1, 1.5)).await;
    let update = stream.update().await;
    assert_eq!(update.odds.unwrap().event_id, "NEW");
    drop(stream);
    let streams = |wanted: f64| {
        fixture
            .platform
            .until_metric(Role::Odds, "odds_grpc_streams", move |it| it == wanted)
    };
    streams(0.0).await;
    // The subscription of the socket is left.
    let left = |it: f64| it == 1.0;
    fixture
        .platform
        .until_metric(Role::Odds, "odds_ws_subscriptions", left)
        .await;
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn stream_resumes_after_last_seq() {
    let mut fixture = Fixture::odds(&[]).await;
    fixture.show(market("E", 1, 1.5)).await;
    fixture.show(market_of("E", "btts", 2, 1.5)).await;
    let mut api = odds_api(&fixture.platform).await;
    // The epoch is read from the database in the background.
    let (epoch, seq) = until("an epoch", || {
        let mut api = api.clone();
        async move {
            let snapshot = watch(&mut api, "E").await.snapshot().await;
            snapshot.epoch.map(|epoch| (epoch, snapshot.seq))
        }
    })
    .await;
    fixture.show(market_of("E", "btts", 3, 1.5)).await;
    let resume = |epoch: &str, since: u64| v1::WatchOddsRequest {
        events: vec![watched("E", Some(since))],
        epoch: epoch.to_owned(),
        ..Default::default()
    };
    let snapshot = Stream::open(&mut api, resume(&epoch, seq))
        .await
        .snapshot()
        .await;
    assert!(snapshot.recovered);
    let versions: Vec<_> = snapshot
        .markets
        .iter()
        .map(|it| it.odds.as_ref().unwrap().version)
        .collect();
    assert_eq!(versions, [3]);
    let other = Stream::open(&mut api, resume("another", seq))
        .await
        .snapshot()
        .await;
    assert_eq!((other.recovered, other.markets.len()), (false, 2));
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn requested_conflation_and_heartbeats_are_kept() {
    let mut fixture = Fixture::odds(&[]).await;
    fixture.show(market("E", 1, 1.5)).await;
    let mut api = odds_api(&fixture.platform).await;
    let request = |conflate_ms, heartbeat_ms| v1::WatchOddsRequest {
        events: vec![watched("E", None)],
        conflate_ms,
        heartbeat_ms,
        ..Default::default()
    };
    let mut stream = Stream::open(&mut api, request(900, 500)).await;
    let snapshot = stream.snapshot().await;
    assert_eq!(
        (snapshot.conflate_ms, snapshot.heartbeat_ms),
        (1_000, Some(500))
    );
    let mut beats = 0;
    while beats < 2 {
        match stream.next().await {
            Message::Heartbeat(beat) => beats += i32::from(beat.as_of.is_some()),
            other => panic!("{other:?}"),
        }
    }
    for version in 2..=40 {
        fixture.link.send(market("E", version, 1.5)).await;
    }
    let mut updates = Vec::new();
    while updates
        .last()
        .is_none_or(|it: &v1::Update| it.version() < 40)
    {
        updates.push(stream.update().await);
    }
    assert!(updates.len() < 20, "{} updates", updates.len());
    let requested = updates
        .iter()
        .any(|it| it.conflated && it.why() == v1::Why::Requested);
    assert!(requested, "{updates:?}");
    for (conflate_ms, heartbeat_ms) in [(120_001, 0), (0, 499), (0, 30_001)] {
        let refused = api
            .watch_odds(request(conflate_ms, heartbeat_ms))
            .await
            .map(|_| ());
        assert_eq!(
            refusal(&refused.unwrap_err()),
            "InvalidArgument BAD_REQUEST"
        );
    }
    let twice = v1::WatchOddsRequest {
        events: vec![watched("E", None), watched("E", None)],
        ..Default::default()
    };
    for wrong in [twice, v1::WatchOddsRequest::default()] {
        let refused = api.watch_odds(wrong).await.map(|_| ());
        assert_eq!(
            refusal(&refused.unwrap_err()),
            "InvalidArgument BAD_REQUEST"
        );
    }
    fixture.platform.stop().await;
}

/// A frame large enough that some fill the window of a stream.
fn large(version: u64) -> String {
    crate::clients::change_of("E", ["1x2", "btts"][(version % 2) as usize], version, 5_000)
}

/// Sends more changes of `E` than a stream takes that nobody reads. One at a time, so that none replaces
/// another on the way to `beside`, which reads them all.
pub(super) async fn overflow(fixture: &mut Fixture, beside: &mut Stream) {
    for version in 1..=200 {
        fixture.link.send(large(version)).await;
        assert_eq!(beside.update().await.version() as u64, version);
    }
}

/// A stream that nobody reads gets the latest state of each market afterwards. A stream of the same
/// connection, one of another, and a socket get every change in the meantime.
#[actix_web::test]
async fn slow_stream_conflates_and_delays_nobody() {
    let settings = [("WS_SESSION_QUEUE", "4"), ("SLOW_CLIENT_LIMIT", "60s")];
    let mut fixture = Fixture::odds(&settings).await;
    let mut narrow = Narrow::connect(&fixture).await;
    let mut other = odds_api(&fixture.platform).await;
    let mut beside = watch(&mut narrow.api, "E").await;
    let mut fast = watch(&mut other, "E").await;
    let mut socket = OddsClient::connect(fixture.platform.odds()).await;
    socket.subscribe("E").await;
    socket.next_of("snapshot").await;
    let mut slow = watch(&mut narrow.api, "E").await;
    for stream in [&mut beside, &mut fast, &mut slow] {
        stream.snapshot().await;
    }
    const CHANGES: u64 = 240;
    for version in 1..=CHANGES {
        fixture.link.send(large(version)).await;
        for stream in [&mut beside, &mut fast] {
            let update = stream.update().await;
            assert_eq!(
                (update.version() as u64, update.conflated),
                (version, false)
            );
        }
        assert_eq!(
            socket.next_of("update").await["payload"]["version"],
            version
        );
    }
    let stalled = |it: f64| it == 1.0;
    fixture
        .platform
        .until_metric(Role::Odds, "odds_ws_stalled_sessions", stalled)
        .await;
    let (mut seen, mut last_seq, mut last) = (0, 0, BTreeMap::new());
    let mut conflated = 0;
    while last.values().copied().collect::<Vec<_>>() != [CHANGES as i64, CHANGES as i64 - 1] {
        let update = slow.update().await;
        assert!(update.seq > last_seq);
        last_seq = update.seq;
        seen += 1;
        conflated += u64::from(update.conflated && update.why() == v1::Why::Slow);
        let name = update
            .odds
            .as_ref()
            .unwrap()
            .market
            .as_ref()
            .unwrap()
            .name
            .clone();
        last.insert(name, update.version());
    }
    assert!(conflated > 0 && seen < CHANGES, "{conflated} of {seen}");
    fixture.platform.stop().await;
}

/// A stream that nobody reads ends, and its connection goes on.
#[actix_web::test]
async fn unread_stream_ends_alone() {
    let settings = [("WS_SESSION_QUEUE", "4"), ("SLOW_CLIENT_LIMIT", "1s")];
    let mut fixture = Fixture::odds(&settings).await;
    let mut narrow = Narrow::connect(&fixture).await;
    let mut slow = watch(&mut narrow.api, "E").await;
    let mut beside = watch(&mut narrow.api, "E").await;
    for stream in [&mut beside, &mut slow] {
        stream.snapshot().await;
    }
    overflow(&mut fixture, &mut beside).await;
    let evicted = |it: f64| it == 1.0;
    fixture
        .platform
        .until_metric(Role::Odds, "odds_ws_evictions_total", evicted)
        .await;
    let left = |it: f64| it == 1.0;
    fixture
        .platform
        .until_metric(Role::Odds, "odds_ws_subscriptions", left)
        .await;
    assert_eq!(refusal(&slow.end().await), "ResourceExhausted SLOW_CLIENT");
    fixture.link.send(large(201)).await;
    assert_eq!(beside.update().await.version(), 201);
    fixture.platform.stop().await;
}

/// A client whose streams have small windows.
pub(super) struct Narrow {
    pub api: crate::support::grpc::OddsApi,
}

impl Narrow {
    pub async fn connect(fixture: &Fixture) -> Narrow {
        let address = address(&fixture.platform, Role::Odds);
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .initial_stream_window_size(16 * 1_024)
            .initial_connection_window_size(8 * 1_024 * 1_024);
        let channel = endpoint.connect().await.unwrap();
        let api = crate::support::grpc::OddsApi::new(channel);
        Narrow { api }
    }
}

/// What is known about the source is sent as on the socket.
#[actix_web::test]
async fn lost_source_suspends_on_stream() {
    let settings = [
        ("SUPPLIER_STALE_AFTER", "1s"),
        ("SUPPLIER_PING_INTERVAL", "300ms"),
    ];
    let mut fixture = Fixture::odds(&settings).await;
    fixture.show(market("E", 1, 1.5)).await;
    let mut api = odds_api(&fixture.platform).await;
    let mut stream = watch(&mut api, "E").await;
    stream.snapshot().await;
    let is_suspended = async {
        let (mut source, mut market) = (false, false);
        while !(source && market) {
            match stream.next().await {
                Message::Feed(feed) => {
                    source |= feed.source.as_deref() == Some("test-supplier")
                        && feed.event_id.as_deref() == Some("E")
                        && feed.status() == v1::FeedStatus::Stale;
                }
                Message::Update(update) => {
                    let odds = update.odds.as_ref().unwrap();
                    market |= odds.status() == v1::MarketStatus::Suspended;
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), is_suspended)
        .await
        .unwrap();
    let snapshot = watch(&mut api, "E").await.snapshot().await;
    let market = &snapshot.markets[0];
    assert!(market.stale && market.as_of.is_some(), "{market:?}");
    assert_eq!(snapshot.epoch, None, "nobody can resume from a restriction");
    fixture.platform.stop().await;
}

/// The epoch is copied for each event of a request.
#[actix_web::test]
async fn long_epoch_is_refused() {
    let fixture = Fixture::odds(&[]).await;
    let mut api = odds_api(&fixture.platform).await;
    let request = |length: usize| v1::WatchOddsRequest {
        events: vec![watched("E", Some(1))],
        epoch: "e".repeat(length),
        ..Default::default()
    };
    let refused = api.watch_odds(request(65)).await.unwrap_err();
    assert_eq!(refusal(&refused), "InvalidArgument BAD_REQUEST");
    api.watch_odds(request(64)).await.unwrap();
    fixture.platform.stop().await;
}
