//! The platform within the test's own process, on free ports and a database of its own.

use super::engines::are_real;
use super::{Folder, OddsClient, PATIENT, get_text, positions, until};
use serde_json::Value;
use sports_bet_platform::config::Config;
use sports_bet_platform::config::settings::Role;
use sports_bet_platform::platform::Platform;
use std::net::SocketAddr;

/// A platform that runs in this process. To be used within `#[actix_web::test]`.
pub struct TestPlatform {
    platform: Platform,
    /// Holds the database and what else lasts; kept by [`TestPlatform::stop`] for a second start.
    pub folder: Folder,
}

/// Everything that a test would have to say each time.
const DEFAULTS: &[(&str, &str)] = &[
    ("HTTP_PORT_ODDS", "0"),
    ("HTTP_PORT_SUPPLIER", "0"),
    ("METRICS_PORT_SUPPLIER", "0"),
    ("METRICS_PORT_ODDS", "0"),
    ("METRICS_PORT_INGEST", "0"),
    ("METRICS_PORT_PROCESSOR", "0"),
    ("HTTP_PORT_WALLET", "0"),
    ("HTTP_PORT_BET", "0"),
    ("METRICS_PORT_WALLET", "0"),
    ("METRICS_PORT_BET", "0"),
    ("METRICS_PORT_CONFIRMATION", "0"),
    ("HTTP_WORKERS_ODDS", "2"),
    ("SUPPLIER_RECONNECT_MIN", "10ms"),
    ("SUPPLIER_RECONNECT_MAX", "100ms"),
];

impl TestPlatform {
    /// Every role, with the simulator as the only supplier unless `SUPPLIER_URLS` says otherwise.
    pub async fn start(variables: &[(&str, &str)]) -> TestPlatform {
        TestPlatform::start_in(Folder::new(), variables).await
    }

    /// Ingest, processor and odds, fed by these suppliers.
    pub async fn fed_by(suppliers: &[String], variables: &[(&str, &str)]) -> TestPlatform {
        TestPlatform::start(&TestPlatform::fed(&suppliers.join(","), variables)).await
    }

    /// The variables of [`TestPlatform::fed_by`], for a start in a folder of one's own.
    pub fn fed<'a>(
        suppliers: &'a str,
        variables: &[(&'a str, &'a str)],
    ) -> Vec<(&'a str, &'a str)> {
        let mut all = vec![
            ("ROLE", "ingest,processor,odds"),
            ("SUPPLIER_URLS", suppliers),
        ];
        all.extend_from_slice(variables);
        all
    }

    /// Starts on a database that may be there already.
    pub async fn start_in(folder: Folder, variables: &[(&str, &str)]) -> TestPlatform {
        let platform = TestPlatform::start_at_once_in(folder, variables).await;
        if are_real() {
            platform.until_the_engines_are_there().await;
        }
        platform
    }

    /// As [`TestPlatform::start_in`], but waits for nothing.
    pub async fn start_at_once_in(folder: Folder, variables: &[(&str, &str)]) -> TestPlatform {
        let own = folder.variables();
        let mut all = [DEFAULTS, &PATIENT].concat();
        all.extend(
            own.iter()
                .map(|(variable, value)| (variable.as_str(), value.as_str())),
        );
        all.extend_from_slice(variables);
        let config = Config::from_variables(&all).unwrap();
        TestPlatform {
            platform: Platform::start(&config).await.unwrap(),
            folder,
        }
    }

    /// The real engines are connected to in the background. Waits until nothing is missing but
    /// suppliers.
    async fn until_the_engines_are_there(&self) {
        for address in self.platform.addresses().health.values() {
            until("the engines", || async {
                let (_, body) = get_text(&format!("http://{address}/healthz")).await;
                let down: Value = serde_json::from_str(&body).unwrap_or_default();
                let down = down["down"].as_array().cloned().unwrap_or_default();
                down.iter()
                    .all(|one| one["name"] == "suppliers")
                    .then_some(())
            })
            .await;
        }
    }

    /// Stops gracefully and gives the folder, for a second start. Fails when something had to be
    /// cut off.
    pub async fn stop(self) -> Folder {
        assert!(
            self.platform.stop().await,
            "something was cut off when it stopped"
        );
        if are_real() {
            finished(self.folder).await
        } else {
            self.folder
        }
    }

    /// REST and `/ws/odds`.
    pub fn odds(&self) -> SocketAddr {
        self.platform.addresses().odds.unwrap()
    }

    /// The simulator.
    pub fn simulator(&self) -> SocketAddr {
        self.platform.addresses().simulator.unwrap()
    }

    /// REST of the wallets.
    pub fn wallet(&self) -> SocketAddr {
        self.platform.addresses().wallet.unwrap()
    }

    /// REST of the bets.
    pub fn bets(&self) -> SocketAddr {
        self.platform.addresses().bets.unwrap()
    }

    /// Health and metrics of a role.
    pub fn health(&self, role: Role) -> SocketAddr {
        self.platform.addresses().health[&role]
    }

    /// `http://…` of the odds port.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.odds())
    }

    /// A client of `/ws/odds`.
    pub async fn client(&self) -> OddsClient {
        OddsClient::connect(self.odds()).await
    }

    /// A client that is subscribed to an event and has read its snapshot.
    pub async fn subscriber(&self, event: &str) -> OddsClient {
        let mut client = self.client().await;
        client.subscribe(event).await;
        let snapshot = client.next().await;
        assert_eq!(snapshot["type"], "snapshot", "{snapshot}");
        client
    }

    /// The lag of the live path, as a metric.
    pub fn live_lag(&self) -> String {
        self.folder.sandbox().live_lag()
    }

    /// The lag of the store path, as a metric.
    pub fn store_lag(&self) -> String {
        self.folder.sandbox().store_lag()
    }

    /// A role's page of metrics.
    pub async fn metrics(&self, role: Role) -> String {
        get_text(&format!("http://{}/metrics", self.health(role)))
            .await
            .1
    }

    /// Waits until a metric of a role is what is wanted.
    pub async fn until_metric(&self, role: Role, name: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        until(name, || async {
            let page = self.metrics(role).await;
            super::metric(&page, name).filter(|value| wanted(*value))
        })
        .await
    }
}

/// Kafka keeps what a processor that stops has not done. The next one does it: here, so that a test
/// finds everything done after a stop, whatever it runs on.
async fn finished(folder: Folder) -> Folder {
    let sandbox = folder.sandbox().clone();
    let is_done = || {
        positions(&sandbox, sandbox.store_group())
            .values()
            .all(|(next, end)| next == end)
    };
    if is_done() {
        return folder;
    }
    let next = TestPlatform::start_in(folder, &[("ROLE", "processor")]).await;
    until("the rest is done", || async { is_done().then_some(()) }).await;
    assert!(
        next.platform.stop().await,
        "something was cut off when it stopped"
    );
    next.folder
}
