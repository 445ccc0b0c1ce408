//! A market whose source is lost is shown as suspended and stale, and takes no bets; other markets
//! are not affected.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::{Answer, BetsHarness, bet_body, market, post};
use crate::support::{Cluster, Folder, OddsTopic, ServerProcess, get_json, until};

/// Suspends the markets of a silent supplier soon, but not before a busy machine has shown them open.
const QUICK: &[(&str, &str)] = &[
    ("SUPPLIER_STALE_AFTER", "5s"),
    ("SUPPLIER_PING_INTERVAL", "50ms"),
];

/// What REST shows of a market, and whether it accepts bets.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    status: String,
    is_stale: bool,
    bet: String,
}

impl Shown {
    fn of(odds: &Value, bet: &Answer) -> Shown {
        let market = &odds[0];
        Shown {
            status: market["status"].as_str().unwrap_or("none").to_owned(),
            is_stale: market["stale"].as_bool().unwrap_or(false),
            bet: bet.code(),
        }
    }

    fn open() -> Shown {
        Shown {
            status: "open".to_owned(),
            is_stale: false,
            bet: "200".to_owned(),
        }
    }

    fn lost() -> Shown {
        Shown {
            status: "suspended".to_owned(),
            is_stale: true,
            bet: "409 MARKET_STALE".to_owned(),
        }
    }
}

impl BetsHarness {
    async fn until_shown(&self, expected: &Shown) {
        until(&format!("{expected:?}"), || async {
            let odds = self.get(self.platform.odds(), "/v1/events/E/odds").await;
            let bet = self.bet(&bet_body("u", "E", 100), None).await;
            (odds.status == 200 && Shown::of(&odds.json(), &bet) == *expected).then_some(())
        })
        .await;
    }
}

#[actix_web::test]
async fn silent_supplier_stops_bets() {
    let mut harness = BetsHarness::open(&[], QUICK).await;
    harness.deposit("u", 1_000_000).await;
    for version in 1..3 {
        harness.link.send(market("E", version, |_| {})).await;
        harness.until_shown(&Shown::open()).await;
        // The test answers no pings.
        harness.until_shown(&Shown::lost()).await;
    }
    harness.close().await;
}

/// The test is the `ingest`: it publishes updates, and reports about their source.
struct TestIngest {
    /// The state that it reports: an index into `STATES`. It reports nothing if there is none.
    state: Arc<AtomicU8>,
}

const STATES: [&str; 3] = ["live", "recovering", "stale"];
const SILENT: u8 = 3;

impl TestIngest {
    /// Reports nothing until it is told to.
    fn start(folder: &Folder) -> TestIngest {
        let topic = OddsTopic::existing(folder, "KAFKA_TOPIC_SOURCE_STATUS");
        let state = Arc::new(AtomicU8::new(SILENT));
        let current = state.clone();
        actix_web::rt::spawn(async move {
            loop {
                if let Some(state) = STATES.get(usize::from(current.load(Ordering::SeqCst))) {
                    let report = json!({"source": "test-supplier", "reporter": "test", "state": state, "at": "2026-01-01T00:00:00Z"});
                    let record = (b"test-supplier/test".to_vec(), report.to_string().into());
                    topic.publish(vec![record]).await;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        TestIngest { state }
    }

    fn report(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }
}

/// `odds` and `bets` in their own processes.
struct Readers {
    odds: ServerProcess,
    bets: ServerProcess,
    client: reqwest::Client,
}

impl Readers {
    async fn shown(&self) -> Shown {
        let path = format!("http://{}/v1/events/E/odds", self.odds.odds());
        let body = bet_body("u", "E", 100).to_string();
        let bet = post(&self.client, self.bets.bets(), "/bets", body, None).await;
        Shown::of(&get_json(&path).await.1, &bet)
    }

    async fn until_shown(&self, expected: &Shown) {
        until(&format!("{expected:?}"), || async {
            (self.shown().await == *expected).then_some(())
        })
        .await;
    }
}

/// The states of sources reach the readers with the heartbeats. A source that was never reported is
/// trusted, as that of an `ingest` of an earlier version.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn reported_source_decides_over_redis() {
    let cluster = Cluster::new(1, &[("SOURCE_SILENCE", "2s")]).await;
    let updates = OddsTopic::make(&cluster.folder).await;
    let processor = cluster.start("processor").await;
    let (wallet, odds) = (cluster.start("wallet").await, cluster.start("odds").await);
    let bets = cluster.start("bets").await;
    let client = reqwest::Client::new();
    let deposit = json!({"userId": "u", "amount_cents": 1_000_000, "external_ref": "d"});
    let path = "/wallet/deposit";
    let deposited = post(&client, wallet.wallet(), path, deposit.to_string(), None).await;
    assert_eq!(deposited.code(), "200");
    let readers = Readers { odds, bets, client };
    let frame = market("E", 1, |_| {});
    updates.publish(vec![(b"E".to_vec(), frame.into())]).await;
    readers.until_shown(&Shown::open()).await;
    assert_eq!(
        processor
            .metric("processor", r#"odds_proc_sources{state="live"}"#)
            .await,
        Some(0.0)
    );
    let ingest = TestIngest::start(&cluster.folder);
    for state in 0..SILENT {
        ingest.report(state);
        let expected = if state == 0 {
            Shown::open()
        } else {
            Shown::lost()
        };
        let series = format!(
            r#"odds_proc_sources{{state="{}"}}"#,
            STATES[usize::from(state)]
        );
        until("the report is read", || async {
            (processor.metric("processor", &series).await == Some(1.0)).then_some(())
        })
        .await;
        readers.until_shown(&expected).await;
    }
    ingest.report(0);
    readers.until_shown(&Shown::open()).await;
    ingest.report(SILENT);
    readers.until_shown(&Shown::lost()).await;
    // The processor restarts, and has only the last report of the topic, which is live.
    drop(processor);
    let _processor = cluster.start("processor").await;
    readers.until_shown(&Shown::lost()).await;
    ingest.report(0);
    readers.until_shown(&Shown::open()).await;
}
