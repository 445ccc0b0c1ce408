use std::future::ready;

use actix_web::body::to_bytes;
use futures_util::FutureExt;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::*;

/// A check whose result the test sets.
#[derive(Clone, Default)]
struct Switch(Arc<AtomicBool>);

impl Switch {
    fn set(&self, is_up: bool) {
        self.0.store(is_up, Ordering::Relaxed);
    }

    fn check(&self, name: &str) -> Check {
        let switch = self.0.clone();
        Check::new(name, move || {
            let is_up = switch.load(Ordering::Relaxed);
            ready(is_up.then_some(()).ok_or_else(|| "away".to_owned())).boxed()
        })
    }
}

fn health_of(checks: Vec<Check>, liveness: &Arc<Liveness>) -> web::Data<RoleHealth> {
    let health = RoleHealth::new(checks, liveness.clone(), Registry::new());
    web::Data::new(health.unwrap())
}

async fn readyz(health: &web::Data<RoleHealth>) -> (u16, Value) {
    let answer = readiness(health.clone()).await;
    let status = answer.status().as_u16();
    let body = to_bytes(answer.into_body()).await.unwrap();
    let body = serde_json::from_slice(&body);
    (status, body.unwrap_or_else(|_| json!("ok")))
}

fn unavailable(name: &str, reason: &str) -> (u16, Value) {
    let down = json!([{"name": name, "reason": reason}]);
    (503, json!({"status": "unavailable", "down": down}))
}

#[actix_web::test]
async fn process_is_ready_between_start_and_stop() {
    let liveness = Arc::new(Liveness::default());
    let health = health_of(Vec::new(), &liveness);
    assert_eq!(readyz(&health).await, unavailable("process", "starting"));
    liveness.start();
    assert_eq!(readyz(&health).await, (200, json!("ok")));
    liveness.stop();
    assert_eq!(readyz(&health).await, unavailable("process", "stopping"));
}

#[actix_web::test]
async fn process_without_an_actor_is_not_ready() {
    let liveness = Arc::new(Liveness::default());
    let health = health_of(Vec::new(), &liveness);
    liveness.start();
    liveness.watch("registry", || false);
    let expected = unavailable("registry", "the actor has stopped");
    assert_eq!(readyz(&health).await, expected);
}

/// All processes of a role share their engines: if the loss of one made them unready, no process
/// would be left.
#[actix_web::test]
async fn shared_engine_does_not_make_unready() {
    let liveness = Arc::new(Liveness::default());
    let database = Switch::default();
    let health = health_of(vec![database.check("database")], &liveness);
    liveness.start();
    assert_eq!(readyz(&health).await, (200, json!("ok")));
    assert_eq!(health.down().await.len(), 1, "/healthz reports it");
}

#[actix_web::test]
async fn role_is_ready_once_it_has_loaded() {
    let liveness = Arc::new(Liveness::default());
    let feed = Switch::default();
    let health = health_of(vec![feed.check("feed").needed_at_start()], &liveness);
    liveness.start();
    assert_eq!(readyz(&health).await, unavailable("feed", "away"));
    feed.set(true);
    assert_eq!(readyz(&health).await, (200, json!("ok")));
    feed.set(false);
    assert_eq!(readyz(&health).await, (200, json!("ok")));
}

/// The gauges run the checks as well.
#[actix_web::test]
async fn any_run_of_a_check_counts_as_loaded() {
    let liveness = Arc::new(Liveness::default());
    let feed = Switch::default();
    let health = health_of(vec![feed.check("feed").needed_at_start()], &liveness);
    liveness.start();
    feed.set(true);
    assert_eq!(health.down().await.len(), 0);
    feed.set(false);
    assert_eq!(readyz(&health).await, (200, json!("ok")));
}
