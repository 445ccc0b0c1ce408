//! The `confirmation` role: sends bets to the supplier and writes its answers to the database.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::StartError;
use super::builder::{HUB_MAILBOX, PlatformBuilder};
use super::checks::{check, check_bus, check_group, check_store};
use super::engines::{BetTopics, Stores};
use super::money::{MAX_TOGETHER, OUTBOX_LEASE};
use crate::actors::bets::bet_consumer::{Confirmer, ConfirmerSettings};
use crate::actors::bets::canceller::{Canceller, CancellerSettings};
use crate::actors::bets::confirmation::{BetConfirmation, ConfirmationSettings};
use crate::actors::bets::decision::{BetDecisions, DeciderSettings};
use crate::actors::bets::overdue_sweeper::{BetSweeper, SweeperSettings};
use crate::actors::bets::supplier_client::{GuardSettings, SupplierClient};
use crate::config::settings::Role;
use crate::runtime::backoff::BackoffPolicy;
use crate::runtime::circuit_breaker::BreakerPolicy;
use crate::runtime::clock::Clock;
use crate::supplier::confirm::HttpSupplier;
use crate::telemetry::metrics::ConfirmationMetrics;

/// Default supplier address, used if none is configured and no simulator runs in this process.
const DEFAULT_SUPPLIER: &str = "http://127.0.0.1:8081";
/// How far the consumer reads past a bet that waits for its supplier: records per bet that may be
/// in flight.
const READ_AHEAD_PER_BET: u64 = 16;
/// Grace period after a bet's deadline before the sweeper rejects it.
const SWEEP_GRACE: Duration = Duration::from_secs(1);
/// Maximum number of bets per sweep query.
const SWEEP_BATCH: usize = 200;
/// Maximum number of cancel requests in flight.
const CANCELS_AT_ONCE: usize = 8;
/// How long this process leases a cancel.
const CANCEL_HOLD: Duration = Duration::from_secs(30);
/// Backoff between cancel attempts for one bet.
const CANCEL_RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(200),
    most: Duration::from_secs(60),
};

impl PlatformBuilder<'_> {
    /// Starts the actors that confirm bets.
    pub(super) fn start_confirmation(
        &mut self,
        stores: &Stores,
        topics: &BetTopics,
    ) -> Result<(), StartError> {
        let metrics = ConfirmationMetrics::new()?;
        let (settings, clock) = (&self.settings.confirmation, Clock::system());
        let url = self.supplier_url()?;
        let ca_file = self.settings.suppliers.supplier_ca_file.as_deref();
        let supplier = HttpSupplier::new(&url, settings.bet_confirm_timeout, ca_file)
            .map_err(StartError::Confirm)?;
        let guard = GuardSettings {
            timeout: settings.bet_confirm_timeout,
            breaker: BreakerPolicy {
                failures: settings.bet_confirm_breaker_failures,
                pause: settings.bet_confirm_breaker_pause,
            },
        };
        let supplier = Arc::new(SupplierClient::new(
            Arc::new(supplier),
            guard,
            clock.clone(),
            metrics.clone(),
        ));
        let retry = BackoffPolicy {
            first: settings.bet_confirm_retry_min,
            most: settings.bet_confirm_retry_max,
        };
        let at_once = settings.bet_confirm_concurrency;
        let (turns, users) = (self.turns.clone(), self.user_turns.clone());

        let (relay, outbox) = self.start_relay(
            "confirmation relay",
            stores,
            topics,
            metrics.outbox_metrics(),
        );
        let arbiter = self.arbiter();
        let cancelling = CancellerSettings {
            at_once: CANCELS_AT_ONCE,
            retry: CANCEL_RETRY,
            hold: CANCEL_HOLD,
        };
        let canceller = Canceller::new(
            stores.money.clone(),
            supplier.clone(),
            cancelling,
            clock.clone(),
            metrics.clone(),
        );
        let canceller = self.start("canceller", &arbiter, HUB_MAILBOX, canceller);
        let decider = || {
            let (relay, canceller) = (relay.clone().recipient(), canceller.clone().recipient());
            let (turns, users, together) = (turns.clone(), users.clone(), MAX_TOGETHER);
            let deciding = DeciderSettings {
                turns,
                together,
                users,
                lease: OUTBOX_LEASE,
            };
            BetDecisions::new(
                deciding,
                stores.money.clone(),
                relay,
                canceller,
                clock.clone(),
                metrics.clone(),
            )
        };
        let sweeping = SweeperSettings {
            grace: SWEEP_GRACE,
            batch: SWEEP_BATCH,
        };
        let sweeper = BetSweeper::new(
            stores.money.clone(),
            decider(),
            sweeping,
            clock.clone(),
            metrics.clone(),
        );
        self.start("bet sweeper", &arbiter, 1, sweeper);

        let topic = topics.placed.name().to_owned();
        let confirmation = BetConfirmation::new(
            ConfirmationSettings {
                topic,
                retry,
                turns: turns.clone(),
                together: MAX_TOGETHER,
            },
            stores.money.clone(),
            supplier.clone(),
            decider(),
            topics.placed_dead_letters.clone(),
            clock,
            metrics.clone(),
        );
        let subscription = topics
            .placed
            .subscribe(&self.settings.bus.kafka_group_confirmation)?;
        let group = subscription.health();
        let drain_limit = self.settings.process.shutdown_timeout / 4;
        let reading = ConfirmerSettings {
            at_once,
            ahead: READ_AHEAD_PER_BET * at_once as u64,
            drain_limit,
        };
        let confirmer = Confirmer::new(reading, subscription, confirmation, metrics.clone());
        let decisions = confirmer.health();
        let confirmer = self.start("confirmer", &arbiter, HUB_MAILBOX, confirmer);
        self.parts.money_drains.insert(0, confirmer.recipient());

        let checks = vec![
            check_store(&stores.main),
            check_bus(&topics.placed),
            check_group("confirmation group", group),
            check("decisions", move || decisions.problem()),
            check("outbox", move || outbox.problem()),
            check("supplier", move || supplier.problem()),
        ];
        self.serve_health(Role::Confirmation, checks, metrics.registry);
        Ok(())
    }

    fn supplier_url(&self) -> Result<Url, StartError> {
        if let Some(url) = &self.settings.confirmation.supplier_url {
            return Ok(url.expose().clone());
        }
        let own = self
            .parts
            .addresses
            .simulator
            .map(|address| format!("http://{address}"));
        let url = own.as_deref().unwrap_or(DEFAULT_SUPPLIER);
        url.parse()
            .map_err(|error: url::ParseError| StartError::SupplierUrl(error.to_string()))
    }
}
