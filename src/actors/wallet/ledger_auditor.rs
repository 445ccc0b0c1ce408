//! Keeps the ledger: ends reservations that nobody decides, and looks at the whole from time to
//! time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{error, info, warn};

use crate::domain::timestamp::Timestamp;
use crate::runtime::blocking::blocking;
use crate::store::money::MoneyStore;
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::WalletMetrics;

/// How often reservations that are too old are looked for.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(1);
/// How many are ended at a time.
const EXPIRE_LIMIT: usize = 100;
/// The first look at the whole comes so long after the start, when the database has had time to be
/// there.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// What is kept, and how often it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct KeeperSettings {
    /// How long a reservation may stay undecided.
    pub reservation_ttl: Duration,
    /// How often the whole is looked at.
    pub verify_interval: Duration,
    /// A bet may stay undecided for so much longer than its deadline before it counts as forgotten.
    pub grace: Duration,
}

/// The actor. Any number of them, in any number of processes, may keep one ledger.
pub struct LedgerAuditor {
    store: Arc<dyn MoneyStore>,
    settings: KeeperSettings,
    metrics: WalletMetrics,
    /// The last thing that kept it from its work, told once.
    trouble: Option<String>,
    log: FaultLog,
}

impl LedgerAuditor {
    /// Keeps the ledger in `store`.
    pub fn new(
        store: Arc<dyn MoneyStore>,
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
        let made_before = now.earlier_by(self.settings.reservation_ttl);
        let expiring = blocking(move || store.expire_reservations(made_before, EXPIRE_LIMIT, now));
        context.spawn(expiring.into_actor(self).map(|expired, keeper, context| {
            match &expired {
                Ok(0) => {}
                Ok(expired) => {
                    keeper.metrics.expired.inc_by(*expired as u64);
                    info!(reservations = *expired; "reservations expired, nobody decided them");
                }
                Err(_) => {}
            }
            // More are waiting: go on at once.
            let is_full = expired
                .as_ref()
                .is_ok_and(|expired| *expired == EXPIRE_LIMIT);
            keeper.tell(
                "reservations that are too old were not ended",
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
        context.spawn(verifying.into_actor(self).map(move |verified, keeper, context| {
            let metrics = &keeper.metrics;
            match verified {
                Ok(verification) => {
                    metrics.verifications.inc();
                    metrics.verification_seconds.observe(began.elapsed().as_secs_f64());
                    metrics.verified_at.set(now.micros() / 1_000_000);
                    metrics.violations.set(i64::try_from(verification.violations()).unwrap_or(i64::MAX));
                    for check in verification.checks.iter().filter(|check| check.violations > 0) {
                        let first = check.examples.first().map_or("", String::as_str);
                        error!(violations = check.violations; "the ledger is wrong: {}: {first}", check.rule);
                    }
                }
                Err(failure) => {
                    metrics.verification_failures.inc();
                    warn!("the ledger was not looked at: {failure}");
                }
            }
            context.run_later(keeper.settings.verify_interval, LedgerAuditor::verify);
        }));
    }

    fn tell(&mut self, what: &str, trouble: Option<String>) {
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
            FIRST_LOOK.min(self.settings.verify_interval),
            LedgerAuditor::verify,
        );
    }
}
