//! `/metrics`: readable for Prometheus, with the original's names and bounded labels.

use std::collections::{BTreeMap, BTreeSet};

use pretty_assertions::assert_eq;

use super::*;

/// A page of metrics, parsed as Prometheus does.
struct Page {
    help: BTreeMap<String, String>,
    kinds: BTreeMap<String, String>,
    /// `name{labels}` and value.
    samples: BTreeMap<String, f64>,
}

impl Page {
    fn read(text: &str) -> Page {
        assert!(text.ends_with('\n'));
        let mut page = Page {
            help: BTreeMap::new(),
            kinds: BTreeMap::new(),
            samples: BTreeMap::new(),
        };
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap_or((help, ""));
                assert_eq!(
                    page.help.insert(name.to_owned(), help.to_owned()),
                    None,
                    "{name} twice"
                );
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                page.kinds.insert(name.to_owned(), kind.to_owned());
            } else {
                let (series, value) = line
                    .rsplit_once(' ')
                    .unwrap_or_else(|| panic!("no sample: {line}"));
                let value: f64 = value
                    .parse()
                    .unwrap_or_else(|_| panic!("no number: {line}"));
                assert_eq!(
                    page.samples.insert(series.to_owned(), value),
                    None,
                    "{series} twice"
                );
            }
        }
        for series in page.samples.keys() {
            let family = page.family(series);
            assert!(page.kinds.contains_key(&family), "{series} has no type");
            assert!(
                page.help
                    .get(&family)
                    .is_some_and(|help| !help.trim().is_empty()),
                "{series} has no help"
            );
        }
        page
    }

    /// The metric that a sample belongs to.
    fn family(&self, series: &str) -> String {
        let name = series.split('{').next().unwrap();
        let legal = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        assert!(
            name.chars().all(legal) && (series == name || series.ends_with('}')),
            "{series}"
        );
        let parts = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|part| name.strip_suffix(part));
        let histogram = parts.into_iter().find(|name| {
            self.kinds
                .get(*name)
                .is_some_and(|kind| kind == "histogram")
        });
        histogram.unwrap_or(name).to_owned()
    }

    fn families(&self) -> BTreeSet<String> {
        self.samples
            .keys()
            .map(|series| self.family(series))
            .collect()
    }
}

async fn page(platform: &TestPlatform, role: Role) -> Page {
    Page::read(&platform.metrics(role).await)
}

#[actix_web::test]
async fn roles_serve_own_and_process_metrics() {
    let platform = TestPlatform::start(&[]).await;
    let own = |role: Role| -> &[&str] {
        match role {
            Role::Simulator => &["supplier_"],
            Role::Ingest => &["odds_ingest_"],
            Role::Processor => &["odds_proc_"],
            Role::Odds => &[
                "odds_ws_",
                "odds_http_",
                "odds_grpc_",
                "odds_registry_",
                "odds_end_to_end_",
                "odds_feed_",
                "odds_broadcast",
                "odds_mirror_",
                "odds_client_reads_",
                "odds_hold",
                "access_",
            ],
            Role::Wallet => &["wallet_", "access_"],
            Role::Bets => &["bets_", "access_"],
            Role::Confirmation => &["bets_"],
            Role::Settlement => &["settlement_"],
            Role::Gateway => &["gateway_", "access_"],
        }
    };
    for role in Role::ALL {
        let answer = Answer::get(&format!("http://{}/metrics", platform.health(role))).await;
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .starts_with("text/plain; version=0.0.4")
        );
        let families = Page::read(answer.text()).families();
        for name in &families {
            let process = name.starts_with("process_") || name == "sports_bet_build_info";
            assert!(
                process || own(role).iter().any(|own| name.starts_with(own)),
                "{name} is on the page of {}",
                role.name()
            );
        }
        assert!(
            families.contains("process_resident_memory_bytes")
                && families.contains("sports_bet_build_info")
        );
        for prefix in own(role) {
            assert!(
                families.iter().any(|name| name.starts_with(prefix)),
                "{prefix} is on the page of {}",
                role.name()
            );
        }
    }
}

#[actix_web::test]
async fn original_metrics_exist_and_count() {
    let platform = TestPlatform::start(&[("SIMULATOR_RATE", "200")]).await;
    // Until the database is available, waiting for it is counted as errors.
    const STORE_ERRORS: &str = r#"odds_proc_errors_total{stage="store"}"#;
    let before = page(&platform, Role::Processor).await.samples[STORE_ERRORS];
    let more_than_none = |value| value > 0.0;
    for name in ["supplier_ws_connections", "supplier_ws_messages_sent_total"] {
        platform
            .until_metric(Role::Simulator, name, more_than_none)
            .await;
    }
    for name in [
        "odds_proc_messages_consumed_total",
        "odds_proc_cache_sets_total",
        "odds_proc_db_writes_total",
    ] {
        platform
            .until_metric(Role::Processor, name, more_than_none)
            .await;
    }
    let processor = page(&platform, Role::Processor).await;
    assert_eq!(processor.samples[STORE_ERRORS], before);
    platform.stop().await;
}

#[actix_web::test]
async fn known_label_values_start_at_zero() {
    let fed = Fed::start(&[]).await;
    let sandbox = fed.platform.folder.sandbox();
    for (role, name, label, values) in [
        (
            Role::Ingest,
            "odds_ingest_refused_total",
            "reason",
            &["malformed", "bad_price", "future"][..],
        ),
        (
            Role::Ingest,
            "odds_ingest_disconnects_total",
            "reason",
            &["connect", "closed", "silent", "read", "bus"],
        ),
        (
            Role::Processor,
            "odds_proc_errors_total",
            "stage",
            &[
                "decode",
                "cache",
                "store",
                "dead_letter",
                "hydrate",
                "apply",
            ],
        ),
        (
            Role::Processor,
            "odds_proc_updates_rejected_total",
            "reason",
            &["older", "duplicate", "wrong_event"],
        ),
        (
            Role::Processor,
            "odds_proc_pruned_rows_total",
            "table",
            &["odds_history", "dead_letters"],
        ),
        (
            Role::Odds,
            "odds_ws_closes_total",
            "reason",
            &["slow", "client", "connection lost", "server is going away"],
        ),
        (
            Role::Odds,
            "odds_ws_refused_upgrades_total",
            "reason",
            &["ORIGIN_NOT_ALLOWED", "TOO_MANY_SESSIONS"],
        ),
        (
            Role::Odds,
            "odds_ws_refused_messages_total",
            "code",
            &["BAD_JSON", "RATE_LIMITED"],
        ),
        (
            Role::Odds,
            "odds_http_requests_total",
            "status",
            &["200", "404", "503"],
        ),
    ] {
        let page = page(&fed.platform, role).await;
        for value in values {
            let series = format!("{name}{{{label}=\"{value}\"}}");
            assert_eq!(page.samples.get(&series), Some(&0.0), "{series}");
        }
    }
    let page = page(&fed.platform, Role::Processor).await;
    for series in [sandbox.live_lag(), sandbox.store_lag()] {
        assert_eq!(page.samples.get(&series), Some(&0.0), "{series}");
    }
}

#[actix_web::test]
async fn labels_do_not_grow_with_load() {
    let mut fed = Fed::start(&[]).await;
    let mut clients = Vec::new();
    let mut series = Vec::new();
    let mut sent = 0;
    for events in [10, 200] {
        for place in sent..events {
            fed.send(&format!("EVENT_{place}"), [1]).await;
        }
        sent = events;
        fed.stored(events).await;
        for place in (0..events).step_by(10) {
            clients.push(fed.platform.subscriber(&format!("EVENT_{place}")).await);
            fed.get(&format!("/v1/events/EVENT_{place}/odds")).await;
            Answer::get(&fed.url(&format!("/v1/events/no_{place}/odds"))).await;
        }
        let mut all = BTreeSet::new();
        for role in [Role::Ingest, Role::Processor, Role::Odds] {
            all.extend(page(&fed.platform, role).await.samples.into_keys());
        }
        series.push(all);
    }
    assert_eq!(series[0], series[1]);
}

#[actix_web::test]
async fn queue_depths_return_to_zero() {
    let mut fed = Fed::start(&[]).await;
    let _client = fed.platform.subscriber("E").await;
    fed.send("E", 1..=300).await;
    fed.stored(300).await;
    for (role, name) in [
        (Role::Ingest, "odds_ingest_bus_depth"),
        (Role::Ingest, "odds_ingest_publisher_depth"),
        (Role::Processor, &fed.platform.live_lag()),
        (Role::Processor, &fed.platform.store_lag()),
        (
            Role::Processor,
            r#"odds_proc_mailbox_depth{actor="cache_writer"}"#,
        ),
        (Role::Processor, "odds_proc_cache_pending"),
        (Role::Odds, "odds_registry_depth"),
        (Role::Odds, "odds_ws_stalled_sessions"),
    ] {
        fed.platform
            .until_metric(role, name, |depth| depth == 0.0)
            .await;
    }
    let odds = page(&fed.platform, Role::Odds).await;
    assert_eq!(odds.samples["odds_ws_sessions"], 1.0);
    let processor = page(&fed.platform, Role::Processor).await;
    // If the store was faster than the book, the book loads updates that the bus then delivers
    // again.
    let known: f64 = ["older", "duplicate"]
        .iter()
        .map(|reason| {
            processor.samples[&format!("odds_proc_updates_rejected_total{{reason=\"{reason}\"}}")]
        })
        .sum();
    assert_eq!(
        processor.samples["odds_proc_updates_applied_total"] + known,
        300.0
    );
    assert_eq!(
        processor.samples["odds_proc_messages_consumed_total"],
        300.0
    );
    assert_eq!(processor.samples["odds_proc_books"], 1.0);
}

#[actix_web::test]
async fn embedded_bus_reports_full_under_lock() {
    let mut fed = Fed::start(&[
        ("EMBEDDED_BUS_CAPACITY", "20"),
        ("EMBEDDED_BUS_PARTITIONS", "1"),
    ])
    .await;
    let lock = fed.database().lock();
    fed.send("E", 1..=100).await;
    fed.platform
        .until_metric(Role::Ingest, "odds_ingest_bus_depth", |depth| depth >= 19.0)
        .await;
    drop(lock);
    fed.stored(100).await;
    fed.platform
        .until_metric(Role::Ingest, "odds_ingest_bus_depth", |depth| depth == 0.0)
        .await;
    let page = page(&fed.platform, Role::Ingest).await;
    assert!(page.samples["odds_ingest_bus_wait_seconds_total"] > 0.0);
    assert_eq!(page.samples["odds_ingest_updates_published_total"], 100.0);
}
