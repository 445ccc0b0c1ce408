//! Traces: one for an update from the supplier to the clients, one for a bet up to its decision.

mod cluster;
mod losses;
mod trust;

use std::net::SocketAddr;

use serde_json::json;
use sports_bet_platform::runtime::tls::install_provider;

use super::support::{
    Behaviour, Collector, FakeSupplier, Folder, HttpAnswer, OddsClient, PATIENT, ReceivedSpan,
    ServerProcess, SupplierLink, Trace, get_text, original_frame, send, until,
};

/// The roles of a platform in one process, without a simulator.
const ROLES: &str = "ingest,processor,odds,wallet,bets,confirmation";
const USER: &str = "secret-user-17";
const STAKE: i64 = 123_457;

/// A platform in one process, its supplier, and the collector of its traces.
struct Traced {
    server: ServerProcess,
    link: SupplierLink,
    collector: Collector,
    _supplier: FakeSupplier,
    _folder: Folder,
}

impl Traced {
    async fn start(variables: &[(&str, &str)]) -> Traced {
        Traced::start_with(Collector::start(Behaviour::Accept), variables).await
    }

    async fn start_with(collector: Collector, variables: &[(&str, &str)]) -> Traced {
        install_provider();
        let supplier = FakeSupplier::start().await;
        let folder = Folder::new();
        let (url, endpoint) = (supplier.url(), collector.url());
        let own = folder.variables();
        let mut all: Vec<_> = own
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        all.extend(PATIENT);
        all.extend([
            ("ROLE", ROLES),
            ("SUPPLIER_URLS", &url),
            ("SUPPLIER_URL", &endpoint),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("TRACE_ODDS_PER_SECOND", "10000"),
            ("HTTP_WORKERS_ODDS", "2"),
        ]);
        all.extend_from_slice(variables);
        let server = ServerProcess::start(folder.path(), &all).await;
        let link = supplier.accept().await;
        Traced {
            server,
            link,
            collector,
            _supplier: supplier,
            _folder: folder,
        }
    }

    /// Opens a market, and waits until bets on it are accepted.
    async fn offer(&mut self, event: &str) {
        let frame = original_frame(event, "2025-11-09T21:07:01Z", 1);
        self.link.send(frame).await;
        let url = format!("http://{}/v1/events/{event}/odds", self.server.odds());
        let shown = until("the price is shown", || async {
            (get_text(&url).await.0 == 200).then_some(())
        });
        self.link.live_until(shown).await;
        self.server.until_ready().await;
    }

    async fn deposit(&self) {
        deposit(self.server.wallet()).await;
    }

    /// Places a bet with these headers. While the state of the source is on its way, it is refused.
    async fn bet(&self, event: &str, headers: &[(&str, &str)]) -> HttpAnswer {
        let url = format!("http://{}/bets", self.server.bets());
        until("bets are accepted", || async {
            let answer = place(&url, event, headers).await;
            (!answer.text().contains("MARKET_STALE")).then_some(answer)
        })
        .await
    }
}

async fn deposit(wallet: SocketAddr) {
    install_provider();
    let body = json!({"userId": USER, "amount_cents": 100 * STAKE, "external_ref": "first"});
    let url = format!("http://{wallet}/wallet/deposit");
    let answer = send(reqwest::Client::new().post(url).json(&body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn place(url: &str, event: &str, headers: &[(&str, &str)]) -> HttpAnswer {
    let body = json!({
        "userId": USER, "eventId": event, "market": "1x2", "selection": "home",
        "stake_cents": STAKE, "odd_value": 1.501, "oddsChange": "any",
    });
    let request = reqwest::Client::new().post(url).json(&body);
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    send(request).await
}

/// No attribute names a user, an amount, a price or a team.
fn assert_private(spans: &[ReceivedSpan]) {
    for span in spans {
        let values = span.attributes.values().chain([&span.name]);
        for value in values {
            for secret in [USER, "123457", "1.50", "Flamengo", "Palmeiras"] {
                assert!(!value.contains(secret), "{secret}: {span:?}");
            }
        }
    }
}

/// Each span begins after its parent.
fn assert_times(trace: &Trace) {
    for span in &trace.0 {
        assert!(span.start <= span.end, "{span:?}");
        if let Some(parent) = trace.0.iter().find(|it| it.id == span.parent) {
            assert!(parent.start <= span.start, "{parent:?} {span:?}");
        }
    }
}

async fn subscribed(address: SocketAddr, event: &str) -> OddsClient {
    let mut client = OddsClient::connect(address).await;
    client.subscribe(event).await;
    client.next_of("snapshot").await;
    client
}

#[tokio::test]
async fn update_is_one_trace_up_to_embedded_clients() {
    let mut traced = Traced::start(&[("OTEL_SERVICE_NAME", "all-in-one")]).await;
    traced.offer("E").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(subscribed(traced.server.odds(), "E").await);
    }
    let frame = original_frame("E", "2025-11-09T21:07:02Z", 2);
    traced.link.send(frame).await;
    for client in &mut clients {
        client.next_change().await;
    }
    // Spans are exported in the order in which they end.
    let is_whole = |trace: &Trace| {
        let delivered = trace.all("deliver");
        delivered
            .iter()
            .any(|it| it.attributes["subscribers"] == "3" && trace.path(it)[0] == "receive odds")
    };
    let trace = traced.collector.until_trace("the trace", is_whole).await;

    let deliver = trace.one("deliver");
    if !super::support::are_real() {
        let path = [
            "receive odds",
            "send odds_updates",
            "process odds_updates",
            "deliver",
        ];
        assert_eq!(trace.path(deliver), path);
    }
    assert_eq!(trace.one("receive odds").parent, "");
    assert_times(&trace);
    assert!(trace.0.iter().all(|span| span.service == "all-in-one"));
    assert_eq!(deliver.attributes["event.id"], "E");
    assert_eq!(deliver.attributes["market"], "1x2");
    assert_eq!(deliver.attributes["role"], "odds");

    // The batch that stored it links to its span.
    let mut spans = trace.0.iter();
    let sent = spans.find(|span| span.name.starts_with("send "));
    let sent = sent.unwrap().id.clone();
    let stored = until("the batch", || async {
        let spans = traced.collector.spans();
        spans
            .into_iter()
            .find(|span| span.name == "store odds" && span.links.contains(&sent))
    })
    .await;
    assert_ne!(stored.trace, deliver.trace);
    assert_private(&traced.collector.spans());
}

/// With an order of sources, an update is selected before it reaches its book.
#[tokio::test]
async fn selected_update_is_one_trace() {
    let variables = [("SUPPLIER_PRIORITY", "test-supplier,other")];
    let mut traced = Traced::start(&variables).await;
    traced.offer("E").await;
    let mut client = subscribed(traced.server.odds(), "E").await;
    let frame = original_frame("E", "2025-11-09T21:07:02Z", 2);
    traced.link.send(frame).await;
    client.next_change().await;
    let is_whole = |trace: &Trace| {
        let delivered = trace.all("deliver");
        delivered
            .iter()
            .any(|it| trace.path(it)[0] == "receive odds")
    };
    let trace = traced.collector.until_trace("the trace", is_whole).await;
    let path = trace.path(trace.one("deliver"));
    let steps: Vec<_> = path
        .iter()
        .map(|name| name.split(' ').next().unwrap())
        .collect();
    let selected = ["receive", "send", "process", "send", "process"];
    assert_eq!(steps[..5], selected, "{path:?}");
    if !super::support::are_real() {
        let topics = [path[1], path[2], path[3], path[4]];
        let expected = [
            "send supplier_updates",
            "process supplier_updates",
            "send odds_updates",
            "process odds_updates",
        ];
        assert_eq!(topics, expected);
    }
    assert_times(&trace);
}

/// The path of a bet, and the end of the process right after it: the last spans are exported.
#[tokio::test]
async fn bet_is_one_trace_up_to_its_decision() {
    let mut traced = Traced::start(&[("RUST_LOG", "debug")]).await;
    traced.offer("E").await;
    traced.deposit().await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let answer = traced.bet("E", &[("traceparent", parent)]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.headers.contains_key("traceparent"));
    let bet_id = answer.json()["betId"].as_str().unwrap().to_owned();
    until("the decision is published", || async {
        let page = traced.server.metrics("confirmation").await;
        let published = page.lines().find(|line| line.contains("bet_confirmed"))?;
        (!published.ends_with(" 0")).then_some(())
    })
    .await;
    traced.server.signal("TERM").await;
    assert!(traced.server.ended().await.success());

    let spans = traced.collector.spans();
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let of_bet = |span: &&ReceivedSpan| {
        let status = span.attributes.get("http.response.status_code");
        span.trace == trace_id && status.is_none_or(|status| status == "200")
    };
    let trace = Trace(spans.iter().filter(of_bet).cloned().collect());
    assert_eq!(trace.one("POST /bets").parent, "00f067aa0ba902b7");
    let placed = [
        "POST /bets",
        "place bet",
        "send bet_placed",
        "process bet_placed",
    ];
    let end = |more: &[&'static str]| [&placed[..], more].concat();
    let paths: Vec<_> = trace
        .0
        .iter()
        .map(|span| (span.name.clone(), trace.path(span)))
        .collect();
    let path = |prefix: &str| {
        let found = paths.iter().find(|(name, _)| name.starts_with(prefix));
        found
            .unwrap_or_else(|| panic!("{prefix}: {paths:?}"))
            .1
            .clone()
    };
    if !super::support::are_real() {
        assert_eq!(path("POST /supplier"), end(&["POST /supplier/confirm"]));
        assert_eq!(
            path("send bet_confirmed"),
            end(&["decide bet", "send bet_confirmed"])
        );
    }
    assert_times(&trace);
    let call = trace.one("POST /supplier/confirm");
    let header = format!("00-{trace_id}-{}-01", call.id);
    assert_eq!(traced.collector.calls(), [Some(header)]);
    let with_bet = |span: &&ReceivedSpan| span.attributes.get("bet.id") == Some(&bet_id);
    assert!(trace.0.iter().filter(with_bet).count() >= 5, "{trace:?}");
    assert_private(&spans);

    let log = traced.server.log();
    let decided = log.lines().find(|line| line.contains(": bet decided"));
    let field = format!(" trace_id={trace_id} ");
    assert!(decided.unwrap().contains(&field), "{decided:?}");
    let others = log.lines().filter(|line| line.contains("trace_id"));
    assert!(others.count() < 100, "only lines of the bet have a trace");
}

/// A process without an endpoint, with a traced request: nothing is recorded and nothing answered.
#[tokio::test]
async fn nothing_is_traced_without_endpoint() {
    let mut traced = Traced::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).await;
    traced.offer("E").await;
    traced.deposit().await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = traced.bet("E", &[("traceparent", parent)]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    until("the supplier is called", || async {
        (!traced.collector.calls().is_empty()).then_some(())
    })
    .await;
    assert_eq!(traced.collector.calls(), [None]);
    assert_eq!(traced.collector.spans(), []);
    assert!(!traced.server.log().contains("trace_id"));
}
