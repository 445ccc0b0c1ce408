//! The contract of REST, health and metrics.

mod access;
mod caching;
mod contract;
mod cors;
mod errors;
mod events;
mod half_requests;
mod headers;
mod health;
mod metrics;
mod paging;
mod rate_limits;
mod stalling;

use std::net::SocketAddr;

use serde_json::{Value, json};
use sports_bet_platform::config::settings::Role;

use super::support::{
    Database, FakeSupplier, HttpAnswer, SupplierLink, TestPlatform, get_json, original_frame, send,
    until, within,
};

/// A platform and the supplier that feeds it.
struct Fed {
    platform: TestPlatform,
    link: SupplierLink,
    /// Keeps the address that the feed would reconnect to.
    _supplier: FakeSupplier,
}

impl Fed {
    async fn start(variables: &[(&str, &str)]) -> Fed {
        let supplier = FakeSupplier::start().await;
        let platform = TestPlatform::fed_by(&[supplier.url()], variables).await;
        Fed {
            link: supplier.accept().await,
            platform,
            _supplier: supplier,
        }
    }

    /// Sends a frame for each version of an event; versions are a second of supplier time apart.
    async fn send(&mut self, event: &str, versions: impl IntoIterator<Item = i64>) {
        for version in versions {
            self.link
                .send(original_frame(event, &time(version), version))
                .await;
        }
    }

    /// Waits until this many updates have been written to the database since the start.
    async fn stored(&self, updates: u64) {
        let enough = |stored| stored >= updates as f64;
        self.platform
            .until_metric(Role::Processor, "odds_proc_db_writes_total", enough)
            .await;
    }

    fn url(&self, path: &str) -> String {
        self.platform.url(path)
    }

    /// The JSON of a path that answers 200.
    async fn get(&self, path: &str) -> Value {
        let (status, body) = get_json(&self.url(path)).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn database(&self) -> Database {
        Database::of(&self.platform.folder)
    }
}

/// The supplier's time of a version: that many seconds after midnight.
fn time(version: i64) -> String {
    format!(
        "2025-11-09T{:02}:{:02}:{:02}Z",
        version / 3_600,
        version / 60 % 60,
        version % 60
    )
}

/// A market with selections, in the native supplier format.
fn market_frame(
    event: &str,
    market: &str,
    line: Option<f64>,
    prices: &[(&str, f64)],
    version: i64,
) -> String {
    let selections: Vec<_> = prices
        .iter()
        .map(|(id, price)| json!({"id": id, "name": id.to_uppercase(), "price": price, "status": "active"}))
        .collect();
    let mut frame = json!({
        "event_id": event, "home_team": "Flamengo", "away_team": "Palmeiras", "market": market, "status": "open",
        "selections": selections, "updated_at": time(version), "source": "test-supplier", "version": version,
    });
    if let Some(line) = line {
        frame["line"] = json!(line);
    }
    frame.to_string()
}

/// A response.
struct Answer(HttpAnswer);

impl std::ops::Deref for Answer {
    type Target = HttpAnswer;

    fn deref(&self) -> &HttpAnswer {
        &self.0
    }
}

impl Answer {
    async fn of(request: reqwest::RequestBuilder) -> Answer {
        Answer(send(request).await)
    }

    async fn get(url: &str) -> Answer {
        Answer::of(reqwest::Client::new().get(url)).await
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

async fn healthz(address: SocketAddr) -> Answer {
    Answer::get(&format!("http://{address}/healthz")).await
}
