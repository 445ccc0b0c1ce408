//! Nobody trusts a price that nobody vouches for, whatever fails between the supplier and the
//! clients: from the moment the clients know, no bet is accepted.

mod bettor;
mod scene;
mod source;
mod viewer;

use std::time::{Duration, Instant};

use self::scene::{Fault, Scene};
use self::source::{MOVING, Source};
use crate::support::{CuttableTcpProxy, Database, PrivateEngine, ServerProcess, free_port, until};

/// An event whose market never changes.
const QUIET: &str = "QUIET";
/// How long one of two `ingest` is cut off: longer than a source may be silent or unreported.
const CUT: Duration = Duration::from_secs(7);

/// The address of a supplier, for `SUPPLIER_URLS`.
fn url(address: impl std::fmt::Display) -> String {
    format!("ws://{address}/ws")
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn killed_ingest_suspends_its_markets() {
    let source = Source::start(&[QUIET]).await;
    let supplier = url(source.address());
    let scene = Scene::start(&[("SUPPLIER_URLS", &supplier)], &[MOVING, QUIET]).await;
    let started = Instant::now();
    let mut ingest = scene.cluster.start("ingest").await;
    scene.until_open("start", started).await;
    scene.until_reported().await;
    for round in ["ingest killed", "ingest killed again"] {
        let killed = Instant::now();
        ingest.kill().await;
        scene.until_lost(round, killed, Fault::Source).await;
        let heartbeats = scene.viewers[1].heartbeats();
        until("heartbeats of a connection that works", || async {
            (scene.viewers[1].heartbeats() > heartbeats).then_some(())
        })
        .await;
        let restarted = Instant::now();
        ingest = scene.cluster.start("ingest").await;
        scene.until_open("ingest restarted", restarted).await;
    }
    scene.check();
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn frozen_supplier_suspends_its_markets() {
    let slow = [("SIMULATOR_RATE", "2"), ("SIMULATOR_EVENTS", "2")];
    let mut scene = Scene::start(&slow, &["MATCH_001", "MATCH_002"]).await;
    let simulator = scene.cluster.start("simulator").await;
    let supplier = url(simulator.simulator());
    scene.cluster.set("SUPPLIER_URLS", &supplier);
    let started = Instant::now();
    let ingest = scene.cluster.start("ingest").await;
    scene.until_open("start", started).await;
    scene.until_reported().await;
    let frozen = Instant::now();
    simulator.signal("STOP").await;
    scene
        .until_lost("supplier frozen", frozen, Fault::Source)
        .await;
    let resumed = Instant::now();
    simulator.signal("CONT").await;
    scene.until_open("supplier resumed", resumed).await;
    let connects = ingest.metric("ingest", "odds_ingest_connects_total").await;
    eprintln!("over {connects:?} connections");
    scene.check();
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn cut_supplier_connection_suspends_its_markets() {
    let source = Source::start(&[QUIET]).await;
    let network = CuttableTcpProxy::to(&source.address()).await;
    let supplier = url(network.address());
    let scene = Scene::start(&[("SUPPLIER_URLS", &supplier)], &[MOVING, QUIET]).await;
    let started = Instant::now();
    let ingest = scene.cluster.start("ingest").await;
    scene.until_open("start", started).await;
    scene.until_reported().await;
    let cut = Instant::now();
    network.cut();
    scene
        .until_lost("supplier cut off", cut, Fault::Source)
        .await;
    let restored = Instant::now();
    network.restore();
    scene.until_open("supplier back", restored).await;
    // Longer than SUPPLIER_READ_TIMEOUT, so that the feed connects again.
    let connects = ingest.metric("ingest", "odds_ingest_connects_total").await;
    let cut = Instant::now();
    network.cut();
    scene
        .until_lost("supplier cut off for long", cut, Fault::Source)
        .await;
    let known = Instant::now();
    until("the feed leaves the connection", || async {
        let name = "odds_ingest_disconnects_total{reason=\"silent\"}";
        (ingest.metric("ingest", name).await >= Some(1.0)).then_some(())
    })
    .await;
    let both = [MOVING.to_owned(), QUIET.to_owned()];
    scene.bettor.check_refused(known, &both);
    let restored = Instant::now();
    network.restore();
    scene.until_open("supplier back after long", restored).await;
    assert!(ingest.metric("ingest", "odds_ingest_connects_total").await > connects);
    scene.check();
}

/// A Kafka that has a second way to it, through a network that can be cut.
struct TwoWayKafka {
    engine: PrivateEngine,
    network: CuttableTcpProxy,
}

impl TwoWayKafka {
    async fn start() -> TwoWayKafka {
        let (second, controller) = (free_port(), free_port());
        let network = CuttableTcpProxy::to(&format!("127.0.0.1:{second}")).await;
        let address = network.address();
        let lines = [
            format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
            format!(
                "listeners=PLAINTEXT://127.0.0.1:{{port}},SECOND://127.0.0.1:{second},CONTROLLER://127.0.0.1:{controller}"
            ),
            format!(
                "advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SECOND://{address}"
            ),
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SECOND:PLAINTEXT,CONTROLLER:PLAINTEXT"
                .to_owned(),
        ];
        let engine = PrivateEngine::configured("kafka", &lines.join("\n")).await;
        TwoWayKafka { engine, network }
    }

    /// The address of the second way.
    fn second(&self) -> String {
        self.network.address().to_string()
    }
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn ingest_cut_off_from_kafka_suspends_its_markets() {
    let source = Source::start(&[QUIET]).await;
    let kafka = TwoWayKafka::start().await;
    let supplier = url(source.address());
    let variables = [
        &kafka.engine.variables()[..],
        &[("SUPPLIER_URLS", &supplier)],
    ]
    .concat();
    let mut scene = Scene::start(&variables, &[MOVING, QUIET]).await;
    scene.cluster.set("KAFKA_BROKERS", &kafka.second());
    let started = Instant::now();
    let _ingest = scene.cluster.start("ingest").await;
    scene.until_open("start", started).await;
    scene.until_reported().await;
    let cut = Instant::now();
    kafka.network.cut();
    scene
        .until_lost("ingest cut off from Kafka", cut, Fault::Source)
        .await;
    let restored = Instant::now();
    kafka.network.restore();
    scene.until_open("Kafka back for ingest", restored).await;
    scene.check();
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn no_bet_is_accepted_while_redis_is_away() {
    engine_away("redis").await;
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn no_bet_is_accepted_while_kafka_is_away() {
    engine_away("kafka").await;
}

async fn engine_away(kind: &'static str) {
    let source = Source::start(&[QUIET]).await;
    let engine = PrivateEngine::up(kind).await;
    let supplier = url(source.address());
    let variables = [&engine.variables()[..], &[("SUPPLIER_URLS", &supplier)]].concat();
    let scene = Scene::start(&variables, &[MOVING, QUIET]).await;
    let started = Instant::now();
    let _ingest = scene.cluster.start("ingest").await;
    scene.until_open("start", started).await;
    scene.until_reported().await;
    let killed = Instant::now();
    engine.kill().await;
    let what = format!("{kind} killed");
    scene.until_lost(&what, killed, Fault::Engine).await;
    engine.start().await;
    scene
        .until_open(&format!("{kind} back"), Instant::now())
        .await;
    scene.check();
}

/// Two `ingest` of one supplier.
struct Pair {
    scene: Scene,
    /// The one that is never cut off.
    _first: ServerProcess,
    second: ServerProcess,
}

impl Pair {
    /// The second one has its own ways to the supplier and to Kafka.
    async fn start(source: &Source, network: &CuttableTcpProxy, kafka: &TwoWayKafka) -> Pair {
        let supplier = url(source.address());
        let variables = [
            &kafka.engine.variables()[..],
            &[("SUPPLIER_URLS", &supplier)],
        ]
        .concat();
        let mut scene = Scene::start(&variables, &[MOVING, QUIET]).await;
        let started = Instant::now();
        let first = scene.cluster.start("ingest").await;
        scene.cluster.set("SUPPLIER_URLS", &url(network.address()));
        scene.cluster.set("KAFKA_BROKERS", &kafka.second());
        let second = scene.cluster.start("ingest").await;
        scene.until_open("start", started).await;
        scene.until_reported().await;
        let pair = Pair {
            scene,
            _first: first,
            second,
        };
        pair.until_publishing().await;
        pair
    }

    async fn published(&self) -> f64 {
        let published = self
            .second
            .metric("ingest", "odds_ingest_updates_published_total");
        published.await.unwrap_or_default()
    }

    /// Waits until the second one publishes, and knows its source as live.
    async fn until_publishing(&self) {
        let before = self.published().await;
        until("the second ingest works", || async {
            let live = r#"odds_ingest_sources{state="live"}"#;
            let is_live = self.second.metric("ingest", live).await == Some(1.0);
            (is_live && self.published().await >= before + 20.0).then_some(())
        })
        .await;
    }

    /// Cuts a network for a while. The quiet market stays open for clients, and for bets.
    async fn cut(&self, what: &str, network: &CuttableTcpProxy) {
        let cut = Instant::now();
        network.cut();
        tokio::time::sleep(CUT).await;
        network.restore();
        let restored = Instant::now();
        self.until_publishing().await;
        eprintln!(
            "{what}: the second ingest works {:.2?} after its network is back",
            restored.elapsed()
        );
        self.check_quiet(what, cut).await;
    }

    /// Panics if the quiet market was shown in another way than before, or refused a bet.
    async fn check_quiet(&self, what: &str, since: Instant) {
        self.scene.until_tried(Instant::now(), 10).await;
        let mut bets = self.scene.bettor.since(since);
        bets.retain(|bet| bet.event == QUIET);
        let refused: Vec<_> = bets
            .iter()
            .filter(|bet| !bet.is_accepted())
            .map(|bet| (bet.sent - since, &bet.answer))
            .collect();
        for viewer in &self.scene.viewers {
            assert_eq!(viewer.history(QUIET, since), [], "{what}; {refused:?}");
        }
        assert!(refused.is_empty(), "{what}: {refused:?}");
        eprintln!(
            "{what}: all {} bets on the quiet market are accepted",
            bets.len()
        );
        self.scene.check();
    }
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn one_of_two_ingest_cut_off_suspends_nothing() {
    let source = Source::start(&[QUIET]).await;
    let network = CuttableTcpProxy::to(&source.address()).await;
    let kafka = TwoWayKafka::start().await;
    let pair = Pair::start(&source, &network, &kafka).await;
    pair.cut("cut off from the supplier", &network).await;
    pair.cut("cut off from Kafka", &kafka.network).await;
}

/// What an `ingest` decides while it hears nobody must not be published when it is back.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn one_of_two_ingest_isolated_suspends_nothing() {
    let source = Source::start(&[QUIET]).await;
    let network = CuttableTcpProxy::to(&source.address()).await;
    let kafka = TwoWayKafka::start().await;
    let pair = Pair::start(&source, &network, &kafka).await;
    let isolated = Instant::now();
    network.cut();
    kafka.network.cut();
    tokio::time::sleep(CUT).await;
    kafka.network.restore();
    pair.scene.until_tried(Instant::now(), 20).await;
    network.restore();
    pair.until_publishing().await;
    pair.check_quiet("isolated", isolated).await;
}

/// A market that the supplier does not send again after a restart of all processes.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn restarted_platform_suspends_unsent_market() {
    const GONE: &str = "GONE";
    let source = Source::start(&[QUIET, GONE]).await;
    let supplier = url(source.address());
    let events = [MOVING, QUIET, GONE];
    let scene = Scene::start(&[("SUPPLIER_URLS", &supplier)], &events).await;
    let started = Instant::now();
    let mut ingest = scene.cluster.start("ingest").await;
    scene.until_open("start", started).await;
    scene.until_reported().await;
    let database = Database::of_cluster(&scene.cluster);
    until("every market is stored", || async {
        (database.number("SELECT count(*) AS number FROM odds_current") == 3).then_some(())
    })
    .await;
    ingest.kill().await;
    source.forget(GONE);
    let killed = Instant::now();
    let scene = scene.restart().await;
    scene.until_tried(killed, 1).await;
    let restarted = Instant::now();
    let _ingest = scene.cluster.start("ingest").await;
    let sent = [MOVING.to_owned(), QUIET.to_owned()];
    scene
        .until_open_of("everything restarted", restarted, &sent)
        .await;
    scene
        .until_shown("the market is suspended", |viewer| {
            viewer.status(GONE) == "suspended"
        })
        .await;
    scene.until_tried(Instant::now(), 10).await;
    scene.bettor.check_refused(killed, &[GONE.to_owned()]);
    let history = scene.viewers[0].history(GONE, killed);
    eprintln!("the market that is not sent again: {history:?}");
    scene.check();
}
