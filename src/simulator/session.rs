//! The actor of one consumer of `/ws`: writes the updates that it receives, answers pings and
//! requests for recovery, and ignores all other messages.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_web_actors::ws::{
    self, CloseCode, CloseReason, Message, ProtocolError, WebsocketContext,
};

use serde::Deserialize;

use super::Shared;
use super::broadcaster::{Join, Leave, Push, Recover};
use crate::domain::streaming::protocol::CloseReason as Reason;
use crate::http::connections::Connection;
use crate::runtime::connection::{ConnectionHandle, Violation};

/// The number of queued pushes above which a consumer counts as lagging.
pub(super) const QUEUE: usize = 64;
/// Interval between pings to a consumer.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How long a consumer may be silent, without even a pong, before it counts as gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);

/// Counts a connected consumer. The count ends with the session, however it ends.
struct ConsumerGuard {
    id: u64,
    shared: Arc<Shared>,
}

impl ConsumerGuard {
    fn take(shared: Arc<Shared>) -> ConsumerGuard {
        shared.metrics.connections.inc();
        shared.sessions.send_modify(|sessions| *sessions += 1);
        ConsumerGuard {
            id: shared.next_id(),
            shared,
        }
    }
}

impl Drop for ConsumerGuard {
    fn drop(&mut self) {
        // Bypasses the mailbox limit, at most once per consumer.
        self.shared.broadcaster.do_send(Leave(self.id));
        self.shared.metrics.connections.dec();
        self.shared
            .sessions
            .send_modify(|sessions| *sessions = sessions.saturating_sub(1));
    }
}

/// What a consumer may request.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum WireRequest {
    Recover { request: String },
}

/// The session actor; see the module documentation.
pub(super) struct Session {
    guard: ConsumerGuard,
    socket: Option<ConnectionHandle>,
    connection: Option<Rc<Connection>>,
    last_received: Instant,
    violation: Violation,
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        socket: Option<ConnectionHandle>,
        connection: Option<Rc<Connection>>,
        violation: Violation,
    ) -> Session {
        Session {
            guard: ConsumerGuard::take(shared),
            socket,
            connection,
            last_received: Instant::now(),
            violation,
        }
    }

    /// Passes on a request for recovery; any other text is ignored. Nothing more is read until the
    /// broadcaster has it, so a consumer cannot fill the broadcaster's mailbox.
    fn on_text(&self, text: &str, ctx: &mut WebsocketContext<Session>) {
        let Ok(WireRequest::Recover { request }) = serde_json::from_str(text) else {
            return;
        };
        let id = self.guard.id;
        let recover = self.guard.shared.broadcaster.send(Recover { id, request });
        let recovering = recover.into_actor(self);
        ctx.wait(recovering.map(|recovered, _, ctx| {
            if recovered.is_err() {
                end(ctx, CloseCode::Restart);
            }
        }));
    }

    fn check_liveness(&mut self, ctx: &mut WebsocketContext<Session>) {
        if self.last_received.elapsed() >= SILENCE_LIMIT {
            log::debug!(consumer = self.guard.id; "closing silent consumer");
            return end(ctx, CloseCode::Policy);
        }
        ctx.ping(b"");
    }
}

/// Sends a close frame and writes nothing after it.
fn end(ctx: &mut WebsocketContext<Session>, code: CloseCode) {
    ctx.close(Some(CloseReason {
        code,
        description: None,
    }));
    ctx.stop();
}

impl Actor for Session {
    type Context = WebsocketContext<Session>;

    fn started(&mut self, ctx: &mut WebsocketContext<Session>) {
        ctx.set_mailbox_capacity(QUEUE);
        ctx.run_interval(PING_INTERVAL, Session::check_liveness);
        let join = Join {
            id: self.guard.id,
            outlet: ctx.address().recipient(),
            socket: self.socket.take(),
        };
        let joining = self.guard.shared.broadcaster.send(join).into_actor(self);
        // A request for recovery must not arrive before this.
        ctx.wait(joining.map(|joined, _, ctx| {
            if joined.is_err() {
                end(ctx, CloseCode::Restart);
            }
        }));
    }

    fn stopped(&mut self, _: &mut WebsocketContext<Session>) {
        // The consumer may never read the remaining bytes, which keep this session and its guard
        // alive.
        if let Some(connection) = &self.connection {
            connection.session_ended();
        }
    }
}

impl Handler<Push> for Session {
    type Result = ();

    fn handle(&mut self, push: Push, ctx: &mut WebsocketContext<Session>) {
        match push {
            Push::Frames(frames) => {
                for frame in frames.iter() {
                    ctx.text(frame.clone());
                }
                self.guard
                    .shared
                    .metrics
                    .messages_sent
                    .inc_by(frames.len() as u64);
            }
            Push::Close(code) => end(ctx, code),
        }
    }
}

impl StreamHandler<Result<Message, ProtocolError>> for Session {
    fn handle(
        &mut self,
        message: Result<Message, ProtocolError>,
        ctx: &mut WebsocketContext<Session>,
    ) {
        self.last_received = Instant::now();
        match message {
            Ok(Message::Ping(data)) => ctx.pong(&data),
            Ok(Message::Close(reason)) => {
                ctx.close(reason.map(|reason| CloseReason {
                    code: reason.code,
                    description: None,
                }));
                ctx.stop();
            }
            Ok(Message::Text(text)) => self.on_text(&text, ctx),
            // A supplier only sends: all other messages of a consumer are ignored, as in the
            // original.
            Ok(_) => {}
            Err(ProtocolError::Overflow) => end(ctx, CloseCode::Size),
            Err(ws::ProtocolError::Io(_)) => match self.violation.get().map(Reason::code) {
                Some(code) => end(ctx, CloseCode::from(code)),
                None => ctx.stop(),
            },
            Err(_) => end(ctx, CloseCode::Protocol),
        }
    }
}
