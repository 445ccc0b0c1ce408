//! The platform inside the test process, on free ports and with its own database.

use super::engines::are_real;
use super::{Folder, OddsClient, PATIENT, get_text, positions, until};
use serde_json::Value;
use sports_bet_platform::config::Config;
use sports_bet_platform::config::settings::Role;
use sports_bet_platform::platform::{Addresses, Platform};
use std::net::SocketAddr;

/// A platform running in this process. Use it within `#[actix_web::test]`.
pub struct TestPlatform {
    platform: Platform,
    /// Holds the database and all other persistent data; returned by [`TestPlatform::stop`] for a
    /// second start.
    pub folder: Folder,
}

/// Settings that every test needs.
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
    ("METRICS_PORT_SETTLEMENT", "0"),
    ("GRPC_PORT_ODDS", "0"),
    ("GRPC_PORT_WALLET", "0"),
    ("GRPC_PORT_BETS", "0"),
    ("HTTP_PORT_GATEWAY", "0"),
    ("METRICS_PORT_GATEWAY", "0"),
    ("HTTP_WORKERS_ODDS", "2"),
    ("SIMULATOR_MATCH_DURATION", "0s"),
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

    /// The variables of [`TestPlatform::fed_by`], for a start in an existing folder.
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

    /// Starts on a database that may exist already.
    pub async fn start_in(folder: Folder, variables: &[(&str, &str)]) -> TestPlatform {
        let platform = TestPlatform::start_at_once_in(folder, variables).await;
        if are_real() {
            platform.until_the_engines_are_there().await;
        }
        platform
    }

    /// Like [`TestPlatform::start_in`], without waiting.
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

    /// Connections to the real engines are opened in the background. Waits until all readiness
    /// checks except those of suppliers pass.
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

    /// Lets the clients move elsewhere, as before a stop by SIGTERM.
    pub async fn drain(&self) {
        self.platform.drain().await;
    }

    /// Stops gracefully and returns the folder for a second start. Panics if something had to be
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

    /// The addresses it listens on.
    pub fn addresses(&self) -> &Addresses {
        self.platform.addresses()
    }

    /// The address of REST and `/ws/odds`.
    pub fn odds(&self) -> SocketAddr {
        self.platform.addresses().odds.unwrap()
    }

    /// The simulator's address.
    pub fn simulator(&self) -> SocketAddr {
        self.platform.addresses().simulator.unwrap()
    }

    /// The address of the wallet API.
    pub fn wallet(&self) -> SocketAddr {
        self.platform.addresses().wallet.unwrap()
    }

    /// The address of the bets API.
    pub fn bets(&self) -> SocketAddr {
        self.platform.addresses().bets.unwrap()
    }

    /// The address of the gateway.
    pub fn gateway(&self) -> SocketAddr {
        self.platform.addresses().gateway.unwrap()
    }

    /// The address of a role's health and metrics.
    pub fn health(&self, role: Role) -> SocketAddr {
        self.platform.addresses().health[&role]
    }

    /// An `http://` URL on the odds port.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.odds())
    }

    /// A client of `/ws/odds`.
    pub async fn client(&self) -> OddsClient {
        OddsClient::connect(self.odds()).await
    }

    /// A client that has subscribed to an event and read its snapshot.
    pub async fn subscriber(&self, event: &str) -> OddsClient {
        let mut client = self.client().await;
        client.subscribe(event).await;
        let snapshot = client.next().await;
        assert_eq!(snapshot["type"], "snapshot", "{snapshot}");
        client
    }

    /// The lag of the live path, as a metric name.
    pub fn live_lag(&self) -> String {
        self.folder.sandbox().live_lag()
    }

    /// The lag of the store path, as a metric name.
    pub fn store_lag(&self) -> String {
        self.folder.sandbox().store_lag()
    }

    /// A role's metrics page.
    pub async fn metrics(&self, role: Role) -> String {
        get_text(&format!("http://{}/metrics", self.health(role)))
            .await
            .1
    }

    /// Waits until a metric of a role satisfies a condition; returns its value.
    pub async fn until_metric(&self, role: Role, name: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        until(name, || async {
            let page = self.metrics(role).await;
            super::metric(&page, name).filter(|value| wanted(*value))
        })
        .await
    }
}

/// Records that a stopping processor has not processed stay in Kafka for the next one. This runs a
/// processor until they are done, so that after a stop all work is finished on any engine.
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
    until("all records are processed", || async {
        is_done().then_some(())
    })
    .await;
    assert!(
        next.platform.stop().await,
        "something was cut off when it stopped"
    );
    next.folder
}
