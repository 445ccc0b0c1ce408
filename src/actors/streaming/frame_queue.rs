//! The write queue of a session: encoded WebSocket frames, in order.
//!
//! actix-web-actors would encode each frame again for each session and copy it twice. An encoded
//! frame is copied once, into the connection's buffer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_http::ws::{CloseReason, OpCode, Parser};
use actix_web::Error;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

use crate::domain::streaming::protocol::text_frame;

/// The frames of one session: written by its actor, read by the response body that its client
/// receives.
#[derive(Clone)]
pub(super) struct FrameQueue(Rc<RefCell<VecDeque<Bytes>>>);

impl FrameQueue {
    /// An empty queue. Most queues never hold more than one frame.
    pub(super) fn new() -> FrameQueue {
        FrameQueue(Rc::new(RefCell::new(VecDeque::with_capacity(1))))
    }

    /// Sends whole frames that are already encoded.
    pub(super) fn push(&self, frames: Bytes) {
        self.0.borrow_mut().push_back(frames);
    }

    /// Sends a text message.
    pub(super) fn push_text(&self, text: &str) {
        self.push(text_frame(text));
    }

    /// Sends a ping without content.
    pub(super) fn ping(&self) {
        /// A complete ping frame without content.
        const PING: &[u8] = &[0x89, 0];
        self.push(Bytes::from_static(PING));
    }

    /// Answers a ping.
    pub(super) fn pong(&self, content: &[u8]) {
        let mut frame = BytesMut::new();
        Parser::write_message(&mut frame, content, OpCode::Pong, true, false);
        self.push(frame.freeze());
    }

    /// Sends a close frame, the last frame of a session.
    pub(super) fn close(&self, reason: Option<CloseReason>) {
        let mut frame = BytesMut::new();
        Parser::write_close(&mut frame, reason, false);
        self.push(frame.freeze());
    }

    fn next(&self) -> Option<Bytes> {
        self.0.borrow_mut().pop_front()
    }
}

/// The response body. It yields the queued frames; if there are none, it polls `session`, the
/// actor, which sends only through the queue. While the client reads nothing, neither the body nor
/// the actor is polled.
pub(super) struct Outgoing<S> {
    /// `None` after the session has ended: its resources are released while the client still reads
    /// the rest.
    session: Option<S>,
    frame_queue: FrameQueue,
}

impl<S> Outgoing<S> {
    /// The body of a session that writes to `frame_queue`.
    pub(super) fn new(session: S, frame_queue: FrameQueue) -> Outgoing<S> {
        Outgoing {
            session: Some(session),
            frame_queue,
        }
    }
}

impl<S> Stream for Outgoing<S>
where
    S: Stream<Item = Result<Bytes, Error>> + Unpin,
{
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(frame) = self.frame_queue.next() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(session) = &mut self.session else {
            return Poll::Ready(None);
        };
        let polled = session.poll_next_unpin(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.session = None;
        }
        match self.frame_queue.next() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => polled,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::stream::poll_fn;
    use futures_util::task::noop_waker;

    use super::*;

    /// Queued frames go out in order before the session is polled again, and after it has ended.
    #[test]
    fn queued_frames_go_out_before_polling() {
        let frame_queue = FrameQueue::new();
        let polls = Rc::new(Cell::new(0));
        let from_actor = frame_queue.clone();
        let count = polls.clone();
        // An actor that sends something when it is first polled, and a close frame when it ends.
        let actor = poll_fn(move |_| {
            count.set(count.get() + 1);
            match count.get() {
                1 => {
                    from_actor.push_text("a");
                    from_actor.pong(b"b");
                    Poll::Pending
                }
                2 => Poll::Pending,
                _ => {
                    from_actor.close(None);
                    Poll::Ready(None::<Result<Bytes, Error>>)
                }
            }
        });
        let mut body = Outgoing::new(actor, frame_queue.clone());
        let waker = noop_waker();
        let mut poll = || match body.poll_next_unpin(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(frame)) => Some(frame.unwrap().to_vec()),
            Poll::Ready(None) => Some(b"end".to_vec()),
            Poll::Pending => None,
        };
        assert_eq!(
            [poll(), poll()],
            [Some(vec![0x81, 1, b'a']), Some(vec![0x8a, 1, b'b'])]
        );
        assert_eq!(polls.get(), 1, "not polled while frames were queued");
        assert_eq!(poll(), None);
        frame_queue.ping();
        assert_eq!(poll(), Some(vec![0x89, 0]));
        assert_eq!(polls.get(), 2);
        assert_eq!(
            [poll(), poll(), poll()],
            [
                Some(vec![0x88, 0]),
                Some(b"end".to_vec()),
                Some(b"end".to_vec())
            ]
        );
        assert_eq!(polls.get(), 3, "an ended actor is not polled again");
    }
}
