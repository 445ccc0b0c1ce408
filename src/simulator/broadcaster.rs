//! The actor that generates updates at the configured rate, plays the matches, and sends each change to
//! every consumer.
//!
//! Results have a `type`, which the original does not know: it would take one for an update without
//! prices. So only a consumer that has sent `recover` gets them, which the original never sends.
//!
//! No update is skipped for a consumer, and no consumer is waited for: one whose mailbox is full
//! has fallen too far behind and is closed. It can reconnect and receive the current state. A
//! consumer that has stopped reading cannot close itself, because its actor is blocked, so its
//! socket is shut down from here after a grace period.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_web_actors::ws::CloseCode;
use bytestring::ByteString;
use serde_json::json;

use super::market_maker::{Change, MarketMaker};
use super::pace::Pace;
use crate::domain::timestamp::Timestamp;
use crate::runtime::connection::ConnectionHandle;
use crate::telemetry::metrics::SimulatorMetrics;

/// How long a consumer has to read its close frame before its socket is shut down.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// The shortest time between two ticks.
const MIN_WAIT: Duration = Duration::from_millis(5);
/// Maximum number of updates per message to a consumer. Together with the mailbox capacity, it
/// limits how far a consumer may fall behind.
pub(super) const MAX_UPDATES_PER_PUSH: usize = 1_024;

/// A message to a consumer's session.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(super) enum Push {
    /// Updates and results, encoded once for all consumers.
    Frames(Arc<[ByteString]>),
    /// Closes the session with this code.
    Close(CloseCode),
}

/// Adds a consumer. It receives the current state of each market, then each update.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Join {
    /// The consumer id, unique within the process.
    pub id: u64,
    /// The recipient of its updates.
    pub outlet: Recipient<Push>,
    /// Its connection, so that the broadcaster can shut it down.
    pub socket: Option<ConnectionHandle>,
}

/// Answers a consumer's request for what it has missed. It was sent the states of all markets when it
/// joined; what it gets here are the latest results, and all results from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Recover {
    /// The consumer.
    pub id: u64,
    /// Its name of the request.
    pub request: String,
}

/// Removes a consumer that has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Leave(pub u64);

/// Closes all consumers, and those that join later.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Stop;

struct Consumer {
    outlet: Recipient<Push>,
    socket: Option<ConnectionHandle>,
    takes_results: bool,
}

/// Encoded changes.
#[derive(Default)]
struct Frames {
    /// Updates and results, in order.
    all: Vec<ByteString>,
    updates: Vec<ByteString>,
}

impl Frames {
    fn add_update(&mut self, frame: ByteString) {
        self.all.push(frame.clone());
        self.updates.push(frame);
    }
}

/// A consumer that was sent a close message.
struct Closing {
    socket: Option<ConnectionHandle>,
    deadline: Instant,
}

/// The broadcaster actor; see the module documentation.
pub(super) struct Broadcaster {
    maker: MarketMaker,
    pace: Pace,
    /// The latest encoded state of each market.
    latest: Vec<ByteString>,
    consumers: HashMap<u64, Consumer>,
    closing: HashMap<u64, Closing>,
    stopping: bool,
    metrics: SimulatorMetrics,
}

impl Broadcaster {
    pub(super) fn new(maker: MarketMaker, pace: Pace, metrics: SimulatorMetrics) -> Broadcaster {
        let latest = maker
            .current()
            .iter()
            .map(|update| update.to_json().into())
            .collect();
        Broadcaster {
            maker,
            pace,
            latest,
            consumers: HashMap::new(),
            closing: HashMap::new(),
            stopping: false,
            metrics,
        }
    }

    fn tick(&mut self, ctx: &mut Context<Broadcaster>) {
        let mut due = usize::try_from(self.pace.due(Instant::now())).unwrap_or(usize::MAX);
        if !self.stopping {
            let frames = self.play();
            self.hand_out(frames);
        }
        while due > 0 && !self.stopping {
            let count = due.min(MAX_UPDATES_PER_PUSH);
            let frames = self.make(count);
            if frames.all.is_empty() {
                break;
            }
            self.hand_out(frames);
            due -= count;
        }
        self.shut_overdue(Instant::now());
        ctx.run_later(self.wait(), Broadcaster::tick);
    }

    /// How long to wait before the next tick.
    fn wait(&self) -> Duration {
        let wait = self.pace.wait(Instant::now());
        let Some(next_step) = self.maker.next_step_at() else {
            return wait;
        };
        let seconds = next_step.seconds_since(Timestamp::now());
        let left = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        wait.min(left.max(MIN_WAIT))
    }

    fn make(&mut self, count: usize) -> Frames {
        let mut frames = Frames::default();
        for _ in 0..count {
            let Some(place) = self.maker.advance(Timestamp::now()) else {
                break;
            };
            let Some(update) = self.maker.market(place) else {
                break;
            };
            let frame = ByteString::from(update.to_json());
            self.keep_latest(place, &frame);
            frames.add_update(frame);
        }
        frames
    }

    fn play(&mut self) -> Frames {
        let mut frames = Frames::default();
        for change in self.maker.play(Timestamp::now(), MAX_UPDATES_PER_PUSH) {
            match change {
                Change::Market(place, update) => {
                    let frame = ByteString::from(update.to_json());
                    self.keep_latest(place, &frame);
                    frames.add_update(frame);
                }
                Change::Result(record) => frames.all.push(record.to_json().into()),
            }
        }
        frames
    }

    fn keep_latest(&mut self, place: usize, frame: &ByteString) {
        if let Some(latest) = self.latest.get_mut(place) {
            latest.clone_from(frame);
        }
    }

    fn hand_out(&mut self, frames: Frames) {
        self.metrics.updates.inc_by(frames.updates.len() as u64);
        let (all, updates): (Arc<[_]>, Arc<[_]>) = (frames.all.into(), frames.updates.into());
        let mut lagging = Vec::new();
        self.consumers.retain(|id, consumer| {
            let frames = if consumer.takes_results {
                &all
            } else {
                &updates
            };
            if frames.is_empty() {
                return true;
            }
            match consumer.outlet.try_send(Push::Frames(frames.clone())) {
                Ok(()) => true,
                Err(SendError::Closed(_)) => false,
                Err(SendError::Full(_)) => {
                    lagging.push(*id);
                    true
                }
            }
        });
        for id in lagging {
            log::warn!(consumer = id; "closing lagging consumer");
            self.metrics.lagging_closed.inc();
            self.close(id, CloseCode::Again);
        }
    }

    /// Stops sending to a consumer and closes it with this code, after the messages that are
    /// already in its mailbox.
    fn close(&mut self, id: u64, code: CloseCode) {
        let Some(consumer) = self.consumers.remove(&id) else {
            return;
        };
        // Bypasses the mailbox limit, at most once per consumer.
        consumer.outlet.do_send(Push::Close(code));
        self.closing.insert(
            id,
            Closing {
                socket: consumer.socket,
                deadline: Instant::now() + CLOSE_GRACE,
            },
        );
    }

    fn shut_overdue(&mut self, now: Instant) {
        self.closing.retain(|id, closing| {
            if now < closing.deadline {
                return true;
            }
            if let Some(socket) = &closing.socket {
                log::debug!(consumer = *id; "consumer did not read its close frame; shutting down its socket");
                socket.close();
            }
            false
        });
    }
}

impl Actor for Broadcaster {
    type Context = Context<Broadcaster>;

    fn started(&mut self, ctx: &mut Context<Broadcaster>) {
        self.tick(ctx);
    }
}

impl Handler<Join> for Broadcaster {
    type Result = ();

    fn handle(&mut self, join: Join, _: &mut Context<Broadcaster>) {
        if !join.outlet.connected() {
            return;
        }
        self.consumers.insert(
            join.id,
            Consumer {
                outlet: join.outlet,
                socket: join.socket,
                takes_results: false,
            },
        );
        if self.stopping {
            return self.close(join.id, CloseCode::Away);
        }
        let Some(consumer) = self.consumers.get(&join.id) else {
            return;
        };
        if consumer
            .outlet
            .try_send(Push::Frames(self.latest.clone().into()))
            .is_err()
        {
            // Its mailbox is new and empty, so the only possible error is that it has ended.
            self.consumers.remove(&join.id);
        }
    }
}

impl Handler<Recover> for Broadcaster {
    type Result = ();

    fn handle(&mut self, Recover { id, request }: Recover, _: &mut Context<Self>) {
        let Some(consumer) = self.consumers.get_mut(&id) else {
            return;
        };
        consumer.takes_results = true;
        let results = self.maker.recent_results();
        let mut frames: Vec<ByteString> = results.map(|one| one.to_json().into()).collect();
        frames.push(
            json!({"type": "recovered", "request": request})
                .to_string()
                .into(),
        );
        if consumer
            .outlet
            .try_send(Push::Frames(frames.into()))
            .is_err()
        {
            // It would miss results.
            self.close(id, CloseCode::Again);
        }
    }
}

impl Handler<Leave> for Broadcaster {
    type Result = ();

    fn handle(&mut self, Leave(id): Leave, _: &mut Context<Broadcaster>) {
        self.consumers.remove(&id);
        self.closing.remove(&id);
    }
}

impl Handler<Stop> for Broadcaster {
    type Result = ();

    fn handle(&mut self, _: Stop, _: &mut Context<Broadcaster>) {
        self.stopping = true;
        let ids: Vec<u64> = self.consumers.keys().copied().collect();
        for id in ids {
            self.close(id, CloseCode::Away);
        }
    }
}
