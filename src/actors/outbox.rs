//! What a session has yet to write: WebSocket frames that are ready, in order.
//!
//! The library would encode each frame again for each session, and copy it twice. A frame that is ready is copied once, to
//! the connection's buffer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_http::ws::{CloseReason, OpCode, Parser};
use actix_web::Error;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

use crate::domain::protocol::text_frame;

/// The frames of one session: put in by its actor, taken out by the response that its client reads.
#[derive(Clone)]
pub struct Outbox(Rc<RefCell<VecDeque<Bytes>>>);

impl Outbox {
    /// An empty one. Most never hold more than one.
    pub fn new() -> Outbox {
        Outbox(Rc::new(RefCell::new(VecDeque::with_capacity(1))))
    }

    /// Sends whole frames that are ready.
    pub fn ready(&self, frames: Bytes) {
        self.0.borrow_mut().push_back(frames);
    }

    /// Sends a text.
    pub fn text(&self, text: &str) {
        self.ready(text_frame(text));
    }

    /// Sends a ping without content.
    pub fn ping(&self) {
        /// All of a frame without content.
        const PING: &[u8] = &[0x89, 0];
        self.ready(Bytes::from_static(PING));
    }

    /// Answers a ping.
    pub fn pong(&self, content: &[u8]) {
        let mut frame = BytesMut::new();
        Parser::write_message(&mut frame, content, OpCode::Pong, true, false);
        self.ready(frame.freeze());
    }

    /// Sends the last frame.
    pub fn close(&self, reason: Option<CloseReason>) {
        let mut frame = BytesMut::new();
        Parser::write_close(&mut frame, reason, false);
        self.ready(frame.freeze());
    }

    fn next(&self) -> Option<Bytes> {
        self.0.borrow_mut().pop_front()
    }
}

/// The body of the response: what is in the outbox, and where it is empty, what `session` puts in when it is polled: the
/// actor, which sends nothing in another way. While the client takes nothing the body is not polled, and so the actor is
/// not.
pub struct Outgoing<S> {
    session: S,
    outbox: Outbox,
    ended: bool,
}

impl<S> Outgoing<S> {
    /// The body of a session that writes to `outbox`.
    pub fn new(session: S, outbox: Outbox) -> Outgoing<S> {
        Outgoing { session, outbox, ended: false }
    }
}

impl<S> Stream for Outgoing<S>
where
    S: Stream<Item = Result<Bytes, Error>> + Unpin,
{
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(frame) = self.outbox.next() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.session.poll_next_unpin(context);
        self.ended = matches!(polled, Poll::Ready(None | Some(Err(_))));
        match self.outbox.next() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => polled,
        }
    }
}
