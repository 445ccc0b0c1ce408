//! Traces across processes, over Kafka, Redis and PostgreSQL.

use super::*;
use crate::support::{Cluster, SteadySupplier};

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn update_is_one_trace_across_processes() {
    for feed in ["auto", "redis"] {
        let collector = Collector::start(Behaviour::Accept);
        let endpoint = collector.url();
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("TRACE_ODDS_PER_SECOND", "10000"),
            ("ODDS_FEED", feed),
        ];
        let cluster = Cluster::new(1, &[&PATIENT[..], &variables].concat()).await;
        cluster.supplier.send_at(20);
        let _processor = cluster.start("processor").await;
        let odds = cluster.start("odds").await;
        let _ingest = cluster.start("ingest").await;
        let event = SteadySupplier::event(0);
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(subscribed(odds.odds(), &event).await);
        }
        for client in &mut clients {
            client.next_change().await;
        }
        let topic = cluster.folder.sandbox().value("KAFKA_TOPIC_ODDS").unwrap();
        let (send, process) = (format!("send {topic}"), format!("process {topic}"));
        // Each process exports its spans by itself, in any order.
        let names = ["receive odds", &send, "write hot copy", "process broadcast"];
        let is_whole = |trace: &Trace| {
            let delivered = trace.all("deliver");
            let is_seen = delivered
                .iter()
                .any(|it| it.attributes["subscribers"] == "2");
            is_seen && trace.has_all(&names)
        };
        let trace = collector.until_trace("the trace", is_whole).await;
        // One delivery, although the change arrives on two ways.
        let deliver = trace.one("deliver");
        let read = ["receive odds", &send, &process];
        let broadcast = [&read[..], &["write hot copy", "process broadcast"]].concat();
        let path = trace.path(deliver);
        let by_broadcast = [&broadcast[..], &["deliver"]].concat();
        let by_topic = [&read[..], &["deliver"]].concat();
        assert!(
            path == by_broadcast || feed == "auto" && path == by_topic,
            "{path:?}"
        );
        assert_eq!(trace.path(trace.one("process broadcast")), broadcast);
        let service = |name: &str| trace.all(name)[0].service.as_str();
        assert_eq!(service("receive odds"), "sports-bet-ingest");
        assert_eq!(service("write hot copy"), "sports-bet-processor");
        assert_eq!(service("process broadcast"), "sports-bet-odds");
        assert_eq!(deliver.service, "sports-bet-odds");
        assert_times(&trace);
        assert_private(&collector.spans());
        let sent = trace.one(&send).id.clone();
        until("the batch links to its record", || async {
            let spans = collector.spans();
            let is_it =
                |span: &ReceivedSpan| span.name == "store odds" && span.links.contains(&sent);
            spans.iter().any(is_it).then_some(())
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn bet_is_one_trace_across_processes() {
    let collector = Collector::start(Behaviour::Accept);
    let endpoint = collector.url();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("TRACE_ODDS_PER_SECOND", "0"),
        ("SUPPLIER_URL", endpoint.as_str()),
    ];
    let cluster = Cluster::new(1, &[&PATIENT[..], &variables].concat()).await;
    cluster.supplier.send_at(20);
    let _processor = cluster.start("processor").await;
    let _ingest = cluster.start("ingest").await;
    let wallet = cluster.start("wallet").await;
    let bets = cluster.start("bets").await;
    let _confirmation = cluster.start("confirmation").await;
    deposit(wallet.wallet()).await;
    let url = format!("http://{}/bets", bets.bets());
    until("a bet is accepted", || async {
        let answer = place(&url, &SteadySupplier::event(0), &[]).await;
        (answer.status == 200).then_some(())
    })
    .await;
    let topic = |name: &str| {
        let value = cluster.folder.sandbox().value(name);
        value.unwrap().to_owned()
    };
    let placed = topic("KAFKA_TOPIC_BET_PLACED");
    let confirmed = format!("send {}", topic("KAFKA_TOPIC_BET_CONFIRMED"));
    let (send, process) = (format!("send {placed}"), format!("process {placed}"));
    let path = [
        "POST /bets",
        "place bet",
        &send,
        &process,
        "decide bet",
        &confirmed,
    ];
    let is_whole = |trace: &Trace| trace.has_all(&path) && trace.has("POST /supplier/confirm");
    let trace = collector.until_trace("the trace", is_whole).await;
    assert_eq!(trace.path(trace.one(&confirmed)), path);
    let call = trace.one("POST /supplier/confirm");
    assert_eq!(
        trace.path(call),
        [&path[..4], &["POST /supplier/confirm"]].concat()
    );
    assert_eq!(trace.one("POST /bets").service, "sports-bet-bets");
    assert_eq!(trace.one(&process).service, "sports-bet-confirmation");
    assert_eq!(trace.one(&confirmed).service, "sports-bet-confirmation");
    assert_times(&trace);
    assert_private(&collector.spans());
}

/// A process without a collector records nothing. What it sends on belongs to the traces of others.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn process_without_endpoint_passes_traces_on() {
    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let collector = Collector::start(Behaviour::Accept);
    let endpoint = collector.url();
    let variables = [
        ("TRACE_ODDS_PER_SECOND", "10000"),
        ("ODDS_FEED", "redis"),
        ("SUPPLIER_URL", endpoint.as_str()),
    ];
    let mut cluster = Cluster::new(1, &[&PATIENT[..], &variables].concat()).await;
    cluster.supplier.send_at(20);
    let processor = cluster.start("processor").await;
    let confirmation = cluster.start("confirmation").await;
    cluster.set(ENDPOINT, &endpoint);
    let odds = cluster.start("odds").await;
    let _ingest = cluster.start("ingest").await;
    let wallet = cluster.start("wallet").await;
    let bets = cluster.start("bets").await;
    let event = SteadySupplier::event(0);
    subscribed(odds.odds(), &event).await.next_change().await;
    let topic = cluster.folder.sandbox().value("KAFKA_TOPIC_ODDS").unwrap();
    let send = format!("send {topic}");
    let is_whole = |trace: &Trace| trace.has_all(&[send.as_str(), "process broadcast"]);
    let trace = collector.until_trace("the update's trace", is_whole).await;
    // Of `odds`, of `bets`, or of both.
    for broadcast in trace.all("process broadcast") {
        let path = ["receive odds", &send, "process broadcast"];
        assert_eq!(trace.path(broadcast), path);
    }

    deposit(wallet.wallet()).await;
    let url = format!("http://{}/bets", bets.bets());
    until("a bet is accepted", || async {
        let answer = place(&url, &event, &[]).await;
        (answer.status == 200).then_some(())
    })
    .await;
    let is_placed = |trace: &Trace| trace.has("place bet");
    let trace = collector.until_trace("the bet's trace", is_placed).await;
    let trace_id = &trace.one("place bet").trace;
    until("the supplier is called in this trace", || async {
        let calls = collector.calls();
        let mut headers = calls.iter().flatten();
        headers.any(|it| it.contains(trace_id)).then_some(())
    })
    .await;
    for process in [processor, confirmation] {
        assert!(!process.log().contains("trace_id"), "{}", process.log());
    }
    let services = ["sports-bet-processor", "sports-bet-confirmation"];
    let is_of_them = |span: &ReceivedSpan| services.contains(&span.service.as_str());
    assert!(!collector.spans().iter().any(is_of_them));
}
