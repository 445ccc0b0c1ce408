//! The `wallet` and `bets` roles: REST APIs for users' money and bets.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web::web;

use super::builder::{HUB_MAILBOX, PlatformBuilder};
use super::checks::{check, check_feed, check_store};
use super::engines::{BetTopics, Bus, Stores};
use super::odds::cores;
use super::{StartError, bounds, role_metrics};
use crate::actors::bets::outbox_relay::{OutboxRelay, OutboxTarget, OutboxTargets, RelaySettings};
use crate::actors::wallet::ledger_auditor::{AuditorSettings, LedgerAuditor};
use crate::bus::Topic;
use crate::config::Config;
use crate::config::settings::{MoneySettings, Role};
use crate::domain::bets::bet::BetLimits;
use crate::http::bets::{self, BetsState};
use crate::http::gateway::Service;
use crate::http::server::Listen;
use crate::http::wallet::{self, WalletState};
use crate::runtime::clock::Clock;
use crate::runtime::health::HealthCell;
use crate::services::bets::placement::{PlacementService, PlacementSettings};
use crate::services::bets::prices::Prices;
use crate::services::bets::queries::BetQueries;
use crate::services::wallet::executor::WalletExecutor;
use crate::services::wallet::operations::WalletOperations;
use crate::store::money::{BetPlacement, BetStore};
use crate::store::request_batcher::RequestBatcher;
use crate::telemetry::metrics::OutboxMetrics;

/// Mailbox capacity of the ledger auditor, which receives no messages.
const AUDITOR_MAILBOX: usize = 1;
/// How long only the process that committed an outbox row may publish it. Well below the deadline
/// of a bet, so that another process still publishes the rows of a killed one in time. A duplicate
/// record does no harm.
pub(super) const OUTBOX_LEASE: Duration = Duration::from_secs(3);

/// Maximum number of bets that are placed, decided or read in one call. Most of the gain is reached
/// at 16 (PostgreSQL placed and decided 2,200 bets per second one by one, and 7,800 in batches),
/// but with batches of 32 decisions did not catch up after falling behind.
pub(super) const MAX_STORE_BATCH: usize = 128;

/// Maximum number of outbox rows per publish.
const RELAY_BATCH: usize = 500;
/// Maximum number of queued rows per topic; further rows stay in the outbox.
const RELAY_WAITING: usize = 10_000;

impl PlatformBuilder<'_> {
    /// Starts the wallet, bet, confirmation and settlement roles of this process.
    pub(super) fn start_money(
        &mut self,
        config: &Config,
        bus: Option<&Bus>,
        stores: &Stores,
        prices: Option<Prices>,
    ) -> Result<(), StartError> {
        if config.runs(Role::Wallet) {
            self.for_role(Role::Wallet, |builder| builder.start_wallet(stores))?;
        }
        let Some(topics) = bus.and_then(|bus| bus.bets.as_ref()) else {
            return Ok(());
        };
        if config.runs(Role::Confirmation) {
            self.for_role(Role::Confirmation, |builder| {
                builder.start_confirmation(stores, topics)
            })?;
        }
        if let Some(results) = bus.and_then(|bus| bus.results.as_ref())
            && config.runs(Role::Settlement)
        {
            self.for_role(Role::Settlement, |builder| {
                builder.start_settlement(stores, topics, results, config.runs(Role::Simulator))
            })?;
        }
        if let Some(prices) = prices.filter(|_| config.runs(Role::Bets)) {
            self.for_role(Role::Bets, |builder| {
                builder.start_bets(stores, topics, prices)
            })?;
        }
        Ok(())
    }

    /// Starts an outbox relay that reports to `metrics`, and returns its address and health.
    pub(super) fn start_relay(
        &mut self,
        name: &'static str,
        stores: &Stores,
        topics: &BetTopics,
        metrics: OutboxMetrics,
    ) -> (Addr<OutboxRelay>, Arc<HealthCell>) {
        let target = |topic: &Arc<dyn Topic>, dead_letters: &Arc<dyn Topic>| OutboxTarget {
            topic: topic.clone(),
            dead_letters: dead_letters.clone(),
        };
        let settings = RelaySettings {
            batch: RELAY_BATCH,
            waiting: RELAY_WAITING,
            lease: OUTBOX_LEASE,
            drain_limit: self.settings.process.shutdown_timeout / 4,
        };
        let relay = OutboxRelay::new(
            stores.money.clone(),
            OutboxTargets {
                bet_placed: target(&topics.placed, &topics.placed_dead_letters),
                bet_confirmed: target(&topics.confirmed, &topics.confirmed_dead_letters),
                bet_settled: target(&topics.settled, &topics.settled_dead_letters),
            },
            settings,
            Clock::system(),
            metrics,
        );
        let health = relay.health();
        let arbiter = self.arbiter();
        let relay = self.start(name, &arbiter, HUB_MAILBOX, relay);
        self.parts.money_drains.push(relay.clone().recipient());
        (relay, health)
    }

    /// Starts the wallet API and the ledger auditor.
    pub(super) fn start_wallet(&mut self, stores: &Stores) -> Result<(), StartError> {
        let metrics = role_metrics::wallet()?;
        let money = &self.settings.money;
        let settings = AuditorSettings {
            reservation_ttl: money.reservation_ttl,
            verify_interval: money.ledger_verify_interval,
            grace: money.bet_confirm_deadline,
        };
        let auditor = LedgerAuditor::new(stores.money.clone(), settings, metrics.clone());
        let arbiter = self.arbiter();
        self.start("ledger auditor", &arbiter, AUDITOR_MAILBOX, auditor);
        let operations = Arc::new(WalletOperations::new(
            WalletExecutor::new(stores.money.clone(), self.user_turns.clone()),
            money.currency.clone(),
            metrics.operations.clone(),
        ));
        let state = web::Data::new(WalletState {
            operations: operations.clone(),
            metrics: metrics.clone(),
        });
        let listen = Listen {
            variable: "HTTP_PORT_WALLET",
            ip: self.settings.process.bind_address,
            port: self.settings.ports.http_port_wallet,
            workers: cores(),
            max_connections: bounds::rest_accepted(self.settings, cores()),
        };
        let guard = self.request_guard(false, &metrics.refused);
        let limits = self.client_bounds(Role::Wallet, &metrics.registry, guard)?;
        let routes = move |config: &mut web::ServiceConfig| {
            config.app_data(state.clone());
            wallet::routes(config);
        };
        self.start_grpc_wallet(&limits, &metrics.registry, operations)?;
        let address = self.start_service(Service::Wallet, limits, listen, routes)?;
        self.parts.addresses.wallet = Some(address);
        self.serve_health_of_callers(
            Role::Wallet,
            vec![check_store(&stores.main).needed_at_start()],
            metrics.registry,
        );
        Ok(())
    }

    /// Starts the bet API, which accepts bets at `prices`.
    pub(super) fn start_bets(
        &mut self,
        stores: &Stores,
        topics: &BetTopics,
        prices: Prices,
    ) -> Result<(), StartError> {
        let metrics = role_metrics::bets()?;
        let (relay, outbox) =
            self.start_relay("bets relay", stores, topics, metrics.outbox_metrics());
        let checks = vec![
            check_store(&stores.main).needed_at_start(),
            check_feed(&prices.feed).needed_at_start(),
            check("outbox", move || outbox.problem()),
        ];
        let store = stores.money.clone();
        let place = move |placements: &[BetPlacement]| store.place_bets(placements);
        let bets: Arc<dyn BetStore> = stores.money.clone();
        let executor = Arc::new(WalletExecutor::new(bets, self.user_turns.clone()));
        let placements = Arc::new(PlacementService::new(
            executor.clone(),
            RequestBatcher::new(&self.turns, MAX_STORE_BATCH, place),
            prices,
            placement_settings(&self.settings.money),
            relay.recipient(),
            Clock::system(),
            metrics.bets.clone(),
        ));
        let queries = Arc::new(BetQueries::new(executor));
        let state = web::Data::new(BetsState {
            placements: placements.clone(),
            queries: queries.clone(),
            metrics: metrics.clone(),
        });
        let listen = Listen {
            variable: "HTTP_PORT_BET",
            ip: self.settings.process.bind_address,
            port: self.settings.ports.http_port_bet,
            workers: cores(),
            max_connections: bounds::rest_accepted(self.settings, cores()),
        };
        let guard = self.request_guard(false, &metrics.refused);
        let limits = self.client_bounds(Role::Bets, &metrics.registry, guard)?;
        let routes = move |config: &mut web::ServiceConfig| {
            config.app_data(state.clone());
            bets::routes(config);
        };
        self.start_grpc_bets(&limits, &metrics.registry, placements, queries)?;
        let address = self.start_service(Service::Bets, limits, listen, routes)?;
        self.parts.addresses.bets = Some(address);
        self.serve_health_of_callers(Role::Bets, checks, metrics.registry);
        Ok(())
    }
}

fn placement_settings(money: &MoneySettings) -> PlacementSettings {
    PlacementSettings {
        limits: BetLimits {
            min_stake: money.bet_min_stake_cents,
            max_stake: money.bet_max_stake_cents,
            max_payout: money.bet_max_payout_cents,
        },
        deadline: money.bet_confirm_deadline,
        lease: OUTBOX_LEASE,
    }
}
