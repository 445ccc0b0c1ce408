//! Maintains the ledger: expires reservations that are not resolved in time, and periodically
//! verifies the whole ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{error, info, warn};

use crate::domain::timestamp::Timestamp;
use crate::store::blocking::blocking;
use crate::store::money::LedgerAudit;
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
pub struct KeeperSettings {
    /// How long a reservation may stay unresolved.
    pub reservation_ttl: Duration,
    /// Time between two verifications.
    pub verify_interval: Duration,
    /// How long after its deadline an undecided bet counts as a violation.
    pub grace: Duration,
}

/// The actor that maintains the ledger. Any number of processes may run one for the same ledger.
pub struct LedgerAuditor {
    store: Arc<dyn LedgerAudit>,
    settings: KeeperSettings,
    metrics: WalletMetrics,
    /// The last failure, to log each cause once.
    trouble: Option<String>,
    log: FaultLog,
}

impl LedgerAuditor {
    /// Maintains the ledger in `store`.
    pub fn new(
        store: Arc<dyn LedgerAudit>,
        settings: KeeperSettings,
        metrics: WalletMetrics,
    ) -> LedgerAuditor {
        LedgerAuditor {
            store,
            settings,
            metrics,
            trouble: None,
            log: FaultLog::new(),
        }
    }

    fn expire(&mut self, context: &mut Context<Self>) {
        let (store, now) = (self.store.clone(), Timestamp::now());
        let created_before = now.earlier_by(self.settings.reservation_ttl);
        let expiring =
            blocking(move || store.expire_reservations(created_before, EXPIRE_LIMIT, now));
        context.spawn(expiring.into_actor(self).map(|expired, auditor, context| {
            match &expired {
                Ok(0) => {}
                Ok(expired) => {
                    auditor.metrics.expired.inc_by(*expired as u64);
                    info!(reservations = *expired; "unresolved reservations expired");
                }
                Err(_) => {}
            }
            // More reservations may be due: continue immediately.
            let is_full = expired
                .as_ref()
                .is_ok_and(|expired| *expired == EXPIRE_LIMIT);
            auditor.report(
                "expiring reservations failed",
                expired.err().map(|error| error.to_string()),
            );
            let pause = if is_full {
                Duration::ZERO
            } else {
                EXPIRE_INTERVAL
            };
            context.run_later(pause, LedgerAuditor::expire);
        }));
    }

    fn verify(&mut self, context: &mut Context<Self>) {
        let (store, now, grace, began) = (
            self.store.clone(),
            Timestamp::now(),
            self.settings.grace,
            Instant::now(),
        );
        let verifying = blocking(move || store.verify(now, grace));
        context.spawn(verifying.into_actor(self).map(move |verified, auditor, context| {
            let metrics = &auditor.metrics;
            match verified {
                Ok(verification) => {
                    metrics.verifications.inc();
                    metrics.verification_seconds.observe(began.elapsed().as_secs_f64());
                    metrics.verified_at.set(now.micros() / 1_000_000);
                    metrics.violations.set(i64::try_from(verification.violations()).unwrap_or(i64::MAX));
                    for check in verification.checks.iter().filter(|check| check.violations > 0) {
                        let first = check.examples.first().map_or("", String::as_str);
                        error!(violations = check.violations; "ledger rule violated: {}: {first}", check.rule);
                    }
                }
                Err(failure) => {
                    metrics.verification_failures.inc();
                    warn!("ledger verification could not run: {failure}");
                }
            }
            context.run_later(auditor.settings.verify_interval, LedgerAuditor::verify);
        }));
    }

    fn report(&mut self, what: &str, trouble: Option<String>) {
        if let Some(why) = trouble
            .as_ref()
            .filter(|why| self.trouble.as_ref() != Some(why))
            && let Some(repeated) = self.log.failed(why)
        {
            warn!(repeated; "{what}: {why}");
        }
        self.trouble = trouble;
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
