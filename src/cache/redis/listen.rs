//! Listens on the channel of the broadcast, over a connection of its own that is made anew after every gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use log::warn;
use redis::{AsyncConnectionConfig, Msg, PushInfo, PushKind, RedisError};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep};

use super::address::{Address, Link};
use super::wire;
use crate::cache::{Broadcast, Broadcasts, CacheError, Heard};
use crate::domain::backoff::{Backoff, BackoffPolicy};

/// Delays between tries, before jitter, which at most doubles them.
const RETRY: BackoffPolicy = BackoffPolicy { first: Duration::from_millis(50), most: Duration::from_millis(250) };
/// A connection that ends sooner than this after it was made counts as a failed try.
const LASTING: Duration = Duration::from_secs(5);
/// Delays after connections that did not last.
const FLAPPING: BackoffPolicy = BackoffPolicy { first: Duration::from_millis(50), most: Duration::from_secs(5) };
/// How often the connection is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Messages that may wait to be read; one more is a gap.
const QUEUE: usize = 16_384;
/// The most messages that are handed on together.
const BATCH: usize = 512;
/// How often it is logged that messages cannot be read.
const UNREADABLE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What is heard over Redis.
pub(super) struct RedisBroadcasts {
    ear: Option<Ear>,
    heard: Option<(Receiver<Heard>, JoinHandle<()>)>,
}

impl RedisBroadcasts {
    /// Listens once it is first asked.
    pub fn new(address: Address, channel: String) -> RedisBroadcasts {
        RedisBroadcasts::with_queue(address, channel, QUEUE)
    }

    pub fn with_queue(address: Address, channel: String, queue: usize) -> RedisBroadcasts {
        RedisBroadcasts { ear: Some(Ear { address, channel, queue, unreadable: Unreadable::default() }), heard: None }
    }
}

impl Drop for RedisBroadcasts {
    fn drop(&mut self) {
        if let Some((_, listening)) = &self.heard {
            listening.abort();
        }
    }
}

impl Broadcasts for RedisBroadcasts {
    fn next(&mut self) -> BoxFuture<'_, Heard> {
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
                    None => Heard::Ended("what listens to Redis has ended in the middle".to_owned()),
                },
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

/// What is not UTF-8, not JSON, or no update.
#[derive(Default)]
struct Unreadable {
    count: u64,
    logged: Option<Instant>,
}

impl Unreadable {
    fn count(&mut self, problem: &str) {
        self.count += 1;
        if self.logged.is_none_or(|at| at.elapsed() >= UNREADABLE_LOG_INTERVAL) {
            warn!(count = self.count; "broadcasts cannot be read and are passed over: {problem}");
            *self = Unreadable { count: 0, logged: Some(Instant::now()) };
        }
    }
}

struct Ear {
    address: Address,
    channel: String,
    queue: usize,
    unreadable: Unreadable,
}

/// The connection, and what it pushes.
struct Line {
    link: Link,
    pushes: Receiver<PushInfo>,
    overflowed: Arc<AtomicBool>,
}

/// Nobody listens any more.
struct Unheard;

impl Ear {
    /// Hears until nobody listens.
    async fn listen(mut self, tell: Sender<Heard>) {
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
                        Err(Unheard) => return,
                    };
                    if since.elapsed() >= LASTING {
                        flapping.reset();
                    }
                    delay = flapping.next_delay();
                    why
                }
                Err(error) => error,
            };
            if !is_lost_told && tell.send(Heard::Lost(why.to_string())).await.is_err() {
                return;
            }
            is_lost_told = true;
            sleep(delay.max(backoff.next_delay())).await;
        }
    }

    async fn connect(&self) -> Result<Line, CacheError> {
        let (push, pushes) = mpsc::channel(self.queue);
        let overflowed = Arc::new(AtomicBool::new(false));
        let full = overflowed.clone();
        let sender = move |pushed: PushInfo| match pushed.kind {
            PushKind::Message | PushKind::Disconnection => {
                push.try_send(pushed).map_err(|_| full.store(true, Ordering::Release))
            }
            _ => Ok(()),
        };
        let mut link = self.address.connect(AsyncConnectionConfig::new().set_push_sender(sender)).await?;
        let channels = [self.channel.clone(), wire::alive_channel(&self.channel)];
        link.connection.subscribe(&channels).await.map_err(|error| self.address.error(&error))?;
        Ok(Line { link, pushes, overflowed })
    }

    /// Hands on what comes until there is a gap, and says what it was.
    async fn hear(&mut self, mut line: Line, tell: &Sender<Heard>) -> Result<CacheError, Unheard> {
        tell.send(Heard::Listening).await.map_err(|_| Unheard)?;
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
                return Ok(self.address.unavailable("more broadcasts came than could be taken"));
            }
            let is_closed = pushed.iter().any(|push| push.kind == PushKind::Disconnection);
            let (mut changes, mut is_alive, mut unreadable) = (Vec::new(), false, 0);
            for message in pushed.drain(..).filter_map(Msg::from_push_info) {
                if message.get_channel_name() == self.channel {
                    match self.read(&message) {
                        Some(change) => changes.push(change),
                        None => unreadable += 1,
                    }
                } else {
                    is_alive = true;
                }
            }
            if unreadable > 0 {
                tell.send(Heard::Unreadable(unreadable)).await.map_err(|_| Unheard)?;
            }
            // Changes are a sign of life as well.
            if !changes.is_empty() {
                tell.send(Heard::Changes(changes)).await.map_err(|_| Unheard)?;
            } else if is_alive {
                tell.send(Heard::Alive).await.map_err(|_| Unheard)?;
            }
            if is_closed {
                return Ok(self.address.unavailable("the connection was closed"));
            }
        }
    }

    fn read(&mut self, message: &Msg) -> Option<Broadcast> {
        match wire::read_broadcast(message.get_payload_bytes()) {
            Ok(broadcast) => Some(broadcast),
            Err(problem) => {
                self.unreadable.count(&problem);
                None
            }
        }
    }
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
        let mut broadcasts = RedisBroadcasts { ear: None, heard: Some((heard, listening)) };
        drop(tell);
        assert!(matches!(broadcasts.next().await, Heard::Ended(_)));
    }
}
