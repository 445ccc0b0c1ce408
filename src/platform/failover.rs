//! The selector of the `processor` role, if the sources have an order of priority.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::StartError;
use super::processor::ProcessorBuilder;
use crate::actors::odds::consumers::source_selector::{
    LatestReports, SelectorEdges, SelectorRules, SourceSelector,
};
use crate::actors::odds::heartbeat::ConsumerSigns;
use crate::actors::odds::messages::ReportsRead;
use crate::bus::health::SubscriptionHealth;
use crate::domain::odds::failover::FailoverRules;

/// Mailbox capacity of the receiver of the reports.
const RECEIVER_MAILBOX: usize = 16;
/// How much longer than the age limit of a failover a new selector reads back.
const REPLAY_MARGIN: Duration = Duration::from_secs(5);

/// A selector that runs.
pub(super) struct StartedSelector {
    /// The health of its group.
    pub(super) group: SubscriptionHealth,
    /// Whether it keeps up.
    pub(super) signs: ConsumerSigns,
    /// Receives what is reported about the sources.
    pub(super) reports: Recipient<ReportsRead>,
}

impl ProcessorBuilder<'_, '_> {
    /// Starts the selector, if it is configured.
    pub(super) fn start_selector(&mut self) -> Result<Option<StartedSelector>, StartError> {
        let Some(topic) = &self.bus.supplier_updates else {
            return Ok(None);
        };
        let group = self.platform.settings.bus.kafka_group_selector.clone();
        let settings = self
            .platform
            .consumer_settings(group, topic, Duration::ZERO);
        let rules = self.selector_rules();
        let window = rules.failover.max_age.saturating_add(REPLAY_MARGIN);
        let subscription = topic.subscribe_with_replay(&settings.group, window)?;
        let group = subscription.health();
        let reports = Arc::<LatestReports>::default();
        let receiver = reports.receiver();
        let edges = SelectorEdges {
            odds: self.bus.updates.clone(),
            dead_letters: self.bus.dead_letters.clone(),
            published: self.book_source()?,
            reports,
        };
        let metrics = self.metrics.clone();
        let (task, signs) = SourceSelector::task(settings, subscription, rules, edges, metrics);
        let thread = self.platform.arbiter();
        let platform = &mut self.platform;
        let receiver = platform.start("selector's reports", &thread, RECEIVER_MAILBOX, receiver);
        let selector = self.start_consumer("source selector", &thread, task);
        self.platform.parts.selector = Some(selector);
        Ok(Some(StartedSelector {
            group,
            signs,
            reports: receiver.recipient(),
        }))
    }

    fn selector_rules(&self) -> SelectorRules {
        let settings = self.platform.settings;
        let suppliers = &settings.suppliers;
        SelectorRules {
            failover: FailoverRules {
                priority: suppliers.supplier_priority.clone(),
                max_age: suppliers.failover_max_age,
                failback_after: suppliers.failback_after,
            },
            idle_limit: settings.cache.book_idle_limit,
        }
    }
}
