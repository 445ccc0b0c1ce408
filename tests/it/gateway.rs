//! The gateway: the services of its own process, and those of another one.

mod access;
mod answers;
mod fake_service;
mod forwarding;
mod lost_service;
mod original;
mod sockets;

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::support::{FakeSupplier, OddsClient, SupplierLink, TestPlatform, until};

/// Where the services behind the gateway run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Services {
    /// In the gateway's process.
    Mounted,
    /// In another process; here, in a second platform.
    Forwarded,
}

const SERVICES: &str = "simulator,ingest,processor,odds,wallet,bets,confirmation";

/// A platform behind a gateway, and the supplier of its prices. Its simulator confirms every bet.
struct Behind {
    services: TestPlatform,
    /// If it has a process of its own.
    gateway: Option<TestPlatform>,
    link: SupplierLink,
    _supplier: FakeSupplier,
}

impl Behind {
    async fn start(place: Services, variables: &[(&str, &str)]) -> Behind {
        let supplier = FakeSupplier::start().await;
        let url = supplier.url();
        let with_gateway = format!("{SERVICES},gateway");
        let mut all = vec![
            (
                "ROLE",
                match place {
                    Services::Mounted => with_gateway.as_str(),
                    Services::Forwarded => SERVICES,
                },
            ),
            ("SUPPLIER_URLS", url.as_str()),
            ("SIMULATOR_CONFIRM_REJECT_SHARE", "0"),
        ];
        all.extend_from_slice(variables);
        let services = TestPlatform::start(&all).await;
        let link = supplier.accept().await;
        let gateway = match place {
            Services::Mounted => None,
            Services::Forwarded => Some(gateway_to(&services, variables).await),
        };
        Behind {
            services,
            gateway,
            link,
            _supplier: supplier,
        }
    }

    /// The address of the gateway.
    fn gateway(&self) -> SocketAddr {
        self.gateway.as_ref().unwrap_or(&self.services).gateway()
    }

    fn socket_url(&self) -> String {
        format!("ws://{}/api/odds/ws/odds", self.gateway())
    }

    async fn client(&self) -> OddsClient {
        OddsClient::connect_to(&self.socket_url()).await
    }

    /// Sends a version of a market, and waits until the gateway shows it.
    async fn show(&mut self, event: &str, version: u64) {
        self.link.send(market(event, version)).await;
        let url = format!("http://{}/api/odds/v1/events/{event}/odds", self.gateway());
        until("the price is shown", || async {
            let answer = reqwest::get(&url).await.unwrap();
            let odds: Value = answer.json().await.unwrap();
            (odds[0]["version"] == version).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        if let Some(gateway) = self.gateway {
            gateway.stop().await;
        }
        self.services.stop().await;
    }
}

/// A gateway in front of the services of another platform.
async fn gateway_to(services: &TestPlatform, variables: &[(&str, &str)]) -> TestPlatform {
    let addresses = [services.odds(), services.wallet(), services.bets()];
    gateway_of(addresses, variables).await
}

/// A gateway that forwards everything to one address.
async fn gateway_before(address: SocketAddr, variables: &[(&str, &str)]) -> TestPlatform {
    gateway_of([address; 3], variables).await
}

/// A gateway in front of odds, wallet and bets at these addresses.
async fn gateway_of(addresses: [SocketAddr; 3], variables: &[(&str, &str)]) -> TestPlatform {
    let [odds, wallet, bets] = addresses.map(|address| format!("http://{address}"));
    let mut all = vec![
        ("ROLE", "gateway"),
        ("GATEWAY_ODDS_URL", odds.as_str()),
        ("GATEWAY_WALLET_URL", &wallet),
        ("GATEWAY_BETS_URL", &bets),
    ];
    all.extend_from_slice(variables);
    TestPlatform::start(&all).await
}

/// Home 1.5, draw 3.2, away 4.5.
fn market(event: &str, version: u64) -> String {
    let selection =
        |id: &str, price: f64| json!({"id": id, "name": id, "price": price, "status": "active"});
    json!({
        "event_id": event, "home_team": "Flamengo", "away_team": "Palmeiras", "market": "1x2", "status": "open",
        "selections": [selection("home", 1.5), selection("draw", 3.2), selection("away", 4.5)],
        "updated_at": format!("2025-11-09T21:{:02}:{:02}Z", version / 60, version % 60),
        "source": "test-supplier", "version": version,
    })
    .to_string()
}
