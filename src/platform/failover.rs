//! The selector of the `processor` role, if the sources have an order of priority.

use std::sync::Arc;
use std::time::Duration;

use super::StartError;
use super::processor::ProcessorBuilder;
use crate::actors::odds::consumers::source_selector::{
    ReportedSources, SelectorEdges, SelectorRules, SourceSelector,
};
use crate::bus::health::SubscriptionHealth;
use crate::domain::odds::failover::FailoverRules;

/// Mailbox capacity of the receiver of the sources' states.
const RECEIVER_MAILBOX: usize = 16;

impl ProcessorBuilder<'_, '_> {
    /// Starts the selector, if it is configured, and returns the health of its group.
    pub(super) fn start_selector(&mut self) -> Result<Option<SubscriptionHealth>, StartError> {
        let Some(topic) = &self.bus.supplier_updates else {
            return Ok(None);
        };
        let group = self.platform.settings.bus.kafka_group_selector.clone();
        let settings = self.consumer_settings(group, topic, Duration::ZERO);
        let subscription = topic.subscribe(&settings.group)?;
        let health = subscription.health();
        let sources = Arc::<ReportedSources>::default();
        let edges = SelectorEdges {
            odds: self.bus.updates.clone(),
            dead_letters: self.bus.dead_letters.clone(),
            published: self.book_source()?,
            sources: sources.clone(),
        };
        let rules = self.selector_rules();
        let metrics = self.metrics.clone();
        let (task, _signs) = SourceSelector::task(settings, subscription, rules, edges, metrics);
        let thread = self.platform.arbiter();
        let receiver = sources.receiver();
        self.platform
            .start("selector's sources", &thread, RECEIVER_MAILBOX, receiver);
        let selector = self.start_consumer("source selector", &thread, task);
        self.platform.parts.selector = Some(selector);
        Ok(Some(health))
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
