//! Listens on the channel of the broadcast, over a connection of its own that is made anew after
//! every gap.

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
use super::channels::{Channels, Incoming};
use crate::cache::{Broadcast, BroadcastEvent, BroadcastStream, CacheError, RefusedBroadcasts};
use crate::domain::odds::plausible::Plausibility;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};

/// Delays between tries, before jitter, which at most doubles them.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(50),
    most: Duration::from_millis(250),
};
/// A connection that ends sooner than this after it was made counts as a failed try.
const LASTING: Duration = Duration::from_secs(5);
/// Delays after connections that did not last.
const FLAPPING: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(50),
    most: Duration::from_secs(5),
};
/// How often the connection is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Messages that may wait to be read; one more is a gap.
const QUEUE: usize = 16_384;
/// The most messages that are handed on together.
const BATCH: usize = 512;
/// How often it is logged that messages cannot be read.
const UNREADABLE_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How often another deployment is named.
const STRANGER_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What is heard over Redis.
pub(super) struct RedisBroadcasts {
    ear: Option<SubscriberTask>,
    heard: Option<(Receiver<BroadcastEvent>, JoinHandle<()>)>,
}

impl RedisBroadcasts {
    /// Listens once it is first asked.
    pub fn new(address: Address, channels: Channels, limits: Plausibility) -> RedisBroadcasts {
        RedisBroadcasts::with_queue(address, channels, limits, QUEUE)
    }

    pub fn with_queue(
        address: Address,
        channels: Channels,
        limits: Plausibility,
        queue: usize,
    ) -> RedisBroadcasts {
        let ear = SubscriberTask {
            address,
            channels,
            limits,
            queue,
            unreadable: HeldBack::default(),
            strangers: HeldBack::default(),
        };
        RedisBroadcasts {
            ear: Some(ear),
            heard: None,
        }
    }
}

impl Drop for RedisBroadcasts {
    fn drop(&mut self) {
        if let Some((_, listening)) = &self.heard {
            listening.abort();
        }
    }
}

impl BroadcastStream for RedisBroadcasts {
    fn next(&mut self) -> BoxFuture<'_, BroadcastEvent> {
        if let Some(ear) = self.ear.take() {
            // Room for one: what waits, waits in the queue that is watched.
            let (tell, heard) = mpsc::channel(1);
            self.heard = Some((heard, tokio::spawn(ear.listen(tell))));
        }
        async {
            match &mut self.heard {
                Some((heard, _)) => match heard.recv().await {
                    Some(heard) => heard,
                    // The task does not end while it is listened to, but by a fault.
                    None => BroadcastEvent::Ended(
                        "what listens to Redis has ended in the middle".to_owned(),
                    ),
                },
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

/// Log lines of one kind: one an interval, with how many there would have been.
#[derive(Default)]
struct HeldBack {
    count: u64,
    logged: Option<Instant>,
}

impl HeldBack {
    /// Counts one, and gives how many there were where it is time for a line.
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
    unreadable: HeldBack,
    strangers: HeldBack,
}

/// What a batch of messages comes to.
#[derive(Default)]
struct Batch {
    changes: Vec<Broadcast>,
    is_alive: bool,
    is_own_alive: bool,
    unreadable: u64,
    refused: RefusedBroadcasts,
}

impl Batch {
    /// What is to be told of it, in its order.
    fn into_heard(self) -> Vec<BroadcastEvent> {
        let mut heard = Vec::new();
        if self.unreadable > 0 {
            heard.push(BroadcastEvent::Unreadable(self.unreadable));
        }
        if !self.refused.counts.is_empty() {
            heard.push(BroadcastEvent::Refused(self.refused));
        }
        // Changes with a number are no sign of life, so a heartbeat among them counts by itself.
        if self.is_own_alive || self.is_alive {
            heard.push(BroadcastEvent::Alive {
                is_own: self.is_own_alive,
            });
        }
        if !self.changes.is_empty() {
            heard.push(BroadcastEvent::Changes(self.changes));
        }
        heard
    }
}

/// The connection, and what it pushes.
struct SubscriberConnection {
    link: Link,
    pushes: Receiver<PushInfo>,
    overflowed: Arc<AtomicBool>,
}

/// Nobody listens any more.
struct ReceiverDropped;

impl SubscriberTask {
    /// Hears until nobody listens.
    async fn listen(mut self, tell: Sender<BroadcastEvent>) {
        let mut backoff = Backoff::new(RETRY, fastrand::u64(..));
        let mut flapping = Backoff::new(FLAPPING, fastrand::u64(..));
        let mut is_lost_told = false;
        loop {
            let mut delay = Duration::ZERO;
            let why = match self.connect().await {
                Ok(line) => {
                    backoff.reset();
                    is_lost_told = false;
                    let since = Instant::now();
                    let why = match self.hear(line, &tell).await {
                        Ok(why) => why,
                        Err(ReceiverDropped) => return,
                    };
                    if since.elapsed() >= LASTING {
                        flapping.reset();
                    }
                    delay = flapping.next_delay();
                    why
                }
                Err(error) => error,
            };
            if !is_lost_told
                && tell
                    .send(BroadcastEvent::Lost(why.to_string()))
                    .await
                    .is_err()
            {
                return;
            }
            is_lost_told = true;
            sleep(delay.max(backoff.next_delay())).await;
        }
    }

    async fn connect(&self) -> Result<SubscriberConnection, CacheError> {
        let (push, pushes) = mpsc::channel(self.queue);
        let overflowed = Arc::new(AtomicBool::new(false));
        let full = overflowed.clone();
        let channels = self.channels.clone();
        let sender = move |pushed: PushInfo| match pushed.kind {
            // Not put into the queue: where the original's channel is used, each of our messages
            // comes twice.
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

    /// Hands on what comes until there is a gap, and says what it was.
    async fn hear(
        &mut self,
        mut line: SubscriberConnection,
        tell: &Sender<BroadcastEvent>,
    ) -> Result<CacheError, ReceiverDropped> {
        tell.send(BroadcastEvent::Listening)
            .await
            .map_err(|_| ReceiverDropped)?;
        let mut pinging = std::pin::pin!(ping(line.link.clone()));
        let mut pushed = Vec::with_capacity(BATCH);
        loop {
            pushed.clear();
            tokio::select! {
                error = &mut pinging => return Ok(self.address.error(&error)),
                count = line.pushes.recv_many(&mut pushed, BATCH) => if count == 0 {
                    return Ok(self.address.unavailable("the connection was closed"));
                },
            }
            if line.overflowed.load(Ordering::Acquire) {
                return Ok(self
                    .address
                    .unavailable("more broadcasts came than could be taken"));
            }
            let is_closed = pushed
                .iter()
                .any(|push| push.kind == PushKind::Disconnection);
            let (now, mut batch) = (Timestamp::now(), Batch::default());
            for message in pushed.drain(..).filter_map(Msg::from_push_info) {
                self.read(&message, now, &mut batch);
            }
            for heard in batch.into_heard() {
                tell.send(heard).await.map_err(|_| ReceiverDropped)?;
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
            Incoming::Alive { is_own: true } => batch.is_own_alive = true,
            Incoming::Alive { is_own: false } => batch.is_alive = true,
            Incoming::Copy => {}
            Incoming::Unreadable(problem) => {
                batch.unreadable += 1;
                self.pass_over(&problem);
            }
            Incoming::Implausible(event, why) => {
                *batch.refused.counts.entry(why.reason()).or_default() += 1;
                batch.refused.events.insert(event);
                self.pass_over(&why);
            }
            Incoming::Stranger(name) => {
                *batch.refused.counts.entry("deployment").or_default() += 1;
                if let Some(count) = self.strangers.count(STRANGER_LOG_INTERVAL) {
                    let channel = message.get_channel_name();
                    warn!(channel, count, deployment = name.as_str(); "broadcasts of another deployment are refused");
                }
            }
        }
    }

    fn pass_over(&mut self, problem: &dyn std::fmt::Display) {
        if let Some(count) = self.unreadable.count(UNREADABLE_LOG_INTERVAL) {
            warn!(count; "broadcasts are refused: {problem}");
        }
    }
}

fn is_copy(channels: &Channels, pushed: &PushInfo) -> bool {
    matches!(&pushed.data[..], [Value::BulkString(channel), Value::BulkString(message)] if channels.is_copy(channel, message))
}

/// Asks for a sign of life until none comes.
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

    #[tokio::test]
    async fn a_listening_that_ends_by_a_fault_is_told() {
        let (tell, heard) = mpsc::channel(1);
        let listening = tokio::spawn(std::future::pending());
        let mut broadcasts = RedisBroadcasts {
            ear: None,
            heard: Some((heard, listening)),
        };
        drop(tell);
        assert!(matches!(broadcasts.next().await, BroadcastEvent::Ended(_)));
    }
}
