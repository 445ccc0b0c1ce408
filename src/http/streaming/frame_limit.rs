//! Checks and counts a WebSocket client's frames before the frame parser buffers them.
//!
//! Needed because actix-web-actors reads everything that has arrived into an unbounded buffer, and
//! decodes only a few frames at a time. It knows the size of a frame only when the whole frame is
//! buffered.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::error::PayloadError;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::domain::streaming::protocol::CloseReason;
use crate::http::connections::{Connection, MessageDeadline};
use crate::runtime::connection::Violation;

const MASK_BYTES: u64 = 4;
const MAX_CONTROL_PAYLOAD: u64 = 125;
/// A shorter read counts as a frame even if none begins in it: it costs about as much.
const TINY_READ: usize = 128;
const WINDOW: Duration = Duration::from_secs(1);

/// The limits on what one client may send.
#[derive(Clone, Debug)]
pub struct FrameLimits {
    /// Maximum size of a message, in bytes.
    pub largest: usize,
    /// Maximum number of frames of any kind within a second.
    pub frames_per_second: u32,
    /// Maximum number of bytes within a second. One message of the maximum size is always allowed.
    pub bytes_per_second: u64,
    /// Bytes of messages that have begun and not ended, shared by all sessions.
    pub unfinished: Arc<UnfinishedBytes>,
}

/// Counts the bytes of all unfinished messages of a process.
#[derive(Debug)]
pub struct UnfinishedBytes {
    held: AtomicUsize,
    max: usize,
}

impl UnfinishedBytes {
    /// Allows up to `max` bytes.
    pub fn new(max: usize) -> Arc<UnfinishedBytes> {
        Arc::new(UnfinishedBytes {
            held: AtomicUsize::new(0),
            max,
        })
    }

    /// Replaces one session's share. Returns `false` if the total is now too large.
    fn replace(&self, before: usize, now: usize) -> bool {
        let total = if now >= before {
            self.held
                .fetch_add(now - before, Ordering::Relaxed)
                .saturating_add(now - before)
        } else {
            self.held
                .fetch_sub(before - now, Ordering::Relaxed)
                .saturating_sub(before - now)
        };
        now <= before || total <= self.max
    }
}

/// A client's bytes up to the first violation, where the stream ends with an error. The reason is
/// in [`FrameLimiter::violation`].
pub struct FrameLimiter<S> {
    bytes: S,
    limits: Arc<FrameLimits>,
    heads: FrameHeads,
    rate: Rate,
    /// This session's share of [`FrameLimits::unfinished`].
    held: usize,
    /// Created with the first message that does not end in the read it began in. Most sessions
    /// never have one.
    deadline: Option<Rc<MessageDeadline>>,
    connection: Option<Rc<Connection>>,
    violation: Violation,
}

impl<S> FrameLimiter<S> {
    /// Limits these bytes. The connection's sweep watches the deadline of unfinished messages.
    pub fn new(
        bytes: S,
        limits: Arc<FrameLimits>,
        connection: Option<&Rc<Connection>>,
    ) -> FrameLimiter<S> {
        FrameLimiter {
            bytes,
            heads: FrameHeads::new(limits.largest),
            rate: Rate::default(),
            held: 0,
            deadline: None,
            connection: connection.cloned(),
            violation: Violation::default(),
            limits,
        }
    }

    /// The cell that receives the reason of a violation.
    pub fn violation(&self) -> Violation {
        self.violation.clone()
    }

    fn check(&mut self, bytes: &[u8], context: &Context<'_>) -> Result<(), CloseReason> {
        let frames = self.heads.feed(bytes)?;
        let frames = frames.max(u32::from(bytes.len() < TINY_READ));
        self.rate
            .count(frames, bytes.len() as u64, &self.limits, Instant::now())?;
        let pending = usize::try_from(self.heads.pending()).unwrap_or(usize::MAX);
        if (pending > 0 || self.held > 0) && !self.limits.unfinished.replace(self.held, pending) {
            self.held = pending;
            return Err(CloseReason::Overloaded);
        }
        self.held = pending;
        let is_unfinished = self.heads.is_unfinished();
        if is_unfinished && self.deadline.is_none() {
            self.deadline = self.connection.as_deref().map(Connection::message_deadline);
        }
        if let Some(deadline) = &self.deadline {
            deadline.set(is_unfinished, self.heads.messages, context.waker());
        }
        Ok(())
    }
}

impl<S> Drop for FrameLimiter<S> {
    fn drop(&mut self) {
        self.limits.unfinished.replace(self.held, 0);
        if let Some(deadline) = &self.deadline {
            deadline.end();
        }
        // The limiter is dropped together with the session.
        if let Some(connection) = &self.connection {
            connection.session_ended();
        }
    }
}

impl<S> Stream for FrameLimiter<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.violation.get().is_some() {
            return Poll::Ready(Some(Err(PayloadError::Overflow)));
        }
        if self
            .deadline
            .as_ref()
            .is_some_and(|deadline| deadline.is_expired())
        {
            self.violation.set(Some(CloseReason::MessageTimeout));
            return Poll::Ready(Some(Err(PayloadError::Overflow)));
        }
        let polled = self.bytes.poll_next_unpin(context);
        if let Poll::Ready(Some(Ok(bytes))) = &polled
            && let Err(reason) = self.check(bytes, context)
        {
            self.violation.set(Some(reason));
            return Poll::Ready(Some(Err(PayloadError::Overflow)));
        }
        polled
    }
}

/// Counts within windows of a second. The clock is read only when bytes arrive.
#[derive(Default)]
struct Rate {
    window: Option<Instant>,
    frames: u32,
    bytes: u64,
}

impl Rate {
    fn count(
        &mut self,
        frames: u32,
        bytes: u64,
        limits: &FrameLimits,
        now: Instant,
    ) -> Result<(), CloseReason> {
        if self
            .window
            .is_none_or(|start| now.duration_since(start) >= WINDOW)
        {
            *self = Rate {
                window: Some(now),
                frames: 0,
                bytes: 0,
            };
        }
        self.frames = self.frames.saturating_add(frames);
        self.bytes = self.bytes.saturating_add(bytes);
        // Leaves room for the largest message and for what may come before it.
        let max = limits.bytes_per_second.max(2 * limits.largest as u64);
        let is_flood = self.frames > limits.frames_per_second || self.bytes > max;
        if is_flood {
            Err(CloseReason::TooManyMessages)
        } else {
            Ok(())
        }
    }
}

/// Follows a client's frames (RFC 6455) through a byte stream that may be split anywhere.
struct FrameHeads {
    largest: u64,
    /// The bytes of the next head received so far, without its mask.
    head: [u8; 10],
    head_length: u8,
    /// Number of bytes before the next head.
    to_pass: u64,
    /// Length of the current frame's content.
    frame: u64,
    /// Length of the content of the fragments before it.
    fragments: u64,
    is_fragmented: bool,
    ends_message: bool,
    /// Messages that have ended, and control frames outside of one.
    messages: u32,
}

impl FrameHeads {
    fn new(largest: usize) -> FrameHeads {
        FrameHeads {
            largest: largest as u64,
            head: [0; 10],
            head_length: 0,
            to_pass: 0,
            frame: 0,
            fragments: 0,
            is_fragmented: false,
            ends_message: false,
            messages: 0,
        }
    }

    /// Returns the number of frames that began.
    fn feed(&mut self, mut bytes: &[u8]) -> Result<u32, CloseReason> {
        let mut begun: u32 = 0;
        while let Some((first, rest)) = bytes.split_first() {
            if self.to_pass > 0 {
                let passed = self.to_pass.min(bytes.len() as u64);
                self.to_pass -= passed;
                bytes = &bytes[passed as usize..];
                if self.to_pass == 0 {
                    self.end_frame();
                }
                continue;
            }
            self.head[usize::from(self.head_length)] = *first;
            self.head_length += 1;
            bytes = rest;
            if self.head_length == 2 {
                check_head(self.head[0], self.head[1])?;
            }
            if let Some(length) = announced(&self.head[..usize::from(self.head_length)])? {
                begun = begun.saturating_add(1);
                self.begin_frame(length)?;
            }
        }
        Ok(begun)
    }

    fn begin_frame(&mut self, length: u64) -> Result<(), CloseReason> {
        if length > self.largest {
            return Err(CloseReason::MessageTooBig);
        }
        let is_control = self.head[0] & 0x08 != 0;
        let is_last = self.head[0] & 0x80 != 0;
        self.head_length = 0;
        self.ends_message = is_last && !is_control;
        self.is_fragmented |= !is_last;
        self.frame = length;
        self.to_pass = length + MASK_BYTES;
        Ok(())
    }

    fn end_frame(&mut self) {
        if self.ends_message {
            self.is_fragmented = false;
            self.fragments = 0;
        } else if self.is_fragmented {
            self.fragments = self.fragments.saturating_add(self.frame);
        }
        if !self.is_fragmented {
            self.messages = self.messages.wrapping_add(1);
        }
        self.frame = 0;
    }

    /// Whether a frame or a message has begun and not ended.
    fn is_unfinished(&self) -> bool {
        self.to_pass > 0 || self.head_length > 0 || self.is_fragmented
    }

    /// The bytes that are or will be buffered for the unfinished frame or message.
    fn pending(&self) -> u64 {
        if self.is_unfinished() {
            self.frame + self.fragments
        } else {
            0
        }
    }
}

/// Checks the first two bytes of a frame.
fn check_head(first: u8, second: u8) -> Result<(), CloseReason> {
    let is_last = first & 0x80 != 0;
    let reserved = first & 0x70;
    let opcode = first & 0x0f;
    let is_masked = second & 0x80 != 0;
    let is_known = matches!(opcode, 0x0..=0x2 | 0x8..=0xa);
    let is_control = opcode & 0x08 != 0;
    let control_is_whole =
        !is_control || (is_last && u64::from(second & 0x7f) <= MAX_CONTROL_PAYLOAD);
    if is_masked && reserved == 0 && is_known && control_is_whole {
        Ok(())
    } else {
        Err(CloseReason::ProtocolError)
    }
}

/// The length announced by a head; `None` while the head is incomplete. It must be encoded in the
/// fewest bytes.
fn announced(head: &[u8]) -> Result<Option<u64>, CloseReason> {
    let (Some(second), Some(extended)) = (head.get(1), head.get(2..)) else {
        return Ok(None);
    };
    let (length, least) = match (second & 0x7f, extended) {
        (126, [a, b]) => (u64::from(u16::from_be_bytes([*a, *b])), 126),
        (127, length) => match length.try_into().map(u64::from_be_bytes) {
            Ok(length) => (length, 1 << 16),
            Err(_) => return Ok(None),
        },
        (126, _) => return Ok(None),
        (length, _) => (u64::from(length), 0),
    };
    if length < least {
        Err(CloseReason::ProtocolError)
    } else {
        Ok(Some(length))
    }
}

#[cfg(test)]
mod tests;
