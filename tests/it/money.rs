//! Wallets, bets and their confirmation, over real sockets.

mod bets;
mod foreign;
mod held;
mod holds;
mod keys;
mod lost_source;
mod races;
mod settlement;
mod strict;
mod unavailable;
mod wallet;

use std::net::SocketAddr;
use std::process::Output;

use serde_json::{Value, json};

use super::support::{FakeSupplier, SupplierLink, TestPlatform, command, send, until, within};

/// A platform with every money role, and the supplier of its prices. Bets are confirmed by a
/// separate simulator.
struct BetsHarness {
    platform: TestPlatform,
    link: SupplierLink,
    simulator: TestPlatform,
    client: reqwest::Client,
    _supplier: FakeSupplier,
}

/// A response: its status, text and JSON.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    status: u16,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text))
    }

    /// For example `409 ODDS_CHANGED`, or `200` if there is no code.
    fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.text).unwrap_or_default();
        match body["code"].as_str() {
            Some(code) => {
                assert!(
                    body["message"]
                        .as_str()
                        .is_some_and(|message| !message.is_empty()),
                    "{body}"
                );
                format!("{} {code}", self.status)
            }
            None => self.status.to_string(),
        }
    }
}

/// Home 1.5, draw 3.2, away 4.5, then modified by the test.
fn market(event: &str, version: i64, change: impl Fn(&mut Value)) -> String {
    let selection =
        |id: &str, price: f64| json!({"id": id, "name": id, "price": price, "status": "active"});
    let mut frame = json!({
        "event_id": event, "home_team": "Flamengo", "away_team": "Palmeiras", "market": "1x2", "status": "open",
        "selections": [selection("home", 1.5), selection("draw", 3.2), selection("away", 4.5)],
        "updated_at": format!("2025-11-09T21:07:{version:02}Z"), "source": "test-supplier", "version": version,
    });
    change(&mut frame);
    frame.to_string()
}

impl BetsHarness {
    async fn open(simulated: &[(&str, &str)], variables: &[(&str, &str)]) -> BetsHarness {
        BetsHarness::open_with(&[], simulated, variables).await
    }

    /// With further suppliers.
    async fn open_with(
        suppliers: &[&str],
        simulated: &[(&str, &str)],
        variables: &[(&str, &str)],
    ) -> BetsHarness {
        let simulated: Vec<_> = [
            ("ROLE", "simulator"),
            ("SIMULATOR_CONFIRM_REJECT_SHARE", "0"),
        ]
        .iter()
        .filter(|(name, _)| !simulated.iter().any(|(own, _)| own == name))
        .chain(simulated)
        .copied()
        .collect();
        let simulator = TestPlatform::start(&simulated).await;
        let supplier = FakeSupplier::start().await;
        let own = supplier.url();
        let prices = [&[own.as_str()], suppliers].concat().join(",");
        let confirms = format!("http://{}", simulator.simulator());
        let mut all = vec![
            (
                "ROLE",
                "ingest,processor,odds,wallet,bets,confirmation,settlement",
            ),
            ("SUPPLIER_URLS", prices.as_str()),
            ("SUPPLIER_URL", confirms.as_str()),
        ];
        all.extend_from_slice(variables);
        let platform = TestPlatform::start(&all).await;
        let link = supplier.accept().await;
        BetsHarness {
            platform,
            link,
            simulator,
            client: reqwest::Client::new(),
            _supplier: supplier,
        }
    }

    /// Opens a market, and waits until it accepts bets.
    async fn offer(&mut self, event: &str) {
        self.show(market(event, 1, |_| {})).await;
    }

    /// Sends a frame, and waits until the books used for price checks have it.
    async fn show(&mut self, frame: String) {
        let wanted: Value = serde_json::from_str(&frame).unwrap();
        self.link.send(frame).await;
        let path = format!("/v1/events/{}/odds", wanted["event_id"].as_str().unwrap());
        until("the price is shown", || async {
            let odds = self.get(self.platform.odds(), &path).await;
            (odds.status == 200 && odds.json()[0]["version"] == wanted["version"]).then_some(())
        })
        .await;
    }

    async fn post(
        &self,
        address: SocketAddr,
        path: &str,
        body: impl Into<String>,
        key: Option<&str>,
    ) -> Answer {
        post(&self.client, address, path, body, key).await
    }

    async fn wallet(&self, path: &str, body: Value) -> Answer {
        self.post(
            self.platform.wallet(),
            &format!("/wallet/{path}"),
            body.to_string(),
            None,
        )
        .await
    }

    async fn bet(&self, body: &Value, key: Option<&str>) -> Answer {
        self.post(self.platform.bets(), "/bets", body.to_string(), key)
            .await
    }

    async fn get(&self, address: SocketAddr, path: &str) -> Answer {
        answer(self.client.get(format!("http://{address}{path}"))).await
    }

    async fn deposit(&self, user: &str, cents: i64) {
        let body = json!({"userId": user, "amount_cents": cents, "external_ref": "first"});
        assert_eq!(self.wallet("deposit", body).await.code(), "200");
    }

    /// Available and reserved cents.
    async fn balance(&self, user: &str) -> (i64, i64) {
        let wallet = self
            .get(self.platform.wallet(), &format!("/wallet?userId={user}"))
            .await
            .json();
        (
            wallet["balance_cents"].as_i64().unwrap(),
            wallet["reserved_cents"].as_i64().unwrap(),
        )
    }

    /// Waits until a bet is decided, and returns it.
    async fn decided(&self, bet: &Value) -> Value {
        let id = bet["betId"].as_str().unwrap();
        until("a decision", || async {
            let bet = self
                .get(self.platform.bets(), &format!("/bets/{id}"))
                .await
                .json();
            (bet["status"] != "PENDING_CONFIRMATION").then_some(bet)
        })
        .await
    }

    /// Runs a command of the program on the platform's database.
    async fn command(&self, arguments: &[&str]) -> Output {
        let folder = &self.platform.folder;
        let variables = folder.variables();
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let mut command = command(folder.path(), &variables);
        command.args(arguments);
        within("the command ends", command.output()).await.unwrap()
    }

    async fn close(self) {
        self.platform.stop().await;
        self.simulator.stop().await;
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let answer = send(request).await;
    Answer {
        status: answer.status,
        text: answer.text().to_owned(),
    }
}

async fn post(
    client: &reqwest::Client,
    address: SocketAddr,
    path: &str,
    body: impl Into<String>,
    key: Option<&str>,
) -> Answer {
    let mut request = client
        .post(format!("http://{address}{path}"))
        .header("Content-Type", "application/json")
        .body(body.into());
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    answer(request).await
}

/// A bet on home at 1.5.
fn bet_body(user: &str, event: &str, stake: i64) -> Value {
    json!({"userId": user, "eventId": event, "market": "1x2", "selection": "home", "stake_cents": stake, "odd_value": 1.5})
}
