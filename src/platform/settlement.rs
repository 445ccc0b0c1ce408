//! The `settlement` role: stores results and pays bets by them.

use std::time::Duration;

use super::builder::{HUB_MAILBOX, PlatformBuilder};
use super::checks::{check, check_bus, check_group, check_store};
use super::engines::{BetTopics, ResultTopics, Stores};
use super::money::OUTBOX_LEASE;
use super::{StartError, role_metrics};
use crate::actors::settlement::market_settler::MarketSettler;
use crate::actors::settlement::result_consumer::{ResultConsumer, ResultTargets};
use crate::actors::settlement::settings::SettlerSettings;
use crate::actors::settlement::settler::{Settler, SettlerLimits};
use crate::bus::health::SubscriptionHealth;
use crate::config::settings::Role;
use crate::runtime::clock::Clock;
use crate::simulator::market_maker::source as simulator_source;
use crate::telemetry::metrics::SettlementMetrics;

/// Maximum number of bets that are read at once: bounds the memory of a market. Of 100,000 bets, pages
/// of 500, 2,000 and 8,000 took 10.1, 9.1 and 9.2 s of CPU in this process and in PostgreSQL, and 2, 3
/// and 8 MiB.
const PAGE: usize = 2_000;
/// Maximum number of bets that are settled in one call. Of 100,000 bets, calls of 16, 32, 64, 128 and
/// 256 took 18.5, 12.1, 10.2, 9.1 and 8.0 s of CPU. A larger call locks more wallets for longer, and
/// who bets meanwhile waits for it: see "Settlement" in docs/performance.md.
const BATCH: usize = 32;
/// The pause after each call, in percent of its time.
const PAUSE_PERCENT: u32 = 50;
/// How long a market is leased; extended with each page.
const MARKET_LEASE: Duration = Duration::from_secs(30);
/// How long a market waits after an attempt that did not settle every bet.
const RETRY: Duration = Duration::from_secs(1);

impl PlatformBuilder<'_> {
    /// Starts the actors that settle bets.
    pub(super) fn start_settlement(
        &mut self,
        stores: &Stores,
        topics: &BetTopics,
        results: &ResultTopics,
        runs_simulator: bool,
    ) -> Result<(), StartError> {
        let metrics = role_metrics::settlement()?;
        let outbox_metrics = metrics.outbox_metrics();
        let (relay, relay_health) =
            self.start_relay("settlement relay", stores, topics, outbox_metrics);
        let settler = Settler::new(
            self.market_settler(stores, runs_simulator, &metrics),
            stores.money.clone(),
            relay.recipient(),
            SettlerLimits {
                at_once: self.settings.settlement.settlement_concurrency,
                drain_limit: self.settings.process.shutdown_timeout / 4,
            },
            Clock::system(),
            metrics.clone(),
        );
        let settler_health = settler.health();
        let thread = self.arbiter();
        let settler = self.start("settler", &thread, HUB_MAILBOX, settler);
        // Before the relay, so that the settlements made while draining are still published.
        self.parts
            .money_drains
            .insert(0, settler.clone().recipient());
        let targets = ResultTargets {
            store: stores.money.clone(),
            settler: settler.recipient(),
            dead_letters: results.dead_letters.clone(),
        };
        let group = self.start_result_consumer(results, targets, &metrics)?;
        let checks = vec![
            check_store(&stores.main).needed_at_start(),
            check_bus(&results.results),
            check_group("settlement group", group),
            check("settlement", move || settler_health.problem()),
            check("outbox", move || relay_health.problem()),
        ];
        self.serve_health(Role::Settlement, checks, metrics.registry);
        Ok(())
    }

    fn market_settler(
        &self,
        stores: &Stores,
        runs_simulator: bool,
        metrics: &SettlementMetrics,
    ) -> MarketSettler {
        let settings = &self.settings.settlement;
        let simulator = runs_simulator.then(simulator_source).flatten();
        let settings = SettlerSettings {
            rules: settings.rules(simulator),
            max_market: settings.settlement_max_market_cents,
            page: PAGE,
            batch: BATCH,
            pause_percent: PAUSE_PERCENT,
            lease: MARKET_LEASE,
            retry: RETRY,
            outbox_lease: OUTBOX_LEASE,
        };
        log::debug!("bets are settled by these rules: {}", settings.rules_text());
        MarketSettler::new(
            stores.money.clone(),
            settings,
            Clock::system(),
            metrics.clone(),
        )
    }

    fn start_result_consumer(
        &mut self,
        results: &ResultTopics,
        targets: ResultTargets,
        metrics: &SettlementMetrics,
    ) -> Result<SubscriptionHealth, StartError> {
        let group = self.settings.bus.kafka_group_settlement.clone();
        let settings = self.consumer_settings(group, &results.results, Duration::ZERO);
        let subscription = results.results.subscribe(&settings.group)?;
        let health = subscription.health();
        let task = ResultConsumer::task(
            settings,
            subscription,
            targets,
            Clock::system(),
            metrics.clone(),
        );
        let thread = self.arbiter();
        let consumer = self.start("result consumer", &thread, HUB_MAILBOX, task);
        self.parts.money_drains.insert(0, consumer.recipient());
        Ok(health)
    }
}
