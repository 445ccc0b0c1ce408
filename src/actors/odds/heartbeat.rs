//! Publishes a heartbeat once a second while this process keeps up with the bus: its live consumer
//! works, its group lets it read, and the bus answers. Processes that show prices treat them as
//! stale when no heartbeat arrives.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{Level, info, log};
use tokio::time::timeout;

use crate::actors::streaming::messages::FeedChanged;
use crate::bus::Topic;
use crate::bus::health::SubscriptionHealth;
use crate::cache::OddsCache;
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
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// A consumer does not keep up if it has not polled the bus, or not applied a record, for this
/// long.
const CONSUMER_LIMIT: Duration = Duration::from_secs(2);

/// Where heartbeats go.
#[derive(Clone)]
pub enum HeartbeatTarget {
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
pub struct Heartbeat {
    bus: Arc<dyn Topic>,
    consumer: Arc<LivenessProbe>,
    backlog: Arc<Backlog>,
    group: SubscriptionHealth,
    target: HeartbeatTarget,
    /// The component that failed the last time, to log each one once.
    failed: HealthCell,
    /// Whether a heartbeat has succeeded before.
    has_followed: bool,
    log: FaultLog,
}

/// The liveness of a consumer and the age of its backlog.
pub type ConsumerSigns = (Arc<LivenessProbe>, Arc<Backlog>);

/// The component that failed, and the reason.
type Problem = (&'static str, String);

impl Heartbeat {
    /// Sends heartbeats to `target` while `bus` answers, `consumer` is alive, its `group` is healthy
    /// and its `backlog` is not old.
    pub fn new(
        bus: Arc<dyn Topic>,
        (consumer, backlog): ConsumerSigns,
        group: SubscriptionHealth,
        target: HeartbeatTarget,
    ) -> Heartbeat {
        Heartbeat {
            bus,
            consumer,
            backlog,
            group,
            target,
            failed: HealthCell::default(),
            has_followed: false,
            log: FaultLog::new(),
        }
    }

    fn beat(&mut self, context: &mut Context<Self>) {
        let bus = self.bus.clone();
        let target = self.target.clone();
        let (consumer, backlog, group) = (
            self.consumer.clone(),
            self.backlog.clone(),
            self.group.clone(),
        );
        let beating = async move {
            let follows = follows(&*bus, &consumer, &backlog, &group).await;
            target.publish(follows).await
        };
        context.spawn(
            beating
                .into_actor(self)
                .map(|published, heartbeat, context| {
                    let pause = if published.is_ok() { INTERVAL } else { RETRY };
                    heartbeat.report(published.err());
                    context.run_later(pause, Self::beat);
                }),
        );
    }

    /// Logs each failed component once, however long the failure lasts.
    fn report(&mut self, problem: Option<Problem>) {
        let Some((what, why)) = problem else {
            self.has_followed = true;
            if self.failed.record_success() && self.log.recovered() {
                info!("the live consumer keeps up with the bus");
            }
            return;
        };
        if self.failed.record_failure(&what)
            && let Some(repeated) = self.log.failed(what)
        {
            // Joining a group takes seconds at every start, so it is not worth a warning.
            let level = if self.has_followed {
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
        self.beat(context);
    }
}

/// Checks that the bus answers, the group lets the consumer read, and the consumer keeps up.
async fn follows(
    bus: &dyn Topic,
    consumer: &LivenessProbe,
    backlog: &Backlog,
    group: &SubscriptionHealth,
) -> Result<(), Problem> {
    answer("bus", bus.ping()).await?;
    if let Some(problem) = group.problem() {
        return Err(("live group", problem));
    }
    let lag = consumer.age().max(backlog.age());
    if lag < CONSUMER_LIMIT {
        Ok(())
    } else {
        Err(("live consumer", format!("it lags by {} s", lag.as_secs())))
    }
}

async fn answer<E: std::fmt::Display>(
    what: &'static str,
    answer: impl Future<Output = Result<(), E>>,
) -> Result<(), Problem> {
    match timeout(ANSWER_LIMIT, answer).await {
        Ok(answer) => answer.map_err(|error| (what, error.to_string())),
        Err(_) => Err((
            what,
            format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
        )),
    }
}

impl HeartbeatTarget {
    async fn publish(&self, follows: Result<(), Problem>) -> Result<(), Problem> {
        match self {
            HeartbeatTarget::Broadcast(cache, health) => {
                follows?;
                if let Some(problem) = health.problem() {
                    return Err(("cache", problem));
                }
                answer("cache", cache.publish_heartbeat()).await
            }
            HeartbeatTarget::Local { state, feed } => {
                let status = match &follows {
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
                follows
            }
        }
    }
}

#[cfg(test)]
mod tests;
