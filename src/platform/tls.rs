//! TLS of the ports for clients: loads the certificate, and replaces it when its files change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use log::{info, warn};

use super::StartError;
use crate::config::Config;
use crate::config::settings::Role;
use crate::runtime::tls::server::ServerCertificate;
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::TlsMetrics;
use crate::telemetry::role;

/// How often the files are read.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// TLS of the ports for clients.
pub(super) struct ClientTls {
    certificate: Option<Arc<ServerCertificate>>,
    metrics: TlsMetrics,
}

impl ClientTls {
    /// Loads the certificate, if one is set and a role of this process has a port for clients.
    pub(super) fn load(config: &Config) -> Result<ClientTls, StartError> {
        let files = config
            .settings
            .tls
            .files()
            .filter(|_| config.runs_any(&Role::WITH_CLIENTS));
        let tls = ClientTls {
            certificate: files
                .map(ServerCertificate::load)
                .transpose()?
                .map(Arc::new),
            metrics: TlsMetrics::new()?,
        };
        if let Some(certificate) = &tls.certificate {
            show_expiry(certificate, &tls.metrics);
        }
        Ok(tls)
    }

    /// The certificate of a role's port for clients. Adds the metrics to those of the role.
    pub(super) fn for_port(
        &self,
        registry: &prometheus::Registry,
    ) -> Result<Option<Arc<ServerCertificate>>, StartError> {
        self.metrics.register(registry)?;
        Ok(self.certificate.clone())
    }

    /// Replaces the certificate whenever its files change. Without a certificate there is nothing
    /// to do.
    pub(super) fn watch(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let certificate = self.certificate.clone()?;
        Some(watch(certificate, self.metrics.clone()))
    }
}

async fn watch(certificate: Arc<ServerCertificate>, metrics: TlsMetrics) {
    let faults = FaultLog::new();
    let mut checks = tokio::time::interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        checks.tick().await;
        let checked = certificate.clone();
        let reloading = tokio::task::spawn_blocking(role::carry(move || checked.reload()));
        let Ok(reloaded) = reloading.await else {
            continue;
        };
        match reloaded {
            Ok(is_new) => {
                if faults.recovered() {
                    info!("the TLS files can be used again");
                }
                if is_new {
                    let expires = show_expiry(&certificate, &metrics);
                    info!(expires:%; "TLS certificate replaced");
                }
            }
            Err(error) => {
                metrics.reload_failures.inc();
                if let Some(repeated) = faults.failed(&error.to_string()) {
                    warn!(repeated; "TLS certificate not replaced, the previous one stays in use: {error}");
                }
            }
        }
    }
}

/// Sets the metric, and returns the date as text.
fn show_expiry(certificate: &ServerCertificate, metrics: &TlsMetrics) -> String {
    let seconds = certificate.not_after().unwrap_or_default();
    metrics
        .not_after
        .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(date).to_string()
}
