//! Sends spans to the collector, on a thread of its own: the exporter's client blocks.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, warn};
use prometheus::IntCounter;

use super::queue::Queue;

/// How long spans wait for others.
const LINGER: Duration = Duration::from_millis(500);
/// Minimum interval between two warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Counts of spans.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    /// Accepted by the collector.
    pub exported: IntCounter,
    /// Lost, because the queue was full or the collector did not accept them.
    pub dropped: IntCounter,
}

/// The thread that exports.
#[derive(Debug)]
pub(super) struct Worker {
    ended: Receiver<()>,
}

impl Worker {
    /// Exports the spans of `queue` with `export` until the queue is closed.
    pub(super) fn start<T: Send + 'static>(
        queue: Arc<Queue<T>>,
        counts: Counts,
        export: impl FnMut(Vec<T>) -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<Worker> {
        let (ending, ended) = mpsc::channel();
        let thread = thread::Builder::new().name("trace-export".to_owned());
        thread.spawn(move || run(&queue, &counts, export, ending))?;
        Ok(Worker { ended })
    }

    /// Waits until the worker has ended. Returns `false` after `limit`.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        // The worker sends nothing; its end closes the channel.
        self.ended.recv_timeout(limit) != Err(mpsc::RecvTimeoutError::Timeout)
    }
}

fn run<T>(
    queue: &Queue<T>,
    counts: &Counts,
    mut export: impl FnMut(Vec<T>) -> Result<(), String>,
    _ending: Sender<()>,
) {
    let mut losses = Losses::default();
    while let Some(batch) = queue.next_batch(LINGER) {
        let size = batch.len() as u64;
        if size > 0 {
            match export(batch) {
                Ok(()) => counts.exported.inc_by(size),
                Err(cause) => {
                    counts.dropped.inc_by(size);
                    losses.cause = Some(cause);
                }
            }
        }
        if let Some(spans) = losses.reportable(counts.dropped.get(), Instant::now()) {
            let cause = losses.cause.take();
            let cause = cause
                .as_deref()
                .unwrap_or("more spans than the collector accepts in time");
            warn!(spans; "trace spans dropped: {cause}");
        }
    }
    debug!(exported = counts.exported.get(), dropped = counts.dropped.get(); "trace export ended");
}

/// Decides when losses are logged: at once, and then at most once a minute.
#[derive(Debug, Default)]
struct Losses {
    /// Why the last export failed that is not reported yet.
    cause: Option<String>,
    /// How many spans were lost when they were last logged.
    reported: u64,
    last: Option<Instant>,
}

impl Losses {
    /// The number of spans to report as lost now.
    fn reportable(&mut self, dropped: u64, now: Instant) -> Option<u64> {
        let new = dropped.saturating_sub(self.reported);
        let is_early = |last| now.saturating_duration_since(last) < WARN_INTERVAL;
        if new == 0 || self.last.is_some_and(is_early) {
            return None;
        }
        self.reported = dropped;
        self.last = Some(now);
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn counts() -> Counts {
        let counter = |name| IntCounter::new(name, name).unwrap();
        Counts {
            exported: counter("exported"),
            dropped: counter("dropped"),
        }
    }

    #[test]
    fn losses_are_reported_once_a_minute() {
        let (mut losses, start) = (Losses::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(losses.reportable(0, start), None);
        assert_eq!(losses.reportable(3, after(1)), Some(3));
        assert_eq!(losses.reportable(9, after(60)), None);
        assert_eq!(losses.reportable(10, after(61)), Some(7));
        assert_eq!(losses.reportable(10, after(200)), None);
    }

    #[test]
    fn failed_exports_are_counted_and_the_rest_goes_on() {
        let counts = counts();
        let queue = Arc::new(Queue::new(counts.dropped.clone()));
        let (sent, received) = channel();
        let mut is_first = true;
        let export = move |batch: Vec<u8>| {
            sent.send(batch).unwrap();
            if std::mem::take(&mut is_first) {
                Err("refused".to_owned())
            } else {
                Ok(())
            }
        };
        let worker = Worker::start(queue.clone(), counts.clone(), export).unwrap();
        queue.push(1);
        assert_eq!(received.recv().unwrap(), [1]);
        queue.push(2);
        queue.close();
        assert!(worker.wait(Duration::from_secs(60)));
        assert_eq!(received.recv().unwrap(), [2]);
        assert_eq!((counts.dropped.get(), counts.exported.get()), (1, 1));
    }

    /// The process ends in time although the collector does not answer.
    #[test]
    fn waiting_for_export_is_limited() {
        let counts = counts();
        let queue = Arc::new(Queue::new(counts.dropped.clone()));
        let (release, hanging) = channel::<()>();
        let export = move |_: Vec<u8>| hanging.recv().map_err(|_| "hung".to_owned());
        let worker = Worker::start(queue.clone(), counts, export).unwrap();
        queue.push(1);
        queue.close();
        assert!(!worker.wait(Duration::from_millis(50)));
        drop(release);
        assert!(worker.wait(Duration::from_secs(60)));
    }
}
