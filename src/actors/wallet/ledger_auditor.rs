//! Maintains the ledger: expires reservations that are not resolved in time, and periodically
//! verifies the whole ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{error, info, warn};

use crate::domain::timestamp::Timestamp;
use crate::runtime::health::HealthCell;
use crate::store::StoreError;
use crate::store::blocking::blocking;
use crate::store::money::{LedgerAudit, Verification};
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::WalletMetrics;

/// How often the auditor queries for expired reservations.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of reservations expired in one call.
const EXPIRE_LIMIT: usize = 100;
/// Delay of the first verification after startup, which gives the database time to become
/// available.
const FIRST_VERIFICATION_DELAY: Duration = Duration::from_secs(10);

/// Limits of the ledger, and how often it is verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AuditorSettings {
    /// How long a reservation may stay unresolved.
    pub reservation_ttl: Duration,
    /// Time between two verifications.
    pub verify_interval: Duration,
    /// How long after its deadline an undecided bet counts as a violation.
    pub grace: Duration,
}

/// The actor that maintains the ledger. Any number of processes may run one for the same ledger.
pub(crate) struct LedgerAuditor {
    store: Arc<dyn LedgerAudit>,
    settings: AuditorSettings,
    metrics: WalletMetrics,
    /// Whether reservations can be expired, to log each cause once.
    expiry: HealthCell,
    log: FaultLog,
}

impl LedgerAuditor {
    /// Maintains the ledger in `store`.
    pub(crate) fn new(
        store: Arc<dyn LedgerAudit>,
        settings: AuditorSettings,
        metrics: WalletMetrics,
    ) -> LedgerAuditor {
        LedgerAuditor {
            store,
            settings,
            metrics,
            expiry: HealthCell::default(),
            log: FaultLog::new(),
        }
    }

    fn expire(&mut self, context: &mut Context<Self>) {
        let store = self.store.clone();
        let now = Timestamp::now();
        let created_before = now.earlier_by(self.settings.reservation_ttl);
        let expiring =
            blocking(move || store.expire_reservations(created_before, EXPIRE_LIMIT, now));
        context.spawn(expiring.into_actor(self).map(|expired, auditor, context| {
            auditor.report_expired(&expired);
            // More reservations may be due: continue immediately.
            let pause = match expired {
                Ok(EXPIRE_LIMIT) => Duration::ZERO,
                _ => EXPIRE_INTERVAL,
            };
            context.run_later(pause, LedgerAuditor::expire);
        }));
    }

    fn report_expired(&self, expired: &Result<usize, StoreError>) {
        match expired {
            Ok(expired) => {
                self.expiry.record_success();
                if *expired > 0 {
                    self.metrics.expired.inc_by(*expired as u64);
                    info!(reservations = *expired; "unresolved reservations expired");
                }
            }
            Err(error) => {
                if self.expiry.record_failure(error)
                    && let Some(repeated) = self.log.failed(&error.to_string())
                {
                    warn!(repeated; "expiring reservations failed: {error}");
                }
            }
        }
    }

    fn verify(&mut self, context: &mut Context<Self>) {
        let store = self.store.clone();
        let now = Timestamp::now();
        let grace = self.settings.grace;
        let began = Instant::now();
        let verifying = blocking(move || store.verify(now, grace));
        context.spawn(
            verifying
                .into_actor(self)
                .map(move |verified, auditor, context| {
                    match verified {
                        Ok(verification) => {
                            auditor.report_verified(&verification, now, began.elapsed())
                        }
                        Err(failure) => {
                            auditor.metrics.verification_failures.inc();
                            warn!("ledger verification could not run: {failure}");
                        }
                    }
                    context.run_later(auditor.settings.verify_interval, LedgerAuditor::verify);
                }),
        );
    }

    fn report_verified(&self, verification: &Verification, now: Timestamp, took: Duration) {
        let metrics = &self.metrics;
        metrics.verifications.inc();
        metrics.verification_seconds.observe(took.as_secs_f64());
        metrics.verified_at.set(now.micros() / 1_000_000);
        let violations = i64::try_from(verification.violations()).unwrap_or(i64::MAX);
        metrics.violations.set(violations);
        for check in &verification.checks {
            if check.violations > 0 {
                let first = check.examples.first().map_or("", String::as_str);
                error!(violations = check.violations; "ledger rule violated: {}: {first}", check.rule);
            }
        }
    }
}

impl Actor for LedgerAuditor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_later(EXPIRE_INTERVAL, LedgerAuditor::expire);
        context.run_later(
            FIRST_VERIFICATION_DELAY.min(self.settings.verify_interval),
            LedgerAuditor::verify,
        );
    }
}
