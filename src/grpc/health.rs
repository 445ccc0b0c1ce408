//! `grpc.health.v1.Health`, which reports whether a role is ready.

use futures_util::FutureExt;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// The name of the whole server.
const SERVER: &str = "";

/// Reports that a service, and its server, have not started. tonic reports the server as serving until
/// the first report.
pub(super) fn report_start(reporter: &HealthReporter, service: &'static str) {
    for name in [SERVER, service] {
        let reporter = reporter.clone();
        // Completes at once: nobody else has the reporter yet.
        let setting = async move {
            reporter
                .set_service_status(name, ServingStatus::NotServing)
                .await
        };
        let _ = setting.now_or_never();
    }
}

/// Reports the readiness of a service, and of its server, until the server stops. Then the streams
/// of those who watch it end.
pub(super) async fn report(
    mut reporter: HealthReporter,
    service: &'static str,
    mut ready: watch::Receiver<bool>,
    mut stopping: watch::Receiver<bool>,
) {
    let names = [SERVER, service];
    loop {
        let status = match *ready.borrow_and_update() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for name in names {
            reporter.set_service_status(name, status).await;
        }
        tokio::select! {
            changed = ready.changed() => if changed.is_err() { return },
            _ = stopping.wait_for(|stops| *stops) => break,
        }
    }
    for name in names {
        reporter.clear_service_status(name).await;
    }
}
