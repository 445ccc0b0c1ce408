//! One member of a consumer group, with the lag of its group and its stop signal.

use std::future::Future;
use std::time::Duration;

use log::warn;
use prometheus::{IntGauge, IntGaugeVec};
use tokio_util::sync::CancellationToken;

use super::shutdown_policy::ShutdownPolicy;
use crate::bus::{BusError, ConsumerEvent, Position, Subscription};
use crate::domain::odds::plausible::Plausibility;
use crate::runtime::drain::{DrainableTask, TaskEnd};

/// How often an idle consumer wakes up to report its lag.
pub(in crate::actors) const IDLE_POLL: Duration = Duration::from_millis(250);

/// Settings of a consumer.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerSettings {
    /// The group's name, for logs and metrics.
    pub group: String,
    /// The topic's name, for dead letters.
    pub topic: String,
    /// Maximum number of records per batch.
    pub batch_size: usize,
    /// How long a batch waits to fill up.
    pub linger: Duration,
    /// Which updates are plausible.
    pub limits: Plausibility,
}

/// Reads the batches of one group.
pub(in crate::actors) struct GroupReader {
    settings: ConsumerSettings,
    subscription: Box<dyn Subscription>,
    policy: ShutdownPolicy,
    lag: IntGauge,
    stop: CancellationToken,
}

impl GroupReader {
    /// Reads `subscription`. `purpose` identifies the group in `lags`: alerts and dashboards select
    /// by it, since an operator may rename the group.
    pub(in crate::actors) fn new(
        settings: ConsumerSettings,
        subscription: Box<dyn Subscription>,
        purpose: &str,
        lags: &IntGaugeVec,
    ) -> GroupReader {
        let lag = lags.with_label_values(&[settings.group.as_str(), purpose]);
        let is_durable = subscription.is_durable();
        GroupReader {
            settings,
            subscription,
            policy: ShutdownPolicy { is_durable },
            lag,
            stop: CancellationToken::new(),
        }
    }

    pub(in crate::actors) fn settings(&self) -> &ConsumerSettings {
        &self.settings
    }

    pub(in crate::actors) fn group(&self) -> &str {
        &self.settings.group
    }

    pub(in crate::actors) fn topic(&self) -> &str {
        &self.settings.topic
    }

    pub(in crate::actors) fn policy(&self) -> ShutdownPolicy {
        self.policy
    }

    pub(in crate::actors) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Reports the lag and returns it.
    pub(in crate::actors) fn report_lag(&self) -> u64 {
        let lag = self.subscription.lag();
        self.lag.set(lag as i64);
        lag
    }

    /// Whether nothing more is read, because the process stops.
    pub(in crate::actors) fn is_finished(&self, lag: u64) -> bool {
        self.policy.ends_reading(self.stop.is_cancelled(), lag)
    }

    /// Waits for the next event, unless there is no room for a batch. `None` if the reader is idle
    /// or must stop. Cancel safe.
    pub(in crate::actors) async fn next(
        &mut self,
        has_room: bool,
    ) -> Result<Option<ConsumerEvent>, BusError> {
        let ConsumerSettings {
            batch_size, linger, ..
        } = self.settings;
        // Includes the linger time: a shorter timeout would restart the wait forever and read
        // nothing.
        let limit = IDLE_POLL.saturating_add(linger);
        let subscription = &mut self.subscription;
        let reading = async {
            if has_room {
                subscription.next_batch(batch_size, linger).await
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled(), if !self.stop.is_cancelled() => Ok(None),
            event = tokio::time::timeout(limit, reading) => event.ok().transpose(),
        }
    }

    /// Commits everything before this position.
    pub(in crate::actors) fn commit(&mut self, done: &Position) {
        self.subscription.commit(done);
    }

    /// Leaves the group, and reports the final lag.
    pub(in crate::actors) async fn close(&mut self) -> u64 {
        self.subscription.close().await;
        self.report_lag()
    }
}

/// The actor that runs the consumer of `group` until `stop` is cancelled.
pub(in crate::actors) fn task_of<F>(
    group: String,
    stop: CancellationToken,
    run: impl FnOnce() -> F + Send + 'static,
) -> DrainableTask
where
    F: Future<Output = Result<(), BusError>> + 'static,
{
    DrainableTask::new(stop, move || async move {
        match run().await {
            Ok(()) => TaskEnd::Drained,
            Err(end) => {
                warn!(group; "consumer stopped: {end}");
                TaskEnd::Failed
            }
        }
    })
}
