//! The gRPC APIs.

mod generated;
mod limits;
mod money;
mod odds;
mod rights;
mod server;
mod watch;

use serde_json::json;

use crate::support::{FakeSupplier, SupplierLink, TestPlatform};

/// Home 1.5, draw 3.2, away 4.5 in the market `1x2` of an event.
fn market(event: &str, version: i64, home: f64) -> String {
    market_of(event, "1x2", version, home)
}

fn market_of(event: &str, market: &str, version: i64, home: f64) -> String {
    let selection =
        |id: &str, price: f64| json!({"id": id, "name": id, "price": price, "status": "active"});
    json!({
        "event_id": event, "home_team": "Flamengo", "away_team": "Palmeiras", "market": market, "status": "open",
        "selections": [selection("home", home), selection("draw", 3.2), selection("away", 4.5)],
        "updated_at": format!("2025-11-09T21:{:02}:{:02}Z", version / 60, version % 60),
        "source": "test-supplier", "version": version,
    })
    .to_string()
}

/// A platform whose prices the test sends.
struct Fixture {
    platform: TestPlatform,
    link: SupplierLink,
    _supplier: FakeSupplier,
    /// Never answers, so bets stay pending.
    _confirming: FakeSupplier,
}

impl Fixture {
    /// With these roles besides those of odds.
    async fn start(roles: &str, variables: &[(&str, &str)]) -> Fixture {
        let supplier = FakeSupplier::start().await;
        let url = supplier.url();
        let confirming = FakeSupplier::start().await;
        let confirms = format!("http://{}", confirming.address());
        let roles = format!("ingest,processor,odds{roles}");
        let mut all = vec![
            ("ROLE", roles.as_str()),
            ("SUPPLIER_URLS", url.as_str()),
            ("SUPPLIER_URL", confirms.as_str()),
            ("BET_CONFIRM_DEADLINE", "10m"),
            ("BET_CONFIRM_TIMEOUT", "10m"),
        ];
        all.extend_from_slice(variables);
        let platform = TestPlatform::start(&all).await;
        let link = supplier.accept().await;
        Fixture {
            platform,
            link,
            _supplier: supplier,
            _confirming: confirming,
        }
    }

    /// Only the roles of odds.
    async fn odds(variables: &[(&str, &str)]) -> Fixture {
        Fixture::start("", variables).await
    }

    /// Sends a frame, and waits until clients are shown it.
    async fn show(&mut self, frame: String) {
        let wanted: serde_json::Value = serde_json::from_str(&frame).unwrap();
        self.link.send(frame).await;
        let event = wanted["event_id"].as_str().unwrap();
        let url = self.platform.url(&format!("/v1/events/{event}/odds"));
        crate::support::until("the price is shown", || async {
            let (status, odds) = crate::support::get_json(&url).await;
            let markets = odds.as_array().cloned().unwrap_or_default();
            let is_shown = markets
                .iter()
                .any(|it| it["version"] == wanted["version"] && it["market"] == wanted["market"]);
            (status == 200 && is_shown).then_some(())
        })
        .await;
    }
}
