//! Books that do not answer, and books that may be stale.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use actix::prelude::*;
use actix_web::web;
use serde_json::json;
use sports_bet_platform::access::Access;
use sports_bet_platform::actors::odds::client_reads::{ClientReads, ReadLimits};
use sports_bet_platform::actors::odds::messages::{ApplyError, BookChanged, GetSnapshot, Restated};
use sports_bet_platform::actors::streaming::distributor::{Distributor, DistributorSettings};
use sports_bet_platform::actors::streaming::messages::FeedChanged;
use sports_bet_platform::actors::streaming::registry::Registry;
use sports_bet_platform::actors::streaming::session_edges::SessionEdges;
use sports_bet_platform::domain::odds::book::{Book, MarketState, Snapshot};
use sports_bet_platform::domain::odds::restrictions::{CurrentRestrictions, Restrictions};
use sports_bet_platform::domain::odds::source_status::{SourceState, SourceStatus};
use sports_bet_platform::domain::odds::update::OddsUpdate;
use sports_bet_platform::domain::streaming::credential_watch::CredentialLimits;
use sports_bet_platform::domain::streaming::epoch::CurrentEpoch;
use sports_bet_platform::domain::streaming::protocol::FeedStatus;
use sports_bet_platform::domain::streaming::session::SessionLimits;
use sports_bet_platform::http::addresses::{AddressLimit, Addresses};
use sports_bet_platform::http::odds::routes::odds_routes;
use sports_bet_platform::http::odds::state::OddsState;
use sports_bet_platform::http::server::{self, Listen};
use sports_bet_platform::http::streaming::frame_limit::{FrameLimits, UnfinishedBytes};
use sports_bet_platform::runtime::feed_health::FeedState;
use sports_bet_platform::runtime::tls::install_provider;
use sports_bet_platform::services::odds::OddsQueries;
use sports_bet_platform::store::sqlite::SqliteStore;
use sports_bet_platform::telemetry::log_limit::LogLimit;
use sports_bet_platform::telemetry::metrics::OddsMetrics;

use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::support::OddsClient;

/// Books that answer every second request.
struct Failing {
    requests: u64,
}

impl Actor for Failing {
    type Context = Context<Self>;
}

impl Handler<GetSnapshot> for Failing {
    type Result = Result<Snapshot, ApplyError>;

    fn handle(&mut self, message: GetSnapshot, _: &mut Context<Self>) -> Self::Result {
        self.requests += 1;
        match self.requests % 2 {
            0 => Ok(Book::new(message.0).snapshot()),
            _ => Err(ApplyError::BookEnded(message.0)),
        }
    }
}

/// Books that hold one market.
struct Holding;

impl Actor for Holding {
    type Context = Context<Self>;
}

const UPDATE: &str = r#"{"event_id":"E","market":"1x2","odds":{"home":1.5,"draw":2.5,"away":3.5},"updated_at":"2025-11-09T21:07:45Z","source":"s","version":1}"#;

impl Handler<GetSnapshot> for Holding {
    type Result = Result<Snapshot, ApplyError>;

    fn handle(&mut self, message: GetSnapshot, _: &mut Context<Self>) -> Self::Result {
        let mut book = Book::new(message.0);
        book.apply(OddsUpdate::from_json(UPDATE.as_bytes()).unwrap(), 0)
            .unwrap();
        Ok(book.snapshot())
    }
}

/// The routes of the role `odds` on top of these books; `feed` creates the state of their feed.
struct Served {
    server: server::RunningServer,
    registry: Addr<Registry>,
    restrictions: Arc<CurrentRestrictions>,
    epoch: Arc<CurrentEpoch>,
    _folder: TempDir,
}

fn serve(
    snapshots: Recipient<GetSnapshot>,
    feed: impl Fn(prometheus::IntGauge) -> FeedState,
) -> Served {
    let folder = TempDir::new().unwrap();
    let store =
        Arc::new(SqliteStore::open(&folder.path().join("test.db").to_string_lossy()).unwrap());
    let metrics = OddsMetrics::new().unwrap();
    let seconds = Duration::from_secs;
    let settings = DistributorSettings {
        ping_interval: seconds(10),
        slow_client_limit: seconds(10),
        frozen_limit: seconds(10),
        credentials: CredentialLimits::with_timeout(seconds(10)),
    };
    let restrictions = Arc::new(CurrentRestrictions::default());
    let epoch = Arc::new(CurrentEpoch::default());
    let registry = Registry::new(metrics.clone(), restrictions.clone()).start();
    let limits = SessionLimits {
        max_subscriptions: 1,
        max_messages_per_second: 100,
        max_snapshot_bytes_per_second: 1_000_000,
        silence_limit: Duration::from_secs(60),
    };
    let read_limits = ReadLimits {
        at_once: 1,
        waiting: 10,
        unknown_ttl: Duration::from_secs(1),
    };
    let reads = Arc::new(ClientReads::new(
        read_limits,
        metrics.client_reads_refused.clone(),
    ));
    let frames = Arc::new(FrameLimits {
        largest: 1_024,
        frames_per_second: 1_000,
        bytes_per_second: 100_000,
        unfinished: UnfinishedBytes::new(100_000),
    });
    let state = web::Data::new(OddsState {
        frames,
        results: store.clone(),
        queries: Arc::new(OddsQueries {
            reads,
            snapshots: snapshots.clone(),
            snapshot_timeout: Duration::from_secs(5),
            feed: Arc::new(feed(metrics.feed_live.clone())),
            restrictions: Arc::default(),
            store,
        }),
        session_permits: Arc::new(Semaphore::new(10)),
        next_session: Arc::new(AtomicU64::new(1)),
        max_sessions: 10,
        addresses: Addresses::new(&[], AddressLimit::Set(0), AddressLimit::Set(0)),
        allowed_origins: Vec::new(),
        metrics: metrics.clone(),
    });
    let ip = std::net::Ipv4Addr::LOCALHOST.into();
    let listen = Listen {
        variable: "HTTP_PORT_ODDS",
        ip,
        port: 0,
        workers: 1,
        max_connections: 10,
    };
    let joined = registry.clone();
    let (restricts, numbers) = (restrictions.clone(), epoch.clone());
    let server = server::start(listen, move |config| {
        let snapshots = snapshots.clone();
        let metrics = metrics.clone();
        let distributor = Distributor::start_here(
            settings,
            joined.clone(),
            state.queries.feed.clone(),
            metrics.clone(),
        );
        let sessions = SessionEdges {
            distributor,
            snapshots,
            restrictions: restricts.clone(),
            epoch: numbers.clone(),
            access: Access::off(),
            limits,
            max_message: 1_024,
            queue: 16,
            failures: Arc::new(LogLimit::every(Duration::from_secs(10))),
            metrics,
        };
        config
            .app_data(state.clone())
            .app_data(web::Data::new(sessions));
        odds_routes(config);
    })
    .unwrap();
    Served {
        server,
        registry,
        restrictions,
        epoch,
        _folder: folder,
    }
}

/// A snapshot that cannot be loaded is answered with an error, and subscribing again succeeds.
#[actix_web::test]
async fn failed_snapshot_can_be_retried() {
    let served = serve(
        Failing { requests: 0 }.start().recipient(),
        FeedState::in_process,
    );
    let server = &served.server;

    let mut client = OddsClient::connect(server.address).await;
    client.subscribe("E").await;
    let error = client.next().await;
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("error"), &json!("SNAPSHOT_UNAVAILABLE"))
    );
    assert_eq!(error["eventId"], "E");
    // The subscription slot is free again, for another event too.
    client.subscribe("E").await;
    assert_eq!(client.next().await["type"], "snapshot");
    client.send(r#"{"type":"ping"}"#).await;
    assert_eq!(client.next().await["type"], "pong");
}

/// While the feed is lost, everything that may be stale is marked.
#[actix_web::test]
async fn lost_feed_marks_stale_data() {
    let served = serve(Holding.start().recipient(), FeedState::awaiting_broadcasts);
    let mut early = OddsClient::connect(served.server.address).await;
    early.send(r#"{"type":"ping"}"#).await;
    assert_eq!(early.next().await["type"], "pong");
    served
        .registry
        .send(FeedChanged(FeedStatus::Stale))
        .await
        .unwrap();
    let mut late = OddsClient::connect(served.server.address).await;
    for client in [&mut early, &mut late] {
        assert_eq!(
            client.next().await,
            json!({"type": "feed", "status": "stale"})
        );
        client.subscribe("E").await;
        assert_eq!(client.next().await["stale"], true);
    }
    served
        .registry
        .send(FeedChanged(FeedStatus::Live))
        .await
        .unwrap();
    for client in [&mut early, &mut late] {
        assert_eq!(
            client.next().await,
            json!({"type": "feed", "status": "live"})
        );
        client.subscribe("E").await;
        assert_eq!(client.next().await.get("stale"), None);
    }
    for path in ["odds", "markets"] {
        let url = format!("http://{}/v1/events/E/{path}", served.server.address);
        install_provider();
        let response = reqwest::get(url).await.unwrap();
        assert_eq!(response.headers()["odds-stale"], "true");
        let body: serde_json::Value = response.json().await.unwrap();
        assert_eq!(body[0]["stale"], true, "{path}");
    }
}

/// A market of a lost source is shown as suspended and stale, also to clients of the original; once
/// the source is live again, the state is shown as it is.
#[actix_web::test]
async fn lost_source_is_shown_until_it_lives() {
    let served = serve(Holding.start().recipient(), FeedState::in_process);
    served.epoch.set("3f9c".to_owned());
    let mut old = OddsClient::connect(served.server.address).await;
    old.subscribe("E").await;
    assert!(old.next().await["markets"][0].get("stale").is_none());
    let mut new = OddsClient::connect(served.server.address).await;
    let subscribe = r#"{"type":"subscribe","eventId":"E","conflateMs":120000}"#;
    new.send(subscribe).await;
    let snapshot = new.next().await;
    assert_eq!(snapshot["epoch"], "3f9c");
    let market = Arc::new(MarketState {
        update: OddsUpdate::from_json(UPDATE.as_bytes()).unwrap(),
        seq: 1,
    });
    let source = market.update.source.clone();
    let restate = async |state: SourceState, status: FeedStatus| {
        let restrictions = Restrictions {
            sources: [(source.clone(), SourceStatus { state, at: None })].into(),
            ..Restrictions::default()
        };
        served.restrictions.set(restrictions);
        let restated = Restated {
            sources: Arc::new([(source.clone(), status)]),
            head: 1,
        };
        let changed = BookChanged {
            traced: None,
            states: Arc::new([market.clone()]),
            conflated: false,
            restated: Some(restated),
        };
        served.registry.send(changed).await.unwrap();
    };
    restate(SourceState::Stale, FeedStatus::Stale).await;
    for client in [&mut old, &mut new] {
        assert_eq!(
            client.next().await,
            json!({"type": "feed", "status": "stale", "source": "s", "events": ["E"]})
        );
        // Not held back: the market is suspended.
        let update = client.next().await;
        assert_eq!(
            (&update["seq"], &update["stale"]),
            (&json!(1), &json!(true))
        );
        assert_eq!(update["payload"]["status"], "suspended");
    }
    new.send(subscribe).await;
    let snapshot = new.next().await;
    assert_eq!(
        (snapshot.get("epoch"), &snapshot["recovered"]),
        (None, &json!(false))
    );
    assert_eq!(snapshot["markets"][0]["stale"], true);
    assert_eq!(snapshot["markets"][0]["payload"]["status"], "suspended");
    restate(SourceState::Live, FeedStatus::Live).await;
    assert_eq!(old.next().await["status"], "live");
    let update = old.next().await;
    assert_eq!(update["stale"], false);
    assert_ne!(update["payload"]["status"], "suspended");
    assert!(update.get("resumable").is_none());
    assert_eq!(new.next().await["status"], "live");
    new.send(subscribe).await;
    let snapshot = new.next_of("snapshot").await;
    assert_eq!(snapshot["epoch"], "3f9c");
    assert!(snapshot["markets"][0].get("stale").is_none());
}
