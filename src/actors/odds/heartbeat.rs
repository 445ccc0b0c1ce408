//! Publishes a heartbeat once a second while this process keeps up with the bus: its live consumer
//! works, its group lets it read, and the bus answers. The first one follows after the source monitor
//! has passed on the states of the sources. Processes that show prices treat them as stale when no
//! heartbeat arrives. A heartbeat says what is known about the sources, and is published at once when
//! the state of one changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{Level, info, log};
use tokio::time::timeout;

use super::messages::SourcesReported;
use crate::actors::streaming::messages::FeedChanged;
use crate::bus::Topic;
use crate::bus::health::SubscriptionHealth;
use crate::cache::OddsCache;
use crate::domain::ids::Source;
use crate::domain::odds::source_status::{SourceStatus, states};
use crate::domain::streaming::protocol::FeedStatus;
use crate::runtime::backlog::Backlog;
use crate::runtime::feed_health::FeedState;
use crate::runtime::health::HealthCell;
use crate::runtime::liveness::LivenessProbe;
use crate::telemetry::log_limit::FaultLog;

/// Interval between heartbeats.
const INTERVAL: Duration = Duration::from_secs(1);
/// Delay before a failed heartbeat is retried.
const RETRY: Duration = Duration::from_millis(250);
/// Timeout for replies of the bus and the cache.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// A consumer does not keep up if it has not polled the bus, or not applied a record, for this
/// long.
const CONSUMER_LIMIT: Duration = Duration::from_secs(2);

/// Where heartbeats go.
#[derive(Clone)]
pub(crate) enum HeartbeatTarget {
    /// The subscribed processes, through the cache, while it accepts writes.
    Broadcast(Arc<dyn OddsCache>, Arc<HealthCell>),
    /// The clients of this process, if the cache has no broadcasts.
    Local {
        /// The state of the feed.
        state: Arc<FeedState>,
        /// The registry.
        feed: Recipient<FeedChanged>,
    },
}

/// Publishes the heartbeats.
pub(crate) struct Heartbeat {
    bus: Arc<dyn Topic>,
    consumers: Vec<FollowedConsumer>,
    target: HeartbeatTarget,
    /// What is known about the sources; `None` until the source monitor has passed it on.
    sources: Option<BTreeMap<Source, SourceStatus>>,
    /// The next heartbeat; `None` while one is in flight.
    next: Option<SpawnHandle>,
    /// Whether the state of a source has changed since the heartbeat in flight started.
    is_outdated: bool,
    /// The component that failed the last time, to log each one once.
    failed: HealthCell,
    /// Whether a heartbeat has succeeded before.
    has_succeeded: bool,
    log: FaultLog,
}

/// The liveness of a consumer and the age of its backlog.
pub(crate) type ConsumerSigns = (Arc<LivenessProbe>, Arc<Backlog>);

/// A consumer on the way to the clients.
#[derive(Clone)]
struct FollowedConsumer {
    /// The names of its group and of itself, for operators.
    names: [&'static str; 2],
    signs: ConsumerSigns,
    group: SubscriptionHealth,
}

/// The component that failed, and the reason.
type Problem = (&'static str, String);

impl Heartbeat {
    /// Sends heartbeats to `target` while `bus` answers, and the live consumer is alive, its `group`
    /// is healthy and its backlog is not old.
    pub(crate) fn new(
        bus: Arc<dyn Topic>,
        signs: ConsumerSigns,
        group: SubscriptionHealth,
        target: HeartbeatTarget,
    ) -> Heartbeat {
        Heartbeat {
            bus,
            consumers: vec![FollowedConsumer {
                names: ["live group", "live consumer"],
                signs,
                group,
            }],
            target,
            sources: None,
            next: None,
            is_outdated: false,
            failed: HealthCell::default(),
            has_succeeded: false,
            log: FaultLog::new(),
        }
    }

    /// Also requires this of the selector, which publishes what the live consumer reads.
    pub(crate) fn with_selector(
        mut self,
        signs: ConsumerSigns,
        group: SubscriptionHealth,
    ) -> Heartbeat {
        self.consumers.push(FollowedConsumer {
            names: ["selector group", "selector"],
            signs,
            group,
        });
        self
    }

    fn beat(&mut self, context: &mut Context<Self>) {
        if let Some(scheduled) = self.next.take() {
            context.cancel_future(scheduled);
        }
        self.is_outdated = false;
        let bus = self.bus.clone();
        let consumers = self.consumers.clone();
        let target = self.target.clone();
        let sources = self.sources.clone();
        let beating = async move {
            let sources = sources.as_ref().ok_or_else(sources_unknown)?;
            let health = check_consumers(&*bus, &consumers).await;
            target.publish(health, sources).await
        };
        context.spawn(
            beating
                .into_actor(self)
                .map(|published, heartbeat, context| {
                    let pause = match &published {
                        Ok(()) if heartbeat.is_outdated => Duration::ZERO,
                        Ok(()) => INTERVAL,
                        Err(_) => RETRY,
                    };
                    heartbeat.report(published.err());
                    heartbeat.next = Some(context.run_later(pause, Self::beat));
                }),
        );
    }

    /// Logs each failed component once, however long the failure lasts.
    fn report(&mut self, problem: Option<Problem>) {
        let Some((what, why)) = problem else {
            self.has_succeeded = true;
            if self.failed.record_success() && self.log.recovered() {
                info!("the live consumer keeps up with the bus");
            }
            return;
        };
        if self.failed.record_failure(&what)
            && let Some(repeated) = self.log.failed(what)
        {
            // Joining a group takes seconds at every start, so it is not worth a warning.
            let level = if self.has_succeeded {
                Level::Warn
            } else {
                Level::Info
            };
            log!(level, repeated; "waiting for the {what}, prices may be stale until then: {why}");
        }
    }
}

impl Actor for Heartbeat {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        // The states of the sources usually arrive sooner, and lead to the first heartbeat.
        self.next = Some(context.run_later(RETRY, Self::beat));
    }
}

impl Handler<SourcesReported> for Heartbeat {
    type Result = ();

    fn handle(&mut self, reported: SourcesReported, context: &mut Context<Self>) {
        let earlier = self.sources.replace(reported.0);
        let is_changed = earlier.is_none_or(|earlier| {
            let later = self.sources.iter().flat_map(states);
            !states(&earlier).eq(later)
        });
        if is_changed && self.next.is_some() {
            self.beat(context);
        } else {
            self.is_outdated |= is_changed;
        }
    }
}

/// Checks that the bus answers, the groups let the consumers read, and the consumers keep up.
async fn check_consumers(bus: &dyn Topic, consumers: &[FollowedConsumer]) -> Result<(), Problem> {
    in_time("bus", bus.ping()).await?;
    consumers.iter().try_for_each(FollowedConsumer::check)
}

impl FollowedConsumer {
    fn check(&self) -> Result<(), Problem> {
        let [group, consumer] = self.names;
        if let Some(problem) = self.group.problem() {
            return Err((group, problem));
        }
        let (life, backlog) = &self.signs;
        let lag = life.age().max(backlog.age());
        if lag < CONSUMER_LIMIT {
            Ok(())
        } else {
            Err((consumer, format!("it lags by {} s", lag.as_secs())))
        }
    }
}

/// Without the states, the markets of a lost source would be shown as live.
fn sources_unknown() -> Problem {
    let why = "they are not known yet".to_owned();
    ("states of the sources", why)
}

async fn in_time<E: std::fmt::Display>(
    what: &'static str,
    reply: impl Future<Output = Result<(), E>>,
) -> Result<(), Problem> {
    match timeout(REPLY_TIMEOUT, reply).await {
        Ok(reply) => reply.map_err(|error| (what, error.to_string())),
        Err(_) => Err((
            what,
            format!("no answer within {} s", REPLY_TIMEOUT.as_secs()),
        )),
    }
}

impl HeartbeatTarget {
    async fn publish(
        &self,
        consumer: Result<(), Problem>,
        sources: &BTreeMap<Source, SourceStatus>,
    ) -> Result<(), Problem> {
        match self {
            HeartbeatTarget::Broadcast(cache, health) => {
                consumer?;
                if let Some(problem) = health.problem() {
                    return Err(("cache", problem));
                }
                in_time("cache", cache.publish_heartbeat(sources)).await
            }
            HeartbeatTarget::Local { state, feed } => {
                let status = match &consumer {
                    Ok(()) => {
                        state.set_live();
                        FeedStatus::Live
                    }
                    Err((what, why)) => {
                        state.set_lost(&format!("the {what}: {why}"));
                        FeedStatus::Stale
                    }
                };
                // Without the registry nobody can be notified; the platform monitors its actors and
                // stops the process.
                let _ = feed.send(FeedChanged(status)).await;
                consumer
            }
        }
    }
}

#[cfg(test)]
mod tests;
