//! The faults between the supplier and the clients, and what clients see of each.

use std::time::Instant;

use super::kafka::TwoWayKafka;
use super::repeated::Step;
use super::scene::{Fault, Scene};
use super::source::{MOVING, Source};
use super::{CUT, QUIET, url};
use crate::support::{CuttableTcpProxy, Direction, PrivateEngine, until};

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn killed_ingest_suspends_its_markets() {
    let source = Source::start(&[QUIET]).await;
    let supplier = url(source.address());
    let scene = Scene::start(&[("SUPPLIER_URLS", &supplier)], &[MOVING, QUIET]).await;
    let mut ingest = scene.start_ingest().await;
    scene
        .repeat("`ingest` is killed", Fault::Source, async |step| {
            let now = Instant::now();
            match step {
                Step::Begin => ingest.kill().await,
                Step::End => ingest = scene.cluster.start("ingest").await,
            }
            now
        })
        .await;
    let killed = Instant::now();
    ingest.kill().await;
    let known = scene
        .until_lost("`ingest` is away", killed, Fault::Source)
        .await;
    let heartbeats = scene.viewers[1].heartbeats();
    until("heartbeats of a connection that works", || async {
        (scene.viewers[1].heartbeats() > heartbeats).then_some(())
    })
    .await;
    let both = [MOVING.to_owned(), QUIET.to_owned()];
    scene.bettor.check_refused(known, &both);
    let _restarted = scene.start_ingest().await;
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
    let ingest = scene.start_ingest().await;
    scene
        .repeat("the supplier is frozen", Fault::Source, async |step| {
            let now = Instant::now();
            match step {
                Step::Begin => simulator.signal("STOP").await,
                Step::End => simulator.signal("CONT").await,
            }
            now
        })
        .await;
    let connects = ingest.metric("ingest", "odds_ingest_connects_total").await;
    eprintln!("over {connects:?} connections");
    scene.check();
}

/// Cuts a network again and again.
async fn repeat_cut(
    scene: &Scene,
    name: &str,
    network: &CuttableTcpProxy,
    directions: &'static [Direction],
) {
    scene
        .repeat(name, Fault::Source, async |step| {
            let now = Instant::now();
            match step {
                Step::Begin => network.cut(directions),
                Step::End => network.restore(),
            }
            now
        })
        .await;
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn cut_supplier_connection_suspends_its_markets() {
    let source = Source::start(&[QUIET]).await;
    let network = CuttableTcpProxy::to(&source.address()).await;
    let supplier = url(network.address());
    let scene = Scene::start(&[("SUPPLIER_URLS", &supplier)], &[MOVING, QUIET]).await;
    let ingest = scene.start_ingest().await;
    let name = "no data between the supplier and `ingest`";
    repeat_cut(&scene, name, &network, Direction::BOTH).await;
    let name = "no data from the supplier to `ingest`";
    repeat_cut(&scene, name, &network, &[Direction::FromServer]).await;
    // Longer than SUPPLIER_READ_TIMEOUT, so that the feed connects again.
    let connects = ingest.metric("ingest", "odds_ingest_connects_total").await;
    let cut = Instant::now();
    network.cut(Direction::BOTH);
    let known = scene
        .until_lost("supplier cut off for long", cut, Fault::Source)
        .await;
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

/// What a supplier sends is true, whether or not it hears the pings. If it sends nothing, only its
/// pongs show that it is alive.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn unheard_pings_suspend_only_silent_supplier() {
    let source = Source::start(&[QUIET]).await;
    let network = CuttableTcpProxy::to(&source.address()).await;
    let supplier = url(network.address());
    let scene = Scene::start(&[("SUPPLIER_URLS", &supplier)], &[MOVING, QUIET]).await;
    let _ingest = scene.start_ingest().await;
    let cut = Instant::now();
    network.cut(&[Direction::ToServer]);
    tokio::time::sleep(CUT).await;
    scene.check_quiet("pings are not heard", cut).await;
    network.restore();
    let name = "no data from `ingest` to a supplier that sends only pongs";
    scene
        .repeat(name, Fault::Source, async |step| {
            let now = Instant::now();
            match step {
                Step::Begin => {
                    source.pause(true);
                    network.cut(&[Direction::ToServer]);
                }
                Step::End => {
                    network.restore();
                    source.pause(false);
                }
            }
            now
        })
        .await;
    scene.check();
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
    let _ingest = scene.start_ingest().await;
    for (name, directions) in [
        ("no data between `ingest` and Kafka", Direction::BOTH),
        ("no data from `ingest` to Kafka", &[Direction::ToServer]),
        ("no data from Kafka to `ingest`", &[Direction::FromServer]),
    ] {
        repeat_cut(&scene, name, &kafka.network, directions).await;
    }
    scene.check();
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn no_bet_is_accepted_while_redis_is_away() {
    engine_away("redis", "Redis is killed").await;
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn no_bet_is_accepted_while_kafka_is_away() {
    engine_away("kafka", "Kafka is killed").await;
}

async fn engine_away(kind: &'static str, name: &str) {
    let source = Source::start(&[QUIET]).await;
    let engine = PrivateEngine::up(kind).await;
    let supplier = url(source.address());
    let variables = [&engine.variables()[..], &[("SUPPLIER_URLS", &supplier)]].concat();
    let scene = Scene::start(&variables, &[MOVING, QUIET]).await;
    let _ingest = scene.start_ingest().await;
    scene
        .repeat(name, Fault::Engine, async |step| match step {
            Step::Begin => {
                let now = Instant::now();
                engine.kill().await;
                now
            }
            // Its own start does not count.
            Step::End => {
                engine.start().await;
                Instant::now()
            }
        })
        .await;
    scene.check();
}
