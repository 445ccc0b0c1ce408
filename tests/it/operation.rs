//! Checks the metrics and alerts named in `docker/` and in `docs/runbook.md` against the roles' own
//! `/metrics`.

mod compose;
mod image;
mod kubernetes;
mod logins;
mod measured;
mod promql;

use std::collections::BTreeSet;
use std::path::Path;

use pretty_assertions::assert_eq;
use rstest::rstest;
use serde_json::Value;
use sports_bet_platform::config::Config;
use sports_bet_platform::config::settings::Role;

use crate::support::TestPlatform;
use promql::{Selector, selectors};

/// Created by Prometheus itself, for each target and each alert.
const OF_PROMETHEUS: &[&str] = &["up", "ALERTS"];
/// Added by Prometheus to each series.
const LABELS_OF_PROMETHEUS: &[&str] = &["job", "instance"];

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All values of a key in a YAML file, each on its own line.
fn yaml_values(text: &str, key: &str) -> Vec<String> {
    let lines = text
        .lines()
        .map(|line| line.trim_start().trim_start_matches("- "));
    let values = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    values
        .map(|value| value.trim().to_owned())
        .inspect(|value| assert!(!value.starts_with(['|', '>', '"', '\''])))
        .collect()
}

fn dashboard_expressions(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let own = fields
                .get("expr")
                .and_then(Value::as_str)
                .map(str::to_owned);
            own.into_iter()
                .chain(fields.values().flat_map(dashboard_expressions))
                .collect()
        }
        Value::Array(items) => items.iter().flat_map(dashboard_expressions).collect(),
        _ => Vec::new(),
    }
}

/// Every expression of the rules and of the dashboard.
fn expressions() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&file("docker/grafana/dashboards/platform.json")).unwrap();
    let rules = yaml_values(&file("docker/prometheus/alerts.yml"), "expr");
    rules
        .into_iter()
        .chain(dashboard_expressions(&dashboard))
        .collect()
}

/// The health and metrics port of a role.
fn health_port(role: &str, config: &Config) -> u16 {
    let ports = &config.settings.ports;
    match role {
        "simulator" => ports.metrics_port_supplier,
        "odds" => ports.metrics_port_odds,
        "ingest" => ports.metrics_port_ingest,
        "processor" => ports.metrics_port_processor,
        "wallet" => ports.metrics_port_wallet,
        "bets" => ports.metrics_port_bet,
        "confirmation" => ports.metrics_port_confirmation,
        "settlement" => ports.metrics_port_settlement,
        "gateway" => ports.metrics_port_gateway,
        other => panic!("unknown role {other}"),
    }
}

/// The pages of all roles, and the recording rules.
struct Metrics {
    pages: Vec<(Role, String)>,
    recorded: Vec<String>,
}

impl Metrics {
    async fn of(platform: &TestPlatform) -> Metrics {
        let mut pages = Vec::new();
        for role in Role::ALL {
            pages.push((role, platform.metrics(role).await));
        }
        Metrics {
            pages,
            recorded: yaml_values(&file("docker/prometheus/alerts.yml"), "record"),
        }
    }

    /// Everything in an expression that no role could answer.
    fn complaints(&self, expression: &str) -> Vec<String> {
        match selectors(expression) {
            Ok(found) if found.is_empty() => vec![format!("{expression}: contains no metric")],
            Ok(found) => found
                .iter()
                .flat_map(|selector| self.complaints_of(selector))
                .collect(),
            Err(error) => vec![error],
        }
    }

    fn complaints_of(&self, selector: &Selector) -> Vec<String> {
        let name = &selector.name;
        if self.recorded.contains(name) || name == "ALERTS" {
            return Vec::new();
        }
        let Some((_, operator, jobs)) = selector.matchers.iter().find(|(label, ..)| label == "job")
        else {
            return vec![format!("{name}: has no job matcher")];
        };
        if !["=", "=~"].contains(&operator.as_str()) {
            return vec![format!("{name}: {operator} does not select a role")];
        }
        let ask = |job: &str| match self.pages.iter().find(|(role, _)| role.name() == job) {
            Some((_, page)) => complaints_on(page, selector)
                .into_iter()
                .map(|text| format!("{job}: {text}"))
                .collect(),
            None => vec![format!("{name}: unknown role {job}")],
        };
        jobs.split('|').flat_map(ask).collect()
    }
}

fn complaints_on(page: &str, selector: &Selector) -> Vec<String> {
    let name = &selector.name;
    if OF_PROMETHEUS.contains(&name.as_str()) {
        return Vec::new();
    }
    let has_name = |line: &&str| {
        line.strip_prefix(name.as_str())
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    let series: Vec<&str> = page.lines().filter(has_name).collect();
    if series.is_empty() {
        return vec![format!("no metric {name}")];
    }
    let labels = selector
        .matchers
        .iter()
        .filter(|(label, ..)| !LABELS_OF_PROMETHEUS.contains(&label.as_str()));
    labels
        .flat_map(|(label, _, value)| {
            // A pattern that is not a plain list of words only requires that the label exists.
            let plain = value
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || "_-|".contains(letter));
            let wanted = if plain {
                value
                    .split('|')
                    .map(|value| format!(r#"{label}="{value}""#))
                    .collect()
            } else {
                vec![format!("{label}=\"")]
            };
            wanted
                .into_iter()
                .filter(|wanted| !series.iter().any(|line| line.contains(wanted.as_str())))
        })
        .map(|missing| format!("no {name} with {missing}"))
        .collect()
}

/// Every metric of the alerts and dashboards exists in the role it is queried from.
#[actix_web::test]
async fn every_queried_metric_exists_in_its_role() {
    let platform = TestPlatform::start(&[]).await;
    let metrics = Metrics::of(&platform).await;
    let alerts = file("docker/prometheus/alerts.yml");
    let rules = yaml_values(&alerts, "expr");
    assert_eq!(
        rules.len(),
        yaml_values(&alerts, "alert").len() + yaml_values(&alerts, "record").len()
    );
    let dashboard: Value =
        serde_json::from_str(&file("docker/grafana/dashboards/platform.json")).unwrap();
    let shown = dashboard_expressions(&dashboard);
    assert!(
        rules.len() > 10 && shown.len() > 30,
        "{} rules, {} queries",
        rules.len(),
        shown.len()
    );
    let complaints: Vec<_> = rules
        .iter()
        .chain(&shown)
        .flat_map(|expression| metrics.complaints(expression))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    platform.stop().await;
}

#[actix_web::test]
async fn unknown_metric_label_or_role_is_reported() {
    let platform = TestPlatform::start(&[]).await;
    let metrics = Metrics::of(&platform).await;
    for (expression, complaint) in [
        (
            r#"rate(odds_invented_total{job="odds"}[5m]) > 0"#,
            "odds: no metric odds_invented_total",
        ),
        // A prefix of an existing metric name.
        (
            r#"sum(odds_proc_bus{job="processor"})"#,
            "processor: no metric odds_proc_bus",
        ),
        (
            r#"histogram_quantile(0.9, rate(odds_ws_sessions_bucket{job="odds"}[5m]))"#,
            "odds: no metric odds_ws_sessions_bucket",
        ),
        // Exists, but in another role.
        (
            r#"sum by (group) (odds_proc_bus_lag{job="odds"})"#,
            "odds: no metric odds_proc_bus_lag",
        ),
        (
            r#"process_open_fds{job=~"odds|cashier"}"#,
            "process_open_fds: unknown role cashier",
        ),
        (r#"up{job="nobody"} == 0"#, "up: unknown role nobody"),
        (
            "odds_proc_bus_lag > 1",
            "odds_proc_bus_lag: has no job matcher",
        ),
        (
            r#"odds_ws_sessions{job!="odds"}"#,
            "odds_ws_sessions: != does not select a role",
        ),
        (
            r#"odds_proc_errors_total{job="processor", stage=~"store|stoer"}"#,
            r#"processor: no odds_proc_errors_total with stage="stoer""#,
        ),
        (
            r#"odds_http_requests_total{job="odds", code=~"5.."}"#,
            r#"odds: no odds_http_requests_total with code=""#,
        ),
        ("1 > 2", "1 > 2: contains no metric"),
    ] {
        assert_eq!(metrics.complaints(expression), [complaint], "{expression}");
    }
    platform.stop().await;
}

#[rstest]
#[case::plain("up", &["up"])]
#[case::a_recorded_one("group:lag:sum > 10 and deriv(group:lag:sum[10m]) > 0", &["group:lag:sum", "group:lag:sum"])]
#[case::functions(r#"histogram_quantile(0.99, sum by (le, x) (rate(a_bucket{job="b"}[$__rate_interval])))"#, &["a_bucket"])]
#[case::labels_behind("sum(a) by (b) / on (c) group_left (d) max without (e) (f)", &["a", "f"])]
#[case::words("a and b or c unless d offset 5m > bool 1e3 + Inf", &["a", "b", "c", "d"])]
#[case::strings(r#"label_replace(a{x="} no(thing"}, "b", "$1", 'c', `d`) + b{}"#, &["a", "b"])]
#[case::no_space("sum(a)by(b)+a{x='\\''}", &["a", "a"])]
fn metrics_of_an_expression_are_found(#[case] expression: &str, #[case] names: &[&str]) {
    let found = selectors(expression).unwrap();
    assert_eq!(
        found
            .iter()
            .map(|selector| selector.name.as_str())
            .collect::<Vec<_>>(),
        names
    );
}

#[rstest]
#[case("sum({job=\"a\"})")]
#[case("a{b=\"c")]
#[case("a[5m")]
#[case("a{b}")]
fn unreadable_expression_is_an_error(#[case] expression: &str) {
    assert!(selectors(expression).is_err());
}

#[test]
fn prometheus_scrapes_each_default_port() {
    let text = file("docker/prometheus/prometheus.yml");
    let text = text.split_once("scrape_configs:").unwrap().1;
    let mut expected: Vec<(String, u16)> = Vec::new();
    for line in text.lines() {
        if let Some((_, job)) = line.split_once("job_name: ") {
            expected.push((job.to_owned(), 0));
        } else if let Some((_, port)) = line.split_once("port: ") {
            let names = line
                .split_once("names: [")
                .unwrap()
                .1
                .split(']')
                .next()
                .unwrap();
            let last = expected.last_mut().unwrap();
            assert_eq!(last.0, names, "job and name differ");
            last.1 = port.split(',').next().unwrap().parse().unwrap();
        }
    }
    let config = Config::from_variables(&[]).unwrap();
    let wanted: Vec<_> = expected
        .iter()
        .map(|(job, _)| (job.clone(), health_port(job, &config)))
        .collect();
    assert_eq!(expected, wanted);
    let jobs: BTreeSet<_> = expected.iter().map(|(job, _)| job.as_str()).collect();
    assert_eq!(jobs, Role::ALL.map(Role::name).into());
    // The same targets, for hosts where the names do not resolve through DNS.
    let targets: serde_norway::Value =
        serde_norway::from_str(&file("docker/prometheus/targets.yml")).unwrap();
    let listed = targets.as_sequence().unwrap().iter().map(|group| {
        let target = group["targets"][0].as_str().unwrap();
        (
            group["labels"]["job"].as_str().unwrap().to_owned(),
            target.rsplit(':').next().unwrap().parse().unwrap(),
        )
    });
    assert_eq!(listed.collect::<Vec<(String, u16)>>(), expected);
}

#[test]
fn every_alert_is_tested_and_documented() {
    let names = |path: &str, key: &str| {
        yaml_values(&file(path), key)
            .into_iter()
            .collect::<BTreeSet<_>>()
    };
    let alerts = names("docker/prometheus/alerts.yml", "alert");
    let tests = file("docker/prometheus/alerts_test.yml");
    let page = file("docs/runbook.md");
    let explained: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    assert_eq!(explained, alerts.iter().map(String::as_str).collect());
    for alert in &alerts {
        let fires = tests.contains(&format!("alertname: {alert}\n"));
        let silent = tests.contains(&format!("alertname: {alert}, exp_alerts: [] }}"));
        assert!(fires && silent, "{alert}: fires {fires}, silent {silent}");
    }
}
