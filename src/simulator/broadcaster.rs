//! The actor that makes the updates at the set rate and hands each one to every consumer.
//!
//! Nothing is left out for a consumer, and nobody is waited for: one whose mailbox is full has
//! fallen too far behind and is closed. It connects again and gets the current state. A consumer
//! that has stopped reading altogether cannot close itself (its actor is frozen), so its socket is
//! shut from here once it had its chance.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_web_actors::ws::CloseCode;
use bytestring::ByteString;

use super::market_maker::MarketMaker;
use super::pace::Pace;
use crate::domain::timestamp::Timestamp;
use crate::runtime::connection::ConnectionHandle;
use crate::telemetry::metrics::SimulatorMetrics;

/// How long a consumer has to take its close frame before its socket is shut.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// The most updates in one message to a consumer; with the bound of its mailbox, how far behind it
/// may fall.
pub(super) const MAX_IN_A_PUSH: usize = 1_024;

/// What a consumer's session is handed.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(super) enum Push {
    /// Updates, encoded once for all.
    Updates(Arc<[ByteString]>),
    /// The end, and why.
    Close(CloseCode),
}

/// Takes a consumer in: it gets the current state of each market, then each update.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Join {
    /// The consumer, one for the life of the process.
    pub id: u64,
    /// Where its updates go.
    pub outlet: Recipient<Push>,
    /// Its connection, to be shut from outside.
    pub socket: Option<ConnectionHandle>,
}

/// Forgets a consumer that has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Leave(pub u64);

/// Ends all consumers, and whoever comes after.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Stop;

struct Consumer {
    outlet: Recipient<Push>,
    socket: Option<ConnectionHandle>,
}

/// A consumer that was told to close.
struct Closing {
    socket: Option<ConnectionHandle>,
    deadline: Instant,
}

/// See the module.
pub(super) struct Broadcaster {
    maker: MarketMaker,
    pace: Pace,
    /// The encoded latest state of each market.
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
        while due > 0 && !self.stopping {
            let count = due.min(MAX_IN_A_PUSH);
            let frames = self.make(count);
            if frames.is_empty() {
                break;
            }
            self.metrics.updates.inc_by(frames.len() as u64);
            self.hand_out(frames.into());
            due -= count;
        }
        self.shut_overdue(Instant::now());
        ctx.run_later(self.pace.wait(Instant::now()), Broadcaster::tick);
    }

    fn make(&mut self, count: usize) -> Vec<ByteString> {
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(place) = self.maker.advance(Timestamp::now()) else {
                break;
            };
            let Some(update) = self.maker.market(place) else {
                break;
            };
            let frame = ByteString::from(update.to_json());
            if let Some(latest) = self.latest.get_mut(place) {
                latest.clone_from(&frame);
            }
            frames.push(frame);
        }
        frames
    }

    fn hand_out(&mut self, frames: Arc<[ByteString]>) {
        let mut lagging = Vec::new();
        self.consumers.retain(|id, consumer| {
            match consumer.outlet.try_send(Push::Updates(frames.clone())) {
                Ok(()) => true,
                Err(SendError::Closed(_)) => false,
                Err(SendError::Full(_)) => {
                    lagging.push(*id);
                    true
                }
            }
        });
        for id in lagging {
            log::warn!(consumer = id; "a consumer does not keep up and is closed");
            self.metrics.lagging_closed.inc();
            self.close(id, CloseCode::Again);
        }
    }

    /// Sends no more to a consumer and tells it why. It comes behind what is in its mailbox
    /// already.
    fn close(&mut self, id: u64, code: CloseCode) {
        let Some(consumer) = self.consumers.remove(&id) else {
            return;
        };
        // Past the bound of the mailbox: once in the life of a consumer.
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
                log::debug!(consumer = *id; "a consumer took no close frame; its socket is shut");
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
            .try_send(Push::Updates(self.latest.clone().into()))
            .is_err()
        {
            // Its mailbox is new and empty: it can only have ended.
            self.consumers.remove(&join.id);
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
