//! Readiness, lag and latency as metrics: alerts must not depend on anybody requesting `/healthz`.

use std::collections::BTreeSet;

use pretty_assertions::assert_eq;
use reqwest::Method;
use sports_bet_platform::config::settings::Role;
use sports_bet_platform::http::odds::routes;
use sports_bet_platform::http::{bets, gateway, wallet};
use sports_bet_platform::runtime::tls::install_provider;
use sports_bet_platform::simulator;

use super::{Metrics, expressions, file};
use crate::support::{Cluster, FakeSupplier, PrivateEngine, TestPlatform, metric, until};

/// The gauge follows the checks by itself: nobody requests `/healthz` here.
#[actix_web::test]
async fn readiness_is_measured_without_probes() {
    let supplier = FakeSupplier::start().await;
    let url = supplier.url();
    drop(supplier);
    let platform = TestPlatform::fed_by(std::slice::from_ref(&url), &[]).await;
    let suppliers = r#"process_ready{component="suppliers"}"#;
    let bus = r#"process_ready{component="bus"}"#;
    platform
        .until_metric(Role::Ingest, bus, |ready| ready == 1.0)
        .await;
    assert_eq!(
        metric(&platform.metrics(Role::Ingest).await, suppliers),
        Some(0.0),
        "no supplier is connected"
    );
    let address = url
        .strip_prefix("ws://")
        .unwrap()
        .strip_suffix("/ws")
        .unwrap();
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let accepting = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        tokio_tungstenite::accept_async(stream).await.unwrap()
    });
    platform
        .until_metric(Role::Ingest, suppliers, |ready| ready == 1.0)
        .await;
    drop(accepting.await.unwrap());
    platform
        .until_metric(Role::Ingest, suppliers, |ready| ready == 0.0)
        .await;
    for role in [Role::Ingest, Role::Processor, Role::Odds] {
        platform
            .until_metric(role, r#"process_ready{component="process"}"#, |ready| {
                ready == 1.0
            })
            .await;
    }
    platform.stop().await;
}

/// `odds` cut off from Redis: the two series that `NotReady` and `FeedStale` use.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn lost_redis_shows_in_metrics() {
    let redis = PrivateEngine::up("redis").await;
    let cluster = Cluster::new(1, &redis.variables()).await;
    let _processor = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let (cache, feed) = (r#"process_ready{component="cache"}"#, "odds_feed_live");
    let becomes = async |name: &str, wanted: f64| {
        until(name, async || {
            odds.metric("odds", name)
                .await
                .filter(|value| *value == wanted)
        })
        .await;
    };
    becomes(cache, 1.0).await;
    becomes(feed, 1.0).await;
    redis.kill().await;
    becomes(cache, 0.0).await;
    becomes(feed, 0.0).await;
    redis.start().await;
    becomes(cache, 1.0).await;
    becomes(feed, 1.0).await;
}

/// Embedded, since on the real engines every test has its own group names anyway.
#[actix_web::test]
async fn embedded_renamed_groups_keep_their_alerts() {
    let groups = [
        ("KAFKA_GROUP_LIVE", "b-live"),
        ("KAFKA_GROUP_STORE", "b-store"),
        ("KAFKA_GROUP_CONFIRMATION", "b-confirm"),
    ];
    let platform = TestPlatform::start(&groups).await;
    let page = platform.metrics(Role::Processor).await;
    for (group, purpose) in [("b-live", "live"), ("b-store", "store")] {
        let series = format!(r#"odds_proc_bus_lag{{group="{group}",purpose="{purpose}"}}"#);
        assert!(metric(&page, &series).is_some(), "{series}");
    }
    let metrics = Metrics::of(&platform).await;
    let complaints: Vec<_> = expressions()
        .iter()
        .flat_map(|expression| metrics.complaints(expression))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    platform.stop().await;
}

/// A group or topic name in a rule or a panel stops matching once an operator renames it.
#[test]
fn no_expression_names_a_group_or_topic() {
    for expression in expressions() {
        for label in ["group=", "topic=", "group!", "topic!"] {
            assert!(!expression.contains(label), "{expression}");
        }
    }
}

async fn send(method: &Method, url: &str, body: &str) {
    let request = reqwest::Client::new()
        .request(method.clone(), url)
        .header("content-type", "application/json");
    request.body(body.to_owned()).send().await.unwrap();
}

/// The labels of the latency series with a non-zero count.
fn measured(page: &str) -> BTreeSet<String> {
    let series = page
        .lines()
        .filter_map(|line| line.split_once("_http_request_duration_seconds_count{"));
    series
        .filter(|(_, rest)| !rest.ends_with(" 0"))
        .map(|(_, rest)| rest.rsplit_once("} ").unwrap().0.to_owned())
        .collect()
}

fn labels(method: &str, route: &str, status: &str) -> String {
    format!(r#"method="{method}",route="{route}",status="{status}""#)
}

#[actix_web::test]
async fn latency_is_measured_by_route_template() {
    install_provider();
    let platform = TestPlatform::start(&[]).await;
    let odds = platform.odds();
    let all = [
        (Role::Odds, odds, routes::ROUTES),
        (Role::Wallet, platform.wallet(), wallet::ROUTES),
        (Role::Bets, platform.bets(), bets::ROUTES),
        (Role::Simulator, platform.simulator(), simulator::ROUTES),
        (Role::Gateway, platform.gateway(), gateway::ROUTES),
    ];
    for (role, address, routes) in all {
        for (template, method) in routes {
            let path = template
                .replace("{id}", "secret-id")
                .replace("{market}", "secret-market");
            send(
                &method.parse().unwrap(),
                &format!("http://{address}{path}?userId=secret-user"),
                "{}",
            )
            .await;
        }
        for path in [
            "/secret-path",
            "/v1/secret-path",
            "/wallet/secret-path",
            "/bets/secret/path",
        ] {
            send(&Method::GET, &format!("http://{address}{path}"), "").await;
        }
        send(
            &"INVENTED".parse().unwrap(),
            &format!("http://{address}/secret-path"),
            "",
        )
        .await;
        let page = platform.metrics(role).await;
        let measured = measured(&page);
        for (template, method) in routes {
            let mut statuses = ["2xx", "4xx", "5xx"]
                .iter()
                .map(|status| labels(method, template, status));
            assert!(
                statuses.any(|labels| measured.contains(&labels)),
                "{role:?}: {method} {template}: {measured:#?}"
            );
        }
        assert!(
            measured.contains(&labels("GET", "other", "4xx")),
            "{role:?}: {measured:#?}"
        );
        assert!(
            measured.contains(&labels("other", "other", "4xx")),
            "{role:?}: {measured:#?}"
        );
        assert!(
            !page.contains("secret") && !page.contains("INVENTED"),
            "{role:?}: a client can choose labels"
        );
    }
    let client = platform.client().await;
    let socket = labels("GET", "/ws/odds", "1xx");
    assert!(measured(&platform.metrics(Role::Odds).await).contains(&socket));
    drop(client);
    platform.stop().await;
}

/// A metric that is in no panel, in no rule and on no documentation page warns nobody.
#[actix_web::test]
async fn every_metric_is_used_somewhere() {
    let platform = TestPlatform::start(&[]).await;
    let pages =
        ["operations", "runbook", "failure-modes"].map(|page| file(&format!("docs/{page}.md")));
    let places = expressions().join("\n") + &pages.concat();
    let mut unseen = BTreeSet::new();
    for role in Role::ALL {
        let page = platform.metrics(role).await;
        let names = page.lines().filter_map(|line| {
            line.strip_prefix("# TYPE ")?
                .split(' ')
                .next()
                .map(str::to_owned)
        });
        unseen.extend(
            names.filter(|name| !name.starts_with("process_") && !places.contains(name.as_str())),
        );
    }
    assert_eq!(unseen, BTreeSet::new());
    platform.stop().await;
}

#[test]
fn diesel_commands_overwrite_no_schema() {
    for path in ["diesel.toml", "migrations/diesel.postgres.toml"] {
        let writes = file(path)
            .lines()
            .any(|line| line.trim_start().starts_with("file"));
        assert!(
            !writes,
            "{path}: `migration revert --all` would empty the schema"
        );
    }
}
