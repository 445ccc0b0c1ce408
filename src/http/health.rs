//! `/healthz`, `/readyz`, `/livez` and `/metrics` of one role.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::http::header::{self, CacheDirective};
use actix_web::{HttpResponse, web};
use futures_util::future::{BoxFuture, join_all};
use log::error;
use parking_lot::Mutex;
use prometheus::{Encoder, IntGaugeVec, Opts, Registry, TextEncoder};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::routes::open_resource;

/// Timeout of a check, after which its component counts as down.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the gauges of the checks are updated: as often as Prometheus reads them.
const READY_INTERVAL: Duration = Duration::from_secs(5);
/// How often readiness is reported to others than HTTP clients.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// The component that is not ready while the process is stopping.
const PROCESS: &str = "process";
/// Why it is not ready then.
const STOPPING: &str = "stopping";

/// A dependency that a role needs in order to work.
pub(crate) struct Check {
    name: String,
    run: Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
    /// For a check of what a role loads at its start: whether it has passed once.
    has_passed: Option<AtomicBool>,
}

impl Check {
    /// A check that returns what is wrong.
    pub(crate) fn new<F>(name: impl Into<String>, run: F) -> Check
    where
        F: Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    {
        Check {
            name: name.into(),
            run: Box::new(run),
            has_passed: None,
        }
    }

    /// Also keeps the role from getting clients until the check has passed once. A later failure does
    /// not: it may concern every process of the role.
    pub(crate) fn needed_at_start(mut self) -> Check {
        self.has_passed = Some(AtomicBool::new(false));
        self
    }

    /// Runs the check. An error says what is wrong.
    async fn result(&self) -> Result<(), String> {
        let result = tokio::time::timeout(CHECK_TIMEOUT, (self.run)()).await;
        let result = result.unwrap_or_else(|_| Err(format!("no answer within {CHECK_TIMEOUT:?}")));
        if let (Ok(()), Some(has_passed)) = (&result, &self.has_passed) {
            has_passed.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Why the role has not started, if it needs this check for that and it has never passed.
    async fn missing_at_start(&self) -> Option<Down> {
        let has_passed = self.has_passed.as_ref()?;
        if has_passed.load(Ordering::Relaxed) {
            return None;
        }
        self.result().await.err().map(|reason| Down {
            name: self.name.clone(),
            reason,
        })
    }
}

/// An actor's name, and whether it runs.
type Watched = (&'static str, Box<dyn Fn() -> bool + Send + Sync>);

/// The actors that the process cannot work without, and whether it has started and is stopping.
#[derive(Default)]
pub(crate) struct Liveness {
    actors: Mutex<Vec<Watched>>,
    started: AtomicBool,
    stopping: AtomicBool,
}

impl Liveness {
    /// Watches an actor; `runs` returns whether its mailbox is open.
    pub(crate) fn watch(
        &self,
        actor: &'static str,
        runs: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        self.actors.lock().push((actor, Box::new(runs)));
    }

    /// The actors that have stopped.
    pub(crate) fn ended(&self) -> Vec<&'static str> {
        let actors = self.actors.lock();
        actors
            .iter()
            .filter(|(_, runs)| !runs())
            .map(|(actor, _)| *actor)
            .collect()
    }

    /// Marks the process as started: every port is open.
    pub(crate) fn start(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// Marks the process as stopping, and so as not ready.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the process is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Why the process takes no clients, apart from its actors.
    fn phase_problem(&self) -> Option<&'static str> {
        if self.is_stopping() {
            Some(STOPPING)
        } else if self.started.load(Ordering::Relaxed) {
            None
        } else {
            Some("starting")
        }
    }

    /// The actors that have stopped, as failures.
    fn down(&self) -> Vec<Down> {
        let ended = self.ended().into_iter();
        ended
            .map(|actor| Down {
                name: actor.to_owned(),
                reason: "the actor has stopped".to_owned(),
            })
            .collect()
    }
}

/// What the health and metrics port of a role serves.
pub(crate) struct RoleHealth {
    checks: Vec<Check>,
    liveness: Arc<Liveness>,
    registry: Registry,
    ready: IntGaugeVec,
    /// Whether the role is ready, for others.
    is_ready: Option<watch::Sender<bool>>,
}

impl RoleHealth {
    /// The checks and metrics of a role, and the actors of its process.
    pub(crate) fn new(
        checks: Vec<Check>,
        liveness: Arc<Liveness>,
        registry: Registry,
    ) -> prometheus::Result<RoleHealth> {
        let ready = Opts::new(
            "process_ready",
            "Readiness by component, as named in /healthz: 1 if ready, else 0",
        );
        let ready = IntGaugeVec::new(ready, &["component"])?;
        registry.register(Box::new(ready.clone()))?;
        // 0 until the first check completes.
        for component in checks
            .iter()
            .map(|check| check.name.as_str())
            .chain([PROCESS])
        {
            ready.with_label_values(&[component]);
        }
        Ok(RoleHealth {
            checks,
            liveness,
            registry,
            ready,
            is_ready: None,
        })
    }

    /// Also reports whether the role is ready, as `/readyz` says, while [`RoleHealth::report`] runs.
    pub(crate) fn reporting_to(self, is_ready: Option<watch::Sender<bool>>) -> RoleHealth {
        RoleHealth { is_ready, ..self }
    }

    /// Runs all checks concurrently and updates the gauges.
    async fn down(&self) -> Vec<Down> {
        let runs = self
            .checks
            .iter()
            .map(|check| async { (check.name.as_str(), check.result().await) });
        let stopping = self.liveness.is_stopping().then(|| STOPPING.to_owned());
        let process = (PROCESS, stopping.map_or(Ok(()), Err));
        let results = join_all(runs).await.into_iter().chain([process]);
        results
            .filter_map(|(name, result)| {
                self.ready
                    .with_label_values(&[name])
                    .set(i64::from(result.is_ok()));
                result.err().map(|reason| Down {
                    name: name.to_owned(),
                    reason,
                })
            })
            .collect()
    }

    /// Why the role should get no new clients. Nothing that all processes of a role share counts: the
    /// loss of the database would take every one of them out of service.
    async fn unready(&self) -> Vec<Down> {
        let mut down = self.liveness.down();
        down.extend(self.liveness.phase_problem().map(|reason| Down {
            name: PROCESS.to_owned(),
            reason: reason.to_owned(),
        }));
        let checks = self.checks.iter().map(Check::missing_at_start);
        down.extend(join_all(checks).await.into_iter().flatten());
        down
    }

    /// Reports whether the role is ready, if a receiver is registered.
    pub(crate) async fn report(&self) {
        let Some(is_ready) = &self.is_ready else {
            return;
        };
        loop {
            // Checks that were running when the process began to stop must not undo that.
            let now = self.unready().await.is_empty() && !self.liveness.is_stopping();
            is_ready.send_if_modified(|before| std::mem::replace(before, now) != now);
            tokio::time::sleep(REPORT_INTERVAL).await;
        }
    }

    /// Keeps the gauges up to date, so that an alert does not depend on requests to /healthz, and a
    /// scrape waits for no check.
    pub(crate) async fn watch(&self) {
        let mut ticks = tokio::time::interval(READY_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.down().await;
        }
    }
}

#[derive(Serialize)]
struct Unavailable {
    status: &'static str,
    down: Vec<Down>,
}

#[derive(Serialize)]
struct Down {
    name: String,
    reason: String,
}

/// Routes of a role's health and metrics port.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(open_resource("/healthz", health))
        .service(open_resource("/readyz", readiness))
        .service(open_resource("/livez", liveness))
        .service(open_resource("/metrics", metrics));
}

/// 200 `ok`, or 503 with what is down: for people and alerts.
async fn health(health: web::Data<RoleHealth>) -> HttpResponse {
    answer(health.down().await)
}

/// 200 `ok`, or 503 with why the role should get no clients: for load balancers.
async fn readiness(health: web::Data<RoleHealth>) -> HttpResponse {
    answer(health.unready().await)
}

/// 200 `ok` while the actors run; 503 if only a restart helps.
async fn liveness(health: web::Data<RoleHealth>) -> HttpResponse {
    answer(health.liveness.down())
}

fn no_store() -> header::CacheControl {
    header::CacheControl(vec![CacheDirective::NoStore])
}

fn answer(down: Vec<Down>) -> HttpResponse {
    if down.is_empty() {
        HttpResponse::Ok()
            .insert_header(no_store())
            .content_type(header::ContentType::plaintext())
            .body("ok")
    } else {
        HttpResponse::ServiceUnavailable()
            .insert_header(no_store())
            .json(Unavailable {
                status: "unavailable",
                down,
            })
    }
}

/// The role's metrics as Prometheus text.
async fn metrics(health: web::Data<RoleHealth>) -> HttpResponse {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&health.registry.gather(), &mut text) {
        Ok(()) => HttpResponse::Ok()
            .insert_header(no_store())
            .content_type(encoder.format_type())
            .body(text),
        Err(failure) => {
            error!("cannot encode metrics: {failure}");
            HttpResponse::InternalServerError()
                .insert_header(no_store())
                .finish()
        }
    }
}

#[cfg(test)]
mod tests;
