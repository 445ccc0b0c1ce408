//! Who decides that a request is traced.

use super::*;
use crate::support::grpc::{BetsApi, call, channel, v1};
use crate::support::{QUIET, command};

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

impl Traced {
    /// The address of the gRPC API of bets.
    fn grpc_bets(&self) -> SocketAddr {
        let log = self.server.log();
        let line = log.lines().find_map(|line| line.split_once("gRPC: "));
        let mut ports = line.unwrap().1.split(", ");
        let address = ports.find_map(|it| it.strip_prefix("bets at "));
        address.unwrap().parse().unwrap()
    }

    /// A gateway in a process of its own, in front of the services.
    async fn gateway(&self, folder: &Folder, more: &[(&str, &str)]) -> ServerProcess {
        let services = [self.server.odds(), self.server.wallet(), self.server.bets()];
        let [odds, wallet, bets] = services.map(|address| format!("http://{address}"));
        let own = folder.variables();
        let mut all: Vec<_> = own
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        all.extend([
            ("ROLE", "gateway"),
            ("GATEWAY_ODDS_URL", odds.as_str()),
            ("GATEWAY_WALLET_URL", wallet.as_str()),
            ("GATEWAY_BETS_URL", bets.as_str()),
        ]);
        all.extend_from_slice(more);
        ServerProcess::start(folder.path(), &all).await
    }

    /// Whether a bet with a sampled `traceparent` is traced.
    async fn follows(&self, headers: &[(&str, &str)]) -> bool {
        let before = self.collector.calls().len();
        let headers = [&[("traceparent", SAMPLED)], headers].concat();
        let answer = self.bet("E", &headers).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        until("the supplier is called", || async {
            (self.collector.calls().len() > before).then_some(())
        })
        .await;
        tokio::time::sleep(QUIET).await;
        let spans = self.collector.spans();
        let is_traced = spans.iter().any(|span| span.trace == TRACE);
        assert_eq!(self.collector.calls()[before].is_some(), is_traced);
        is_traced
    }
}

#[tokio::test]
async fn flag_of_stranger_is_ignored() {
    let mut traced = Traced::start(&[("OTEL_TRACES_SAMPLER_ARG", "0")]).await;
    traced.offer("E").await;
    traced.deposit().await;
    assert!(!traced.follows(&[]).await);
}

#[tokio::test]
async fn flag_of_trusted_proxy_counts() {
    let variables = [
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let mut traced = Traced::start(&variables).await;
    traced.offer("E").await;
    traced.deposit().await;
    assert!(traced.follows(&[]).await);
}

/// A bet by gRPC is traced like one by REST, with the `traceparent` of its metadata.
#[tokio::test]
async fn metadata_of_trusted_proxy_counts() {
    for (is_trusted, proxies) in [(true, "127.0.0.1"), (false, "192.0.2.1")] {
        let variables = [
            ("OTEL_TRACES_SAMPLER_ARG", "0"),
            ("TRUSTED_PROXIES", proxies),
        ];
        let mut traced = Traced::start(&variables).await;
        traced.offer("E").await;
        traced.deposit().await;
        let api = BetsApi::new(channel(traced.grpc_bets()).await);
        until("the bet is accepted", || {
            let mut api = api.clone();
            async move {
                let bet = call(grpc_bet(), &[("traceparent", SAMPLED)]);
                api.place_bet(bet).await.ok()
            }
        })
        .await;
        until("the supplier is called", || async {
            (!traced.collector.calls().is_empty()).then_some(())
        })
        .await;
        traced.server.signal("TERM").await;
        assert!(traced.server.ended().await.success());
        let spans = traced.collector.spans();
        let of_bet: Vec<_> = spans.into_iter().filter(|it| it.trace == TRACE).collect();
        assert_eq!(of_bet.is_empty(), !is_trusted, "{of_bet:?}");
        assert_private(&of_bet);
        if is_trusted {
            let trace = Trace(of_bet);
            let status = |it: &&ReceivedSpan| it.attributes["http.response.status_code"] == "200";
            let placed = trace
                .0
                .iter()
                .filter(|it| it.name == "PlaceBet")
                .find(status);
            assert_eq!(placed.unwrap().parent, "00f067aa0ba902b7");
            assert!(!trace.one("decide bet").parent.is_empty());
        }
    }
}

fn grpc_bet() -> v1::PlaceBetRequest {
    v1::PlaceBetRequest {
        user_id: USER.to_owned(),
        event_id: "E".to_owned(),
        market: Some(v1::MarketKey {
            name: "1x2".to_owned(),
            line: None,
        }),
        selection_id: "home".to_owned(),
        stake_cents: STAKE,
        price: Some(v1::Price {
            price_thousandths: 1_501,
            text: String::new(),
        }),
        odds_change: v1::OddsChange::Any.into(),
    }
}

/// The gateway trusts no stranger either, although the service behind it trusts the gateway.
#[tokio::test]
async fn gateway_decides_for_strangers() {
    let variables = [
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
        ("OTEL_SERVICE_NAME", "services"),
    ];
    let mut traced = Traced::start(&variables).await;
    traced.offer("E").await;
    traced.deposit().await;
    let endpoint = traced.collector.url();
    let folder = Folder::new();
    let place_at = async |gateway: &ServerProcess| {
        let url = format!("http://{}/api/bets/bets", gateway.gateway());
        let answer = place(&url, "E", &[("traceparent", SAMPLED)]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let export = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str());

    let silent = traced.gateway(&folder, &[]).await;
    place_at(&silent).await;
    let none = ("OTEL_TRACES_SAMPLER_ARG", "0");
    let refusing = traced.gateway(&folder, &[export, none]).await;
    place_at(&refusing).await;
    until("the supplier is called", || async {
        (traced.collector.calls().len() == 2).then_some(())
    })
    .await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(traced.collector.calls(), [None, None]);
    let of_bets = |span: &ReceivedSpan| span.name.contains("bet");
    assert!(!traced.collector.spans().iter().any(of_bets));

    // The decision of the gateway holds behind it, too.
    let mut sampling = traced.gateway(&folder, &[export]).await;
    place_at(&sampling).await;
    let names = ["POST /api/bets", "POST /bets", "place bet", "decide bet"];
    let is_whole = |trace: &Trace| trace.has_all(&names);
    let trace = traced.collector.until_trace("the trace", is_whole).await;
    let path = trace.path(trace.one("place bet"));
    assert_eq!(path, ["POST /api/bets", "POST /bets", "place bet"]);
    assert_eq!(trace.one("POST /api/bets").service, "sports-bet-gateway");
    assert_eq!(trace.one("POST /bets").service, "services");
    assert_eq!(trace.one("POST /api/bets").trace, TRACE);

    // No other request is traced.
    for path in ["/api/odds/v1/events", "/api/bets/bets?userId=u"] {
        let url = format!("http://{}{path}", sampling.gateway());
        let read = reqwest::Client::new().get(url);
        let answer = send(read.header("traceparent", SAMPLED)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    sampling.signal("TERM").await;
    assert!(sampling.ended().await.success());
    let spans = traced.collector.spans();
    let of_gateway = spans.iter().filter(|it| it.service == "sports-bet-gateway");
    let names: Vec<_> = of_gateway.map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["POST /api/bets"]);
}

/// Otherwise anybody could fill the collector.
#[tokio::test]
async fn refused_credentials_are_not_traced() {
    let variables = [
        ("AUTH", "required"),
        (
            "AUTH_JWT_SECRET",
            "the shared secret of this test, of 32 bytes or more",
        ),
        ("ODDS_PUBLIC", "true"),
    ];
    let mut traced = Traced::start(&variables).await;
    traced.offer("E").await;
    // A gateway does not check credentials: the service behind it does.
    let endpoint = traced.collector.url();
    let folder = Folder::new();
    let export = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    let gateway = traced.gateway(&folder, &export).await;
    let urls = [
        format!("http://{}/bets", traced.server.bets()),
        format!("http://{}/api/bets/bets", gateway.gateway()),
    ];
    for url in &urls {
        for headers in [&[][..], &[("authorization", "Bearer x.y.z")]] {
            let answer = place(url, "E", headers).await;
            assert_eq!(answer.status, 401, "{}", answer.text());
        }
    }
    for mut process in [gateway, traced.server] {
        process.signal("TERM").await;
        assert!(process.ended().await.success());
    }
    let spans = traced.collector.spans();
    assert!(!spans.is_empty(), "odds are traced");
    assert!(!spans.iter().any(|span| span.name.starts_with("POST")));
}

/// A process without a collector records nothing, but those behind it may.
#[tokio::test]
async fn trusted_flag_is_passed_on_without_endpoint() {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        ("TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let mut traced = Traced::start(&variables).await;
    traced.offer("E").await;
    traced.deposit().await;
    let answer = traced.bet("E", &[("traceparent", SAMPLED)]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let call = until("the supplier is called", || async {
        traced.collector.calls().into_iter().next()
    });
    let call = call.await.expect("the call belongs to the trace");
    assert!(call.contains(TRACE) && call.ends_with("-01"), "{call}");
    assert_eq!(traced.collector.spans(), []);
}

#[tokio::test]
async fn flag_of_service_key_counts() {
    let secret = "the shared secret of this test, of 32 bytes or more";
    let variables = [
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ("AUTH", "required"),
        ("AUTH_JWT_SECRET", secret),
        ("AUTH_JWT_AUDIENCE", "this-test"),
        ("ODDS_PUBLIC", "true"),
    ];
    let mut traced = Traced::start(&variables).await;
    // The tables are up to date after that.
    traced.offer("E").await;
    let own = traced._folder.variables();
    let own: Vec<_> = own
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut create = command(traced._folder.path(), &own);
    create.args(["key", "create", "--note", "test", "--scope"]);
    create.arg("odds:read,wallet:move,bets:write");
    let output = create.output().await.unwrap();
    let key = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(key.starts_with("sbk_"), "{key} {errors}");
    let key = ("X-Api-Key", key.as_str());
    let body = json!({"userId": USER, "amount_cents": 100 * STAKE, "external_ref": "first"});
    let url = format!("http://{}/wallet/deposit", traced.server.wallet());
    until("the key is known", || async {
        let deposit = reqwest::Client::new().post(&url).json(&body);
        (send(deposit.header(key.0, key.1)).await.status == 200).then_some(())
    })
    .await;
    assert!(traced.follows(&[key]).await);
}
