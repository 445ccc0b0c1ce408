//! Subscribes to the broadcast channels over a dedicated connection that is recreated after every
//! gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use log::warn;
use redis::{AsyncConnectionConfig, Msg, PushInfo, PushKind, RedisError, Value};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep};

use super::address::{Address, Link};
use super::channels::Channels;
use super::incoming::Incoming;
use crate::cache::{
    Broadcast, BroadcastEvent, BroadcastStream, CacheError, RefusedBroadcasts, SourceView,
};
use crate::domain::odds::plausible::Plausibility;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::telemetry::role;

/// Reconnect backoff, before jitter, which at most doubles it.
const RETRY_BACKOFF: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(50),
    most: Duration::from_millis(250),
};
/// A connection that ends sooner than this counts as a failed attempt.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// Backoff after connections that did not last.
const FLAPPING_BACKOFF: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(50),
    most: Duration::from_secs(5),
};
/// How often the connection is checked with a ping.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// The capacity of the queue of unread messages; an overflow is a gap.
const QUEUE_CAPACITY: usize = 16_384;
/// The maximum number of messages handled together.
const MAX_BATCH: usize = 512;
/// Log interval for unreadable messages.
const UNREADABLE_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Log interval for messages of other deployments.
const STRANGER_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The broadcasts received over Redis.
pub(super) struct RedisBroadcasts {
    /// The task, until it is started.
    subscriber: Option<SubscriberTask>,
    /// The events of the running task.
    events: Option<(Receiver<BroadcastEvent>, JoinHandle<()>)>,
}

impl RedisBroadcasts {
    /// Subscribes when first polled.
    pub(super) fn new(
        address: Address,
        channels: Channels,
        limits: Plausibility,
    ) -> RedisBroadcasts {
        RedisBroadcasts::with_queue(address, channels, limits, QUEUE_CAPACITY)
    }

    pub(super) fn with_queue(
        address: Address,
        channels: Channels,
        limits: Plausibility,
        queue: usize,
    ) -> RedisBroadcasts {
        let subscriber = SubscriberTask {
            address,
            channels,
            limits,
            queue,
            unreadable: LogThrottle::default(),
            strangers: LogThrottle::default(),
        };
        RedisBroadcasts {
            subscriber: Some(subscriber),
            events: None,
        }
    }
}

impl Drop for RedisBroadcasts {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.events {
            task.abort();
        }
    }
}

impl BroadcastStream for RedisBroadcasts {
    fn next(&mut self) -> BoxFuture<'_, BroadcastEvent> {
        if let Some(subscriber) = self.subscriber.take() {
            // Capacity one: the backlog stays in the monitored queue.
            let (sender, receiver) = mpsc::channel(1);
            self.events = Some((
                receiver,
                tokio::spawn(role::inherit(subscriber.listen(sender))),
            ));
        }
        async {
            match &mut self.events {
                Some((receiver, _)) => match receiver.recv().await {
                    Some(event) => event,
                    // The task only ends this way after a panic.
                    None => BroadcastEvent::Ended(
                        "the redis subscriber task ended unexpectedly".to_owned(),
                    ),
                },
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

/// Limits one kind of log line to one per interval, with a count of all.
#[derive(Default)]
struct LogThrottle {
    count: u64,
    logged: Option<Instant>,
}

impl LogThrottle {
    /// Counts one occurrence. Returns the count if a log line is due.
    fn count(&mut self, interval: Duration) -> Option<u64> {
        self.count += 1;
        let is_due = self.logged.is_none_or(|at| at.elapsed() >= interval);
        is_due.then(|| {
            self.logged = Some(Instant::now());
            std::mem::take(&mut self.count)
        })
    }
}

struct SubscriberTask {
    address: Address,
    channels: Channels,
    limits: Plausibility,
    queue: usize,
    unreadable: LogThrottle,
    strangers: LogThrottle,
}

/// The content of a batch of messages.
#[derive(Default)]
struct Batch {
    changes: Vec<Broadcast>,
    is_alive: bool,
    is_own_alive: bool,
    views: Vec<SourceView>,
    unreadable: u64,
    refused: RefusedBroadcasts,
}

impl Batch {
    /// The events to report, in order.
    fn into_events(self) -> Vec<BroadcastEvent> {
        let mut events = Vec::new();
        if self.unreadable > 0 {
            events.push(BroadcastEvent::Unreadable(self.unreadable));
        }
        if !self.refused.counts.is_empty() {
            events.push(BroadcastEvent::Refused(self.refused));
        }
        if !self.changes.is_empty() {
            events.push(BroadcastEvent::Changes(self.changes));
        }
        // Changes with a sequence number do not count as a heartbeat, so one among them is reported
        // separately. After the changes: what it says about the sources must not overtake the
        // suspensions before it.
        if self.is_own_alive || self.is_alive {
            events.push(BroadcastEvent::Alive {
                is_own: self.is_own_alive,
                views: self.views,
            });
        }
        events
    }
}

/// The connection and its push messages.
struct SubscriberConnection {
    link: Link,
    pushes: Receiver<PushInfo>,
    overflowed: Arc<AtomicBool>,
}

/// The receiver was dropped.
struct ReceiverDropped;

impl SubscriberTask {
    /// Runs until the receiver is dropped.
    async fn listen(mut self, events: Sender<BroadcastEvent>) {
        let mut backoff = Backoff::new(RETRY_BACKOFF, fastrand::u64(..));
        let mut flapping = Backoff::new(FLAPPING_BACKOFF, fastrand::u64(..));
        let mut loss_reported = false;
        loop {
            let mut delay = Duration::ZERO;
            let why = match self.connect().await {
                Ok(connection) => {
                    backoff.reset();
                    loss_reported = false;
                    let since = Instant::now();
                    let why = match self.receive(connection, &events).await {
                        Ok(why) => why,
                        Err(ReceiverDropped) => return,
                    };
                    if since.elapsed() >= STABLE_AFTER {
                        flapping.reset();
                    }
                    delay = flapping.next_delay();
                    why
                }
                Err(error) => error,
            };
            if !loss_reported
                && events
                    .send(BroadcastEvent::Lost(why.to_string()))
                    .await
                    .is_err()
            {
                return;
            }
            loss_reported = true;
            sleep(delay.max(backoff.next_delay())).await;
        }
    }

    async fn connect(&self) -> Result<SubscriberConnection, CacheError> {
        let (push, pushes) = mpsc::channel(self.queue);
        let overflowed = Arc::new(AtomicBool::new(false));
        let full = overflowed.clone();
        let channels = self.channels.clone();
        let sender = move |pushed: PushInfo| match pushed.kind {
            // Copies are not queued: with the original's channel in use, each of our messages
            // arrives twice.
            PushKind::Message if is_copy(&channels, &pushed) => Ok(()),
            PushKind::Message | PushKind::Disconnection => push
                .try_send(pushed)
                .map_err(|_| full.store(true, Ordering::Release)),
            _ => Ok(()),
        };
        let mut link = self
            .address
            .connect(AsyncConnectionConfig::new().set_push_sender(sender))
            .await?;
        link.connection
            .subscribe(self.channels.all())
            .await
            .map_err(|error| self.address.error(&error))?;
        Ok(SubscriberConnection {
            link,
            pushes,
            overflowed,
        })
    }

    /// Reports events until there is a gap, and returns its cause.
    async fn receive(
        &mut self,
        mut connection: SubscriberConnection,
        events: &Sender<BroadcastEvent>,
    ) -> Result<CacheError, ReceiverDropped> {
        events
            .send(BroadcastEvent::Listening)
            .await
            .map_err(|_| ReceiverDropped)?;
        let mut pinging = std::pin::pin!(ping(connection.link.clone()));
        let mut pushed = Vec::with_capacity(MAX_BATCH);
        loop {
            pushed.clear();
            tokio::select! {
                error = &mut pinging => return Ok(self.address.error(&error)),
                count = connection.pushes.recv_many(&mut pushed, MAX_BATCH) => if count == 0 {
                    return Ok(self.address.unavailable("the connection was closed"));
                },
            }
            if connection.overflowed.load(Ordering::Acquire) {
                return Ok(self.address.unavailable("the broadcast queue overflowed"));
            }
            let is_closed = pushed
                .iter()
                .any(|push| push.kind == PushKind::Disconnection);
            let now = Timestamp::now();
            let mut batch = Batch::default();
            for message in pushed.drain(..).filter_map(Msg::from_push_info) {
                self.read(&message, now, &mut batch);
            }
            for event in batch.into_events() {
                events.send(event).await.map_err(|_| ReceiverDropped)?;
            }
            if is_closed {
                return Ok(self.address.unavailable("the connection was closed"));
            }
        }
    }

    fn read(&mut self, message: &Msg, now: Timestamp, batch: &mut Batch) {
        match self.channels.read(
            message.get_channel_name(),
            message.get_payload_bytes(),
            self.limits,
            now,
        ) {
            Incoming::Change(change) => batch.changes.push(*change),
            Incoming::Alive { is_own, view } => {
                batch.is_own_alive |= is_own;
                batch.is_alive |= !is_own;
                match view {
                    Ok(view) => batch.views.extend(view),
                    Err(problem) => {
                        batch.unreadable += 1;
                        self.log_rejected(&problem);
                    }
                }
            }
            Incoming::Copy => {}
            Incoming::Unreadable(problem) => {
                batch.unreadable += 1;
                self.log_rejected(&problem);
            }
            Incoming::Implausible(event, why) => {
                *batch.refused.counts.entry(why.reason()).or_default() += 1;
                batch.refused.events.insert(event);
                self.log_rejected(&why);
            }
            Incoming::Stranger(name) => {
                *batch.refused.counts.entry("deployment").or_default() += 1;
                if let Some(count) = self.strangers.count(STRANGER_LOG_INTERVAL) {
                    let channel = message.get_channel_name();
                    warn!(channel, count, deployment = name.as_str(); "broadcasts of another deployment rejected");
                }
            }
        }
    }

    fn log_rejected(&mut self, problem: &dyn std::fmt::Display) {
        if let Some(count) = self.unreadable.count(UNREADABLE_LOG_INTERVAL) {
            warn!(count; "broadcasts rejected: {problem}");
        }
    }
}

fn is_copy(channels: &Channels, pushed: &PushInfo) -> bool {
    matches!(&pushed.data[..], [Value::BulkString(channel), Value::BulkString(message)] if channels.is_copy(channel, message))
}

/// Pings until a ping fails.
async fn ping(mut link: Link) -> RedisError {
    let mut pause = interval(PING_INTERVAL);
    pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        pause.tick().await;
        if let Err(error) = redis::cmd("PING").exec_async(&mut link.connection).await {
            return error;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::odds::update::testing::update;

    #[tokio::test]
    async fn failed_subscriber_task_is_reported() {
        let (sender, receiver) = mpsc::channel(1);
        let task = tokio::spawn(std::future::pending());
        let mut broadcasts = RedisBroadcasts {
            subscriber: None,
            events: Some((receiver, task)),
        };
        drop(sender);
        assert!(matches!(broadcasts.next().await, BroadcastEvent::Ended(_)));
    }

    /// A processor says that a source is live after it has broadcast suspensions of its markets.
    #[test]
    fn views_follow_changes() {
        let batch = Batch {
            changes: vec![Broadcast {
                trace: None,
                update: update(1, 1, 1),
                seq: Some(1),
                conflated: false,
            }],
            is_own_alive: true,
            ..Batch::default()
        };
        let events = batch.into_events();
        assert!(matches!(
            events[..],
            [BroadcastEvent::Changes(_), BroadcastEvent::Alive { .. }]
        ));
    }
}
