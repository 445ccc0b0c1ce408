//! One actor per WebSocket client: moves messages between the socket, the session state and the
//! distributor.
//!
//! With its submodules the only file that depends on actix-web-actors. The protocol decisions are
//! made in [`crate::domain::streaming::session`].

mod authentication;
mod requests;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;
use actix_http::ws::{Codec, Item};
use actix_web::error::PayloadError;
use actix_web_actors::ws::{self, Message, ProtocolError, WebsocketContext};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use log::debug;
use tokio::sync::OwnedSemaphorePermit;

pub use self::authentication::ClientLimits;
use self::requests::Request;
use super::frame_queue::{FrameQueue, Outgoing};
use super::messages::{Connect, Disconnect};
use super::session_edges::SessionEdges;
use super::session_handle::{AbortHandle, SessionHandle, SessionMessage};
use crate::domain::access::Caller;
use crate::domain::streaming::fanout::{Delivery, SessionId};
use crate::domain::streaming::heartbeats::LastSent;
use crate::domain::streaming::protocol::{
    CloseReason, FeedStatus, error_message, feed_message, heartbeat_message, reconnect_message,
};
use crate::domain::streaming::session::{Effect, SessionState};
use crate::runtime::connection::{ConnectionHandle, Violation};
use crate::runtime::liveness::LivenessProbe;
use crate::runtime::permits::{AddressPermit, Permit};

/// The actor of one client.
pub struct Session {
    id: SessionId,
    edges: Arc<SessionEdges>,
    state: SessionState,
    connection: Option<ConnectionHandle>,
    liveness: Arc<LivenessProbe>,
    frame_queue: FrameQueue,
    /// Requests not yet sent to the distributor. They are sent in order, one at a time.
    requests: VecDeque<Request>,
    is_requesting: bool,
    /// Snapshots requested from the books and not answered yet.
    snapshots_in_flight: u8,
    /// The feed status last sent to the client.
    feed: FeedStatus,
    /// When something was last sent, if the client wants heartbeats.
    last_sent: Option<Arc<LastSent>>,
    fragments: Option<BytesMut>,
    /// Why the frame limiter in front of the parser ended the client's stream.
    violation: Violation,
    closed_as: &'static str,
    /// Held until the session ends.
    permits: SessionPermits,
}

/// What a session takes from the limits on sessions. Returned when dropped.
pub struct SessionPermits {
    /// The limit of the process.
    pub session: OwnedSemaphorePermit,
    /// The limit of the client's address, if it has one.
    pub address: Option<AddressPermit>,
    /// The limit of the caller, if it has one.
    pub caller: Option<Permit<u64>>,
    /// What counts when the client authenticates later.
    pub client: Box<dyn ClientLimits>,
}

impl Session {
    /// Creates a session of this caller, which holds `permits` until it ends.
    pub fn new(
        id: SessionId,
        edges: Arc<SessionEdges>,
        connection: Option<ConnectionHandle>,
        permits: SessionPermits,
        caller: Caller,
    ) -> Session {
        let state = SessionState::new(edges.limits, Instant::now());
        Session {
            id,
            state: state.of(caller, edges.access.is_odds_public()),
            edges,
            connection,
            liveness: Arc::new(LivenessProbe::new()),
            frame_queue: FrameQueue::new(),
            requests: VecDeque::new(),
            is_requesting: false,
            snapshots_in_flight: 0,
            feed: FeedStatus::Live,
            last_sent: None,
            fragments: None,
            violation: Violation::default(),
            closed_as: "client",
            permits,
        }
    }

    /// Starts the session on the bytes of its client and returns the response body. If the bytes
    /// end with an error, `violation` says why.
    pub fn start<S>(
        mut self,
        from_client: S,
        violation: Violation,
    ) -> impl Stream<Item = Result<Bytes, actix_web::Error>>
    where
        S: Stream<Item = Result<Bytes, PayloadError>> + 'static,
    {
        self.violation = violation;
        let frame_queue = self.frame_queue.clone();
        let codec = Codec::new().max_size(self.edges.max_message);
        Outgoing::new(
            WebsocketContext::with_codec(self, from_client, codec),
            frame_queue,
        )
    }

    fn act(
        &mut self,
        effects: impl IntoIterator<Item = Effect>,
        context: &mut WebsocketContext<Self>,
    ) {
        for effect in effects {
            match effect {
                Effect::Send(text) => self.send(&text),
                Effect::Refuse(refusal) => {
                    self.edges
                        .metrics
                        .refused_messages
                        .with_label_values(&[refusal.code()])
                        .inc();
                    self.send(&error_message(&refusal));
                }
                Effect::SendUpdate(frame, form) => {
                    self.frame_queue.push(frame.wire(form).clone());
                    self.record_sent();
                }
                Effect::Heartbeat(interval) => {
                    let new = || Arc::new(LastSent::new(Instant::now()));
                    let last_sent = self.last_sent.get_or_insert_with(new).clone();
                    self.requests
                        .push_back(Request::SetHeartbeat(interval, last_sent));
                }
                Effect::Subscribe(event_id, attempt, conflation) => self
                    .requests
                    .push_back(Request::Subscribe(event_id, attempt, conflation)),
                Effect::Unsubscribe(event_id) => {
                    self.requests.push_back(Request::Unsubscribe(event_id))
                }
                Effect::Authenticate(credential) => self.authenticate(&credential, context),
                Effect::WatchCaller(caller) => {
                    self.requests.push_back(Request::WatchCaller(caller))
                }
                Effect::Ping => self.frame_queue.ping(),
                Effect::Close(reason) => self.close(reason, context),
            }
        }
        self.send_next_request(context);
    }

    fn send(&self, text: &str) {
        self.frame_queue.push_text(text);
        self.record_sent();
    }

    fn record_sent(&self) {
        if let Some(last_sent) = &self.last_sent {
            last_sent.record(Instant::now());
        }
    }

    fn deliver(&mut self, delivery: &Delivery) {
        let last_sent = self.last_sent.as_deref();
        self.state.on_delivery(delivery, |frames| {
            self.frame_queue.push(frames);
            if let Some(last_sent) = last_sent {
                last_sent.record(Instant::now());
            }
        });
        if delivery.measured {
            delivery
                .frames()
                .iter()
                .for_each(|frame| self.edges.measure(frame));
            if let Some(trace) = delivery.trace() {
                trace.written();
            }
        }
        if let Some(status) = delivery.feed {
            self.feed = status;
            self.send(&feed_message(status));
        }
    }

    fn close(&mut self, reason: CloseReason, context: &mut WebsocketContext<Self>) {
        debug!(session = self.id.0, code = reason.code(); "session closing: {}", reason.text());
        self.closed_as = reason.text();
        self.frame_queue.close(Some(ws::CloseReason {
            code: ws::CloseCode::from(reason.code()),
            description: Some(reason.text().to_owned()),
        }));
        context.stop();
    }

    fn on_text(&mut self, text: &str, context: &mut WebsocketContext<Self>) {
        let effects = self.state.on_text(text, Instant::now());
        self.act(effects, context);
    }

    /// Assembles a fragmented message. Control frames may arrive between fragments.
    fn on_fragment(&mut self, item: Item, context: &mut WebsocketContext<Self>) {
        let (bytes, last) = match item {
            Item::FirstBinary(_) => return self.close(CloseReason::BinaryMessage, context),
            Item::FirstText(bytes) if self.fragments.is_none() => {
                self.fragments = Some(BytesMut::new());
                (bytes, false)
            }
            Item::FirstText(_) => return self.close(CloseReason::ProtocolError, context),
            Item::Continue(bytes) => (bytes, false),
            Item::Last(bytes) => (bytes, true),
        };
        let Some(fragments) = &mut self.fragments else {
            return self.close(CloseReason::ProtocolError, context);
        };
        if fragments.len() + bytes.len() > self.edges.max_message {
            return self.close(CloseReason::MessageTooBig, context);
        }
        fragments.extend_from_slice(&bytes);
        if last {
            let whole = self.fragments.take().unwrap_or_default();
            match std::str::from_utf8(&whole) {
                Ok(text) => self.on_text(text, context),
                Err(_) => self.close(CloseReason::BadUtf8, context),
            }
        }
    }
}

impl Actor for Session {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(self.edges.queue);
        self.edges.metrics.sessions.inc();
        let handle = SessionHandle {
            session: context.address().recipient(),
            connection: self.connection.take().map(AbortHandle::Connection),
            liveness: self.liveness.clone(),
        };
        let edges = self.edges.clone();
        let connect = Connect {
            id: self.id,
            handle,
            caller: self.state.caller().cloned(),
        };
        // Read nothing from the client before the distributor knows the session.
        let connecting = async move { edges.distributor.send(connect).await };
        context.wait(
            connecting
                .into_actor(self)
                .map(|connected, session, context| {
                    if connected.is_err() {
                        session.close(CloseReason::GoingAway, context);
                    }
                }),
        );
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.edges.metrics.sessions.dec();
        let closed_as = if self.liveness.is_evicted() {
            "slow"
        } else {
            self.closed_as
        };
        self.edges
            .metrics
            .closes
            .with_label_values(&[closed_as])
            .inc();
        // Sent once per session and must arrive, so it bypasses the mailbox limit.
        self.edges.distributor.do_send(Disconnect(self.id));
    }
}

impl Handler<SessionMessage> for Session {
    type Result = ();

    fn handle(&mut self, message: SessionMessage, context: &mut Self::Context) {
        match message {
            SessionMessage::Deliver(delivery) => self.deliver(&delivery),
            SessionMessage::Ping => {
                self.liveness.touch();
                let effect = self.state.on_ping_due(Instant::now());
                self.act([effect], context);
            }
            SessionMessage::Heartbeat(as_of) => self.send(&heartbeat_message(as_of)),
            SessionMessage::Reconnect(within) => self.send(&reconnect_message(within)),
            SessionMessage::End(reason) => self.close(reason, context),
        }
    }
}

impl StreamHandler<Result<Message, ProtocolError>> for Session {
    fn handle(&mut self, message: Result<Message, ProtocolError>, context: &mut Self::Context) {
        self.state.on_activity(Instant::now());
        match message {
            Ok(Message::Text(text)) => self.on_text(&text, context),
            Ok(Message::Binary(_)) => self.close(CloseReason::BinaryMessage, context),
            Ok(Message::Continuation(item)) => self.on_fragment(item, context),
            Ok(Message::Ping(content)) => self.frame_queue.pong(&content),
            Ok(Message::Pong(_) | Message::Nop) => {}
            Ok(Message::Close(reason)) => {
                self.frame_queue.close(reason);
                context.stop();
            }
            Err(ProtocolError::Overflow) => self.close(CloseReason::MessageTooBig, context),
            Err(ProtocolError::Io(error)) => {
                match self.violation.get().or_else(|| reason_of(&error)) {
                    Some(reason) => self.close(reason, context),
                    None => {
                        self.closed_as = "connection lost";
                        context.stop();
                    }
                }
            }
            Err(_) => self.close(CloseReason::ProtocolError, context),
        }
    }

    fn finished(&mut self, context: &mut Self::Context) {
        self.closed_as = "connection lost";
        context.stop();
    }
}

/// Maps an I/O error from the WebSocket library to the client's protocol violation. `None` if the
/// connection was lost.
fn reason_of(error: &std::io::Error) -> Option<CloseReason> {
    let text = error.to_string();
    if error.kind() == ErrorKind::InvalidData {
        // A reserved bit is set.
        Some(CloseReason::ProtocolError)
    } else if text.contains("utf-8") {
        Some(CloseReason::BadUtf8)
    } else {
        None
    }
}
