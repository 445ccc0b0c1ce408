//! A collector that is away, or does not answer.

use std::time::{Duration, Instant};

use super::*;
use crate::support::metric;

const DROPPED: &str = "process_trace_spans_dropped_total";
const WARNING: &str = "trace spans dropped";

impl Traced {
    async fn until_dropped(&self, least: f64) {
        until("spans are dropped", || async {
            let page = self.server.metrics("bets").await;
            (metric(&page, DROPPED)? >= least).then_some(())
        })
        .await;
    }

    fn warnings(&self) -> usize {
        let log = self.server.log();
        log.lines().filter(|line| line.contains(WARNING)).count()
    }

    /// Places bets one by one, and returns how long the slowest took.
    async fn slowest_of(&self, bets: usize) -> Duration {
        let mut slowest = Duration::ZERO;
        for _ in 0..bets {
            let began = Instant::now();
            let answer = self.bet("E", &[]).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            slowest = slowest.max(began.elapsed());
        }
        slowest
    }
}

/// Every export fails at once: spans are counted, and one line a minute says so.
#[tokio::test]
async fn failing_collector_costs_one_warning() {
    let collector = Collector::start(Behaviour::Refuse);
    let mut traced = Traced::start_with(collector, &[]).await;
    traced.offer("E").await;
    traced.deposit().await;
    for least in [1.0, 10.0, 20.0] {
        traced.slowest_of(3).await;
        traced.until_dropped(least).await;
    }
    assert_eq!(traced.warnings(), 1, "{}", traced.server.log());

    // It is used again as soon as it accepts.
    traced.collector.set(Behaviour::Accept);
    until("spans arrive", || async {
        traced.bet("E", &[]).await;
        (!traced.collector.spans().is_empty()).then_some(())
    })
    .await;
    assert_eq!(traced.warnings(), 1);
}

/// Nobody listens at the address of the collector.
#[tokio::test]
async fn absent_collector_stops_nothing() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    let mut traced = Traced::start(&variables).await;
    traced.offer("E").await;
    traced.deposit().await;
    traced.slowest_of(5).await;
    traced.until_dropped(5.0).await;
    assert_eq!(traced.warnings(), 1, "{}", traced.server.log());
    traced.server.signal("TERM").await;
    assert!(traced.server.ended().await.success());
}

/// A collector that never answers holds up neither requests nor updates, and the process ends in time.
/// What does not fit into the queue is dropped and counted.
#[tokio::test]
async fn hanging_collector_slows_nothing_down() {
    let collector = Collector::start(Behaviour::Hang);
    let mut traced = Traced::start_with(collector, &[]).await;
    traced.offer("E").await;
    traced.deposit().await;
    // Waiting for the collector even once would take its timeout, five seconds.
    let slowest = traced.slowest_of(20).await;
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");

    // More spans than the queue holds, before any export has timed out.
    let mut client = subscribed(traced.server.odds(), "E").await;
    let last = 3_000_i64;
    for version in 2..=last {
        let at = format!("2025-11-09T21:{:02}:{:02}Z", 8 + version / 60, version % 60);
        let frame = original_frame("E", &at, version);
        traced.link.send(frame).await;
    }
    let began = Instant::now();
    while client.next_change().await["payload"]["version"] != last {}
    assert!(began.elapsed() < Duration::from_secs(20));
    traced.until_dropped(1_000.0).await;

    let began = Instant::now();
    traced.server.signal("TERM").await;
    assert!(traced.server.ended().await.success());
    assert!(
        began.elapsed() < Duration::from_secs(13),
        "{:?}",
        began.elapsed()
    );
    let log = traced.server.log();
    assert!(
        log.contains("the collector did not accept the last trace spans in time"),
        "{log}"
    );
}
