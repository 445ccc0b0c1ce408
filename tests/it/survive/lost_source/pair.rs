//! Two `ingest` of one supplier: the fault of one suspends nothing.

use std::time::Instant;

use super::kafka::TwoWayKafka;
use super::scene::Scene;
use super::source::{MOVING, Source};
use super::{CUT, QUIET, url};
use crate::support::{CuttableTcpProxy, Direction, ServerProcess, until};

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
        let first = scene.cluster.start("ingest").await;
        scene.cluster.set("SUPPLIER_URLS", &url(network.address()));
        scene.cluster.set("KAFKA_BROKERS", &kafka.second());
        let second = scene.start_ingest().await;
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
        network.cut(Direction::BOTH);
        tokio::time::sleep(CUT).await;
        network.restore();
        let restored = Instant::now();
        self.until_publishing().await;
        eprintln!(
            "{what}: the second ingest works {:.2?} after its network is back",
            restored.elapsed()
        );
        self.scene.check_quiet(what, cut).await;
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
    network.cut(Direction::BOTH);
    kafka.network.cut(Direction::BOTH);
    tokio::time::sleep(CUT).await;
    kafka.network.restore();
    pair.scene.until_tried(Instant::now(), 20).await;
    network.restore();
    pair.until_publishing().await;
    pair.scene.check_quiet("isolated", isolated).await;
}
