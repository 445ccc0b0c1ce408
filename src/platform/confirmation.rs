//! The `confirmation` role: sends bets to the supplier and writes its answers to the database.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use url::Url;

use super::builder::{HUB_MAILBOX, PlatformBuilder};
use super::checks::{check, check_bus, check_group, check_store};
use super::engines::{BetTopics, Stores};
use super::money::{MAX_STORE_BATCH, OUTBOX_LEASE};
use super::{StartError, role_metrics};
use crate::actors::bets::bet_consumer::{BetConsumer, BetConsumerSettings};
use crate::actors::bets::canceller::{Canceller, CancellerSettings};
use crate::actors::bets::confirmation::{BetConfirmation, ConfirmationSettings};
use crate::actors::bets::decision::{BetDecisions, DeciderSettings};
use crate::actors::bets::messages::{CancelsWait, PublishOutbox};
use crate::actors::bets::overdue_sweeper::{OverdueSweeper, SweeperSettings};
use crate::actors::bets::supplier_client::{GuardSettings, SupplierClient};
use crate::bus::health::SubscriptionHealth;
use crate::config::DEFAULT_CONFIRM_URL;
use crate::config::settings::Role;
use crate::runtime::backoff::BackoffPolicy;
use crate::runtime::circuit_breaker::BreakerPolicy;
use crate::runtime::clock::Clock;
use crate::runtime::health::HealthCell;
use crate::supplier::confirm::HttpSupplier;
use crate::telemetry::metrics::ConfirmationMetrics;

/// How far the consumer reads past a bet that waits for its supplier: records per bet that may be
/// in flight.
const READ_AHEAD_PER_BET: u64 = 16;
/// Grace period after a bet's deadline before the sweeper rejects it.
const SWEEP_GRACE: Duration = Duration::from_secs(1);
/// Maximum number of bets per sweep query.
const SWEEP_BATCH: usize = 200;
/// Mailbox capacity of the sweeper, which receives no messages.
const SWEEPER_MAILBOX: usize = 1;
/// Maximum number of cancel requests in flight.
const CANCELS_AT_ONCE: usize = 8;
/// How long this process leases a cancel.
const CANCEL_LEASE: Duration = Duration::from_secs(30);
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
        let metrics = role_metrics::confirmation()?;
        let clock = Clock::system();
        let supplier = self.supplier_client(&clock, &metrics)?;
        let outbox_metrics = metrics.outbox_metrics();
        let (relay, relay_health) =
            self.start_relay("confirmation relay", stores, topics, outbox_metrics);
        let thread = self.arbiter();
        let confirmation = ConfirmationBuilder {
            platform: self,
            stores,
            topics,
            supplier,
            clock,
            metrics,
            thread,
        };
        confirmation.start(relay.recipient(), relay_health)
    }

    fn supplier_client(
        &self,
        clock: &Clock,
        metrics: &ConfirmationMetrics,
    ) -> Result<Arc<SupplierClient>, StartError> {
        let settings = &self.settings.confirmation;
        let timeout = settings.bet_confirm_timeout;
        let ca_file = self.settings.suppliers.supplier_ca_file.as_deref();
        let supplier = HttpSupplier::new(&self.supplier_url()?, timeout, ca_file)
            .map_err(StartError::Confirm)?;
        let guard = GuardSettings {
            timeout,
            breaker: BreakerPolicy {
                failures: settings.bet_confirm_breaker_failures,
                pause: settings.bet_confirm_breaker_pause,
            },
        };
        Ok(Arc::new(SupplierClient::new(
            Arc::new(supplier),
            guard,
            clock.clone(),
            metrics.clone(),
        )))
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
        let url = own.as_deref().unwrap_or(DEFAULT_CONFIRM_URL);
        url.parse()
            .map_err(|error: url::ParseError| StartError::SupplierUrl(error.to_string()))
    }
}

/// Starts the actors of the role, downstream first.
struct ConfirmationBuilder<'a, 'b> {
    platform: &'a mut PlatformBuilder<'b>,
    stores: &'a Stores,
    topics: &'a BetTopics,
    supplier: Arc<SupplierClient>,
    clock: Clock,
    metrics: ConfirmationMetrics,
    /// The thread of the actors.
    thread: ArbiterHandle,
}

impl ConfirmationBuilder<'_, '_> {
    fn start(
        mut self,
        relay: Recipient<PublishOutbox>,
        relay_health: Arc<HealthCell>,
    ) -> Result<(), StartError> {
        let canceller = self.start_canceller();
        self.start_sweeper(self.decisions(relay.clone(), canceller.clone()));
        let decisions = self.decisions(relay, canceller);
        let (decisions_health, group) = self.start_bet_consumer(decisions)?;
        let supplier = self.supplier;
        let checks = vec![
            check_store(&self.stores.main).needed_at_start(),
            check_bus(&self.topics.placed),
            check_group("confirmation group", group),
            check("decisions", move || decisions_health.problem()),
            check("outbox", move || relay_health.problem()),
            check("supplier", move || supplier.problem()),
        ];
        self.platform
            .serve_health(Role::Confirmation, checks, self.metrics.registry);
        Ok(())
    }

    fn start_canceller(&mut self) -> Recipient<CancelsWait> {
        let settings = CancellerSettings {
            at_once: CANCELS_AT_ONCE,
            retry: CANCEL_RETRY,
            lease: CANCEL_LEASE,
        };
        let canceller = Canceller::new(
            self.stores.money.clone(),
            self.stores.money.clone(),
            self.supplier.clone(),
            settings,
            self.clock.clone(),
            self.metrics.clone(),
        );
        let canceller = self
            .platform
            .start("canceller", &self.thread, HUB_MAILBOX, canceller);
        canceller.recipient()
    }

    fn decisions(
        &self,
        relay: Recipient<PublishOutbox>,
        canceller: Recipient<CancelsWait>,
    ) -> BetDecisions {
        let settings = DeciderSettings {
            turns: self.platform.turns.clone(),
            max_batch: MAX_STORE_BATCH,
            users: self.platform.user_turns.clone(),
            lease: OUTBOX_LEASE,
        };
        BetDecisions::new(
            settings,
            self.stores.money.clone(),
            relay,
            canceller,
            self.clock.clone(),
            self.metrics.clone(),
        )
    }

    fn start_sweeper(&mut self, decisions: BetDecisions) {
        let settings = SweeperSettings {
            grace: SWEEP_GRACE,
            batch: SWEEP_BATCH,
        };
        let sweeper = OverdueSweeper::new(
            self.stores.money.clone(),
            decisions,
            settings,
            self.clock.clone(),
            self.metrics.clone(),
        );
        self.platform
            .start("bet sweeper", &self.thread, SWEEPER_MAILBOX, sweeper);
    }

    fn start_bet_consumer(
        &mut self,
        decisions: BetDecisions,
    ) -> Result<(Arc<HealthCell>, SubscriptionHealth), StartError> {
        let settings = self.platform.settings;
        let subscription = self
            .topics
            .placed
            .subscribe(&settings.bus.kafka_group_confirmation)?;
        let group = subscription.health();
        let at_once = settings.confirmation.bet_confirm_concurrency;
        let limits = BetConsumerSettings {
            at_once,
            ahead: READ_AHEAD_PER_BET * at_once as u64,
            drain_limit: settings.process.shutdown_timeout / 4,
        };
        let confirmation = self.confirmation(decisions);
        let consumer = BetConsumer::new(limits, subscription, confirmation, self.metrics.clone());
        let health = consumer.health();
        let consumer =
            self.platform
                .start("confirmer", &self.thread, HUB_MAILBOX, consumer.into_task());
        // Before the relay, so that the decisions made while draining are still published.
        let drains = &mut self.platform.parts.money_drains;
        drains.insert(0, consumer.recipient());
        Ok((health, group))
    }

    fn confirmation(&self, decisions: BetDecisions) -> BetConfirmation {
        let confirmation = &self.platform.settings.confirmation;
        let settings = ConfirmationSettings {
            topic: self.topics.placed.name().to_owned(),
            retry: BackoffPolicy {
                first: confirmation.bet_confirm_retry_min,
                most: confirmation.bet_confirm_retry_max,
            },
            turns: self.platform.turns.clone(),
            max_batch: MAX_STORE_BATCH,
        };
        BetConfirmation::new(
            settings,
            self.stores.money.clone(),
            self.supplier.clone(),
            decisions,
            self.topics.placed_dead_letters.clone(),
            self.clock.clone(),
            self.metrics.clone(),
        )
    }
}
