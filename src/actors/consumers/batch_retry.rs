//! Retries a failed batch until it succeeds.

use std::fmt::Display;
use std::time::Duration;

use actix::MailboxError;
use log::{error, info, warn};
use prometheus::IntCounterVec;
use tokio_util::sync::CancellationToken;

use super::group_reader::GroupReader;
use super::shutdown_policy::ShutdownPolicy;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::telemetry::log_limit::FaultLog;

/// Delays between attempts of a batch that failed.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(100),
    most: Duration::from_secs(1),
};

/// Why an attempt of a batch failed.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(in crate::actors) struct BatchError {
    /// The failed stage, as a label value.
    stage: &'static str,
    reason: String,
}

impl BatchError {
    /// An attempt that failed at `stage`.
    pub(in crate::actors) fn new(stage: &'static str, reason: impl Display) -> BatchError {
        BatchError {
            stage,
            reason: reason.to_string(),
        }
    }

    /// The failed stage, as a label value.
    pub(in crate::actors) fn stage(&self) -> &'static str {
        self.stage
    }

    /// Flattens the reply of an actor that works on `stage`.
    pub(in crate::actors) fn of_reply<E: Display>(
        stage: &'static str,
        reply: Result<Result<(), E>, MailboxError>,
    ) -> Result<(), BatchError> {
        reply
            .map_err(|error| BatchError::new(stage, error))?
            .map_err(|error| BatchError::new(stage, error))
    }
}

/// Retries the batches of one consumer.
pub(in crate::actors) struct BatchRetry {
    group: String,
    policy: ShutdownPolicy,
    stop: CancellationToken,
    errors: IntCounterVec,
    log: FaultLog,
}

impl BatchRetry {
    /// Retries for the group of `reader`, and counts failures in `errors`.
    pub(in crate::actors) fn new(reader: &GroupReader, errors: IntCounterVec) -> BatchRetry {
        BatchRetry {
            group: reader.settings().group.clone(),
            policy: reader.policy(),
            stop: reader.stop().clone(),
            errors,
            log: FaultLog::new(),
        }
    }

    /// Repeats `attempt` after a first failure, until it succeeds. Returns `false` if the batch of
    /// this many records is abandoned, because the process stops and the bus still holds it.
    pub(in crate::actors) async fn repeat(
        &self,
        records: usize,
        first: BatchError,
        mut attempt: impl AsyncFnMut() -> Result<(), BatchError>,
    ) -> bool {
        let mut backoff = Backoff::new(RETRY, Timestamp::now().micros() as u64);
        let mut logged = None;
        let mut last = Err(first);
        while let Err(BatchError { stage, reason }) = last {
            self.errors.with_label_values(&[stage]).inc();
            self.log_cause(&mut logged, reason);
            let was_stopping = self.stop.is_cancelled();
            if self.policy.abandons_failed(was_stopping) {
                self.log_abandoned(records);
                return false;
            }
            self.wait(backoff.next_delay(), was_stopping).await;
            last = attempt().await;
        }
        if self.log.recovered() {
            info!(group = self.group.as_str(), tries = backoff.failures(); "batch succeeded after retries");
        }
        true
    }

    /// Logs each cause once, however long it lasts.
    fn log_cause(&self, logged: &mut Option<String>, reason: String) {
        if logged.as_ref() == Some(&reason) {
            return;
        }
        if let Some(repeated) = self.log.failed(&reason) {
            error!(group = self.group.as_str(), repeated; "batch failed, retrying until it succeeds: {reason}");
        }
        *logged = Some(reason);
    }

    /// Waits before the next attempt. A stop cuts the wait short, and one more attempt follows.
    async fn wait(&self, delay: Duration, was_stopping: bool) {
        if was_stopping {
            tokio::time::sleep(delay).await;
        } else {
            let _ = tokio::time::timeout(delay, self.stop.cancelled()).await;
        }
    }

    /// Logs that a batch is left to the next process.
    pub(in crate::actors) fn log_abandoned(&self, records: usize) {
        warn!(group = self.group.as_str(), records; "shutting down mid-batch; the next consumer re-reads it");
    }
}
