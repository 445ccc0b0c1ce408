//! The actor of one consumer of `/ws`: writes what it is handed, answers pings, listens to nothing
//! else.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_web_actors::ws::{
    self, CloseCode, CloseReason, Message, ProtocolError, WebsocketContext,
};

use super::Shared;
use super::broadcaster::{Join, Leave, Push};
use crate::domain::streaming::protocol::CloseReason as Reason;
use crate::http::connections::Connection;
use crate::http::streaming::frame_limit::Violation;
use crate::runtime::connection::ConnectionHandle;

/// How many pushes wait for one consumer before it counts as lagging.
pub(super) const QUEUE: usize = 64;
/// How often a consumer is pinged.
const PING_EVERY: Duration = Duration::from_secs(15);
/// One that says nothing for so long, not even a pong, is gone without a word.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);

/// A consumer's place: counted as long as it is held, and given up with the session however that
/// ends.
struct Seat {
    id: u64,
    shared: Arc<Shared>,
}

impl Seat {
    fn take(shared: Arc<Shared>) -> Seat {
        shared.metrics.connections.inc();
        shared.sessions.send_modify(|sessions| *sessions += 1);
        Seat {
            id: shared.next_id(),
            shared,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Once in the life of a consumer, so past the bound of the mailbox.
        self.shared.broadcaster.do_send(Leave(self.id));
        self.shared.metrics.connections.dec();
        self.shared
            .sessions
            .send_modify(|sessions| *sessions = sessions.saturating_sub(1));
    }
}

/// See the module.
pub(super) struct Session {
    seat: Seat,
    socket: Option<ConnectionHandle>,
    connection: Option<Rc<Connection>>,
    heard: Instant,
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
            seat: Seat::take(shared),
            socket,
            connection,
            heard: Instant::now(),
            violation,
        }
    }

    fn beat(&mut self, ctx: &mut WebsocketContext<Session>) {
        if self.heard.elapsed() >= SILENCE_LIMIT {
            log::debug!(consumer = self.seat.id; "a consumer answers nothing and is given up");
            return end(ctx, CloseCode::Policy);
        }
        ctx.ping(b"");
    }
}

/// Says good-bye and writes nothing after it.
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
        ctx.run_interval(PING_EVERY, Session::beat);
        let join = Join {
            id: self.seat.id,
            outlet: ctx.address().recipient(),
            socket: self.socket.take(),
        };
        let joining = self.seat.shared.broadcaster.send(join).into_actor(self);
        ctx.spawn(joining.map(|joined, _, ctx| {
            if joined.is_err() {
                end(ctx, CloseCode::Restart);
            }
        }));
    }

    fn stopped(&mut self, _: &mut WebsocketContext<Session>) {
        // The consumer may not take the rest, which keeps this session and its guard.
        if let Some(connection) = &self.connection {
            connection.session_ended();
        }
    }
}

impl Handler<Push> for Session {
    type Result = ();

    fn handle(&mut self, push: Push, ctx: &mut WebsocketContext<Session>) {
        match push {
            Push::Updates(frames) => {
                for frame in frames.iter() {
                    ctx.text(frame.clone());
                }
                self.seat
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
        self.heard = Instant::now();
        match message {
            Ok(Message::Ping(data)) => ctx.pong(&data),
            Ok(Message::Close(reason)) => {
                ctx.close(reason.map(|reason| CloseReason {
                    code: reason.code,
                    description: None,
                }));
                ctx.stop();
            }
            // A supplier only speaks: whatever else a consumer says is passed over, as in the
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
