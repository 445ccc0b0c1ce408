//! The supplier that confirms bets, and its records.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::dev::ServerHandle;
use actix_web::web::{Data, Json};
use actix_web::{App, HttpServer, web};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sports_bet_platform::runtime::tls::install_provider;
use uuid::Uuid;

/// The bets that the supplier was asked to confirm, or to cancel.
type Heard = Mutex<BTreeSet<Uuid>>;

/// Confirms every bet.
pub struct BetSupplier {
    heard: Arc<Heard>,
    url: String,
    server: ServerHandle,
}

impl BetSupplier {
    /// Listens on a free port.
    pub fn start() -> BetSupplier {
        let heard = Arc::new(Heard::default());
        let shared = Data::from(heard.clone());
        let routes = move || {
            App::new()
                .app_data(shared.clone())
                .route("/supplier/confirm", web::post().to(confirm))
                .route("/supplier/cancel", web::post().to(cancel))
        };
        let server = HttpServer::new(routes).workers(1).disable_signals();
        let server = server.bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", server.addrs()[0]);
        let running = server.run();
        let server = running.handle();
        actix_web::rt::spawn(running);
        BetSupplier { heard, url, server }
    }

    /// The value for `SUPPLIER_URL`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether it has heard of a bet.
    pub fn has_heard(&self, bet: &str) -> bool {
        bet.parse()
            .is_ok_and(|bet| self.heard.lock().contains(&bet))
    }

    /// The bets that were placed between two moments, by the times in their ids. They may be heard
    /// of later.
    pub fn placed_between(&self, from: Instant, to: Instant) -> Vec<Uuid> {
        let (from, to) = (wall_millis(from), wall_millis(to));
        let heard = self.heard.lock();
        let placed = heard
            .iter()
            .filter(|bet| placed_millis(bet).is_some_and(|at| at > from && at <= to));
        placed.copied().collect()
    }
}

impl Drop for BetSupplier {
    fn drop(&mut self) {
        // Told at once; the future only waits for the end.
        drop(self.server.stop(false));
    }
}

async fn confirm(heard: Data<Heard>, request: Json<Value>) -> Json<Value> {
    record(&heard, &request);
    Json(json!({"status": "CONFIRMED", "providerRef": "1"}))
}

async fn cancel(heard: Data<Heard>, request: Json<Value>) -> Json<Value> {
    record(&heard, &request);
    Json(json!({"status": "CANCELLED"}))
}

fn record(heard: &Heard, request: &Value) {
    let bet = request["betId"].as_str().unwrap().parse().unwrap();
    heard.lock().insert(bet);
}

fn placed_millis(bet: &Uuid) -> Option<u128> {
    let (seconds, nanos) = bet.get_timestamp()?.to_unix();
    Some(u128::from(seconds) * 1_000 + u128::from(nanos) / 1_000_000)
}

fn wall_millis(at: Instant) -> u128 {
    let at = SystemTime::now() - at.elapsed();
    at.duration_since(UNIX_EPOCH).unwrap().as_millis()
}

#[actix_web::test]
async fn bets_are_found_by_their_time() {
    install_provider();
    let supplier = BetSupplier::start();
    let before = Instant::now() - Duration::from_millis(10);
    let bet = Uuid::now_v7();
    let request = reqwest::Client::new()
        .post(format!("{}/supplier/confirm", supplier.url()))
        .header("Content-Type", "application/json")
        .body(json!({"betId": bet}).to_string());
    assert_eq!(request.send().await.unwrap().status(), 200);
    let after = Instant::now();
    assert_eq!(supplier.placed_between(before, after), [bet]);
    assert!(supplier.placed_between(after, after).is_empty());
    assert!(supplier.has_heard(&bet.to_string()));
    assert!(!supplier.has_heard(&Uuid::now_v7().to_string()));
}
