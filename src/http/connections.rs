//! Deadlines and limits of a server thread's connections.
//!
//! Each connection records which phase it is in. One sweep per thread checks all of them twice a
//! second and ends those that keep the server waiting for too long, so no request or session needs
//! a timer or reads the clock.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use actix_web::rt::net::TcpStream;
use log::debug;
use prometheus::IntCounterVec;

use super::addresses::Addresses;
use crate::runtime::address_permit::AddressPermit;
use crate::runtime::connection::ConnectionHandle;

/// How often connections are checked.
const SWEEP: Duration = Duration::from_millis(500);
/// A connection that has kept the server waiting for less is not closed to make room.
const MIN_AGE: Duration = Duration::from_secs(1);

/// What the clients of one server may keep waiting, and for how long.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Timeout for the rest of a request's head once it has begun, and for the first byte of a new
    /// connection.
    pub head: Duration,
    /// Timeout for a request's body.
    pub body: Duration,
    /// Timeout for the next request.
    pub keep_alive: Duration,
    /// Timeout for the client to accept any of the written bytes.
    pub write: Duration,
    /// Timeout for the end of a WebSocket message that has begun.
    pub message: Duration,
    /// Maximum number of connections of this server that are not WebSockets. Beyond it, those that
    /// have waited longest are closed.
    pub most: usize,
    /// Whether connections are closed to admit new ones however short they have waited: for ports
    /// that must always answer.
    pub always_admits: bool,
}

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        ConnectionLimits {
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            write: Duration::from_secs(30),
            message: Duration::from_secs(10),
            most: 2_048,
            always_admits: false,
        }
    }
}

/// Why the server ended a connection. The label `reason` of `http_connections_ended_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The head of a request did not arrive in time.
    Head,
    /// The head of a request is too large.
    HeadTooLarge,
    /// The body of a request did not arrive in time.
    Body,
    /// No further request arrived.
    Idle,
    /// The client accepts none of the written bytes.
    Write,
    /// It was closed to make room for others.
    Crowded,
    /// Its address has too many connections.
    Address,
}

impl Ended {
    /// Every reason.
    pub const ALL: [Ended; 7] = [
        Ended::Head,
        Ended::HeadTooLarge,
        Ended::Body,
        Ended::Idle,
        Ended::Write,
        Ended::Crowded,
        Ended::Address,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Ended::Head => "head_timeout",
            Ended::HeadTooLarge => "head_too_large",
            Ended::Body => "body_timeout",
            Ended::Idle => "idle",
            Ended::Write => "write_timeout",
            Ended::Crowded => "crowded",
            Ended::Address => "address_limit",
        }
    }

    /// The response to the client, if it waits for one.
    fn answer(self) -> Option<String> {
        let (status, code, message) = match self {
            Ended::Head => (
                "408 Request Timeout",
                "REQUEST_TIMEOUT",
                "the request's head did not arrive in time",
            ),
            Ended::HeadTooLarge => (
                "431 Request Header Fields Too Large",
                "REQUEST_HEAD_TOO_LARGE",
                "the request's head is larger than 32 KiB",
            ),
            Ended::Body => (
                "408 Request Timeout",
                "REQUEST_TIMEOUT",
                "the request's body did not arrive in time",
            ),
            Ended::Address => (
                "429 Too Many Requests",
                "TOO_MANY_CONNECTIONS",
                "too many connections from this address",
            ),
            Ended::Idle | Ended::Write | Ended::Crowded => return None,
        };
        let body = format!("{{\"code\":\"{code}\",\"message\":\"{message}\"}}");
        Some(format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncache-control: no-store\r\nconnection: close\r\n\
             retry-after: 1\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client's next request.
    Idle,
    /// The rest of a request's head.
    Head,
    /// The rest of a request's body, while it is handled.
    Body,
    /// The server's response.
    Serving,
    /// Nothing: it is a WebSocket, and its session has its own limits.
    Upgraded,
    /// The client, which must accept the last bytes of a WebSocket whose session has ended.
    Closing,
}

/// Whether to end a connection. `age` is the time it has spent in this phase, or has been unable to
/// write.
fn end_reason(
    phase: Phase,
    is_blocked: bool,
    age: Duration,
    limits: &ConnectionLimits,
) -> Option<Ended> {
    let (limit, ended) = match phase {
        Phase::Upgraded => return None,
        Phase::Closing => (limits.write, Ended::Write),
        _ if is_blocked => (limits.write, Ended::Write),
        Phase::Serving => return None,
        Phase::Idle => (limits.keep_alive, Ended::Idle),
        Phase::Head => (limits.head, Ended::Head),
        Phase::Body => (limits.body, Ended::Body),
    };
    (age >= limit).then_some(ended)
}

/// One connection, shared by its stream, its requests and the sweep of its thread.
pub struct Connection {
    handle: Option<ConnectionHandle>,
    table: Weak<Connections>,
    key: u64,
    permit: RefCell<Option<AddressPermit>>,
    phase: Cell<Phase>,
    is_blocked: Cell<bool>,
    /// Incremented by each change of phase, and when writing becomes blocked or unblocked.
    turn: Cell<u64>,
    /// Bytes that may still be read while a request is handled, since they may contain many more
    /// requests. Reset when everything that was read is answered.
    credit: Cell<usize>,
    /// Bytes received since the last request began that may belong to the head of the next one.
    head: Cell<usize>,
    /// Wakes the reader that is held back.
    reader: RefCell<Option<Waker>>,
}

/// Maximum number of bytes of further requests that are read while one is handled.
pub(super) const READ_AHEAD: usize = 2_048;
/// Maximum size of a request's head, in bytes.
const MAX_HEAD: usize = 32 * 1024;

impl Connection {
    /// A handle that can end the connection from outside.
    pub fn handle(&self) -> Option<ConnectionHandle> {
        self.handle.clone()
    }

    /// Marks the connection as a WebSocket. It no longer counts among the connections of the server
    /// and of its address: sessions have their own limits.
    pub fn upgrade(&self) {
        self.set(Phase::Upgraded);
        drop(self.permit.take());
        if let Some(handle) = &self.handle {
            handle.lift_unsent_limit();
        }
        if let Some(table) = self.table.upgrade() {
            table.entries.borrow_mut().remove(&self.key);
        }
    }

    /// Records that the session of this WebSocket has ended. Unsent bytes must not keep the
    /// connection open, so it is counted and swept again.
    pub fn session_ended(self: &Rc<Connection>) {
        if self.phase.get() != Phase::Upgraded {
            return;
        }
        self.set(Phase::Closing);
        if let Some(table) = self.table.upgrade() {
            table.insert(self);
        }
    }

    /// Records that the stream was dropped.
    pub(super) fn stream_dropped(&self) {
        // A session that ends later must not add it again.
        self.set(Phase::Closing);
        if let Some(table) = self.table.upgrade() {
            table.forget(self);
        }
    }

    /// Creates the watcher for the deadline of this WebSocket's unfinished messages.
    pub fn unfinished(self: &Rc<Connection>) -> Rc<Unfinished> {
        Rc::new(Unfinished {
            table: self.table.clone(),
            ..Unfinished::default()
        })
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    fn set(&self, phase: Phase) {
        self.phase.set(phase);
        self.turn.set(self.turn.get().wrapping_add(1));
    }

    /// Records that a request is being handled.
    pub(super) fn begin(&self, has_body: bool) {
        self.head.set(0);
        self.set(if has_body {
            Phase::Body
        } else {
            Phase::Serving
        });
    }

    /// Records that the body of the current request has arrived.
    pub(super) fn body_ended(&self) {
        if self.phase.get() == Phase::Body {
            self.set(Phase::Serving);
        }
    }

    /// Records that the request has been handled.
    pub(super) fn end(&self) {
        if matches!(self.phase.get(), Phase::Upgraded | Phase::Closing) {
            return;
        }
        // Part of the next request may have been read.
        self.set(if self.head.get() > 0 {
            Phase::Head
        } else {
            Phase::Idle
        });
        self.wake_reader();
    }

    /// Records received bytes. Fails if the head that they belong to is too large.
    pub(super) fn received(&self, bytes: &[u8]) -> Result<(), Ended> {
        let phase = self.phase.get();
        if matches!(phase, Phase::Body | Phase::Upgraded | Phase::Closing) {
            return Ok(());
        }
        if phase == Phase::Serving {
            self.credit
                .set(self.credit.get().saturating_sub(bytes.len()));
        }
        // Blank lines may precede a request; they do not begin one.
        let is_blank =
            self.head.get() == 0 && bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
        if !is_blank {
            self.head.set(self.head.get() + bytes.len());
        }
        match phase {
            Phase::Idle if !is_blank => {
                self.credit.set(READ_AHEAD);
                self.set(Phase::Head);
            }
            Phase::Head => self.credit.set(READ_AHEAD),
            _ => {}
        }
        if phase == Phase::Head && self.head.get() > MAX_HEAD {
            Err(Ended::HeadTooLarge)
        } else {
            Ok(())
        }
    }

    /// How many bytes may be read now. `None` holds the reader back; it is woken when it may
    /// continue.
    pub(super) fn read_limit(&self, waker: &Waker) -> Option<usize> {
        let limit = match self.phase.get() {
            Phase::Upgraded => return Some(usize::MAX),
            _ if self.is_blocked.get() => 0,
            Phase::Serving => self.credit.get(),
            Phase::Idle | Phase::Head | Phase::Body | Phase::Closing => return Some(usize::MAX),
        };
        if limit == 0 {
            *self.reader.borrow_mut() = Some(waker.clone());
            return None;
        }
        Some(limit)
    }

    /// Records that the client accepted bytes.
    pub(super) fn sent(&self) {
        if self.is_blocked.replace(false) {
            self.turn.set(self.turn.get().wrapping_add(1));
            self.wake_reader();
        }
    }

    /// Records that the client accepts no more bytes for now.
    pub(super) fn blocked(&self) {
        if !self.is_blocked.replace(true) {
            self.turn.set(self.turn.get().wrapping_add(1));
        }
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    fn finish(&self, ended: Ended) {
        debug!(reason = ended.label(); "connection ended");
        let Some(handle) = &self.handle else { return };
        if self.is_blocked.get() || self.phase.get() == Phase::Closing {
            return handle.close();
        }
        // A client that has sent nothing expects no answer, and would take it for the answer to its
        // next request.
        let is_unasked = ended == Ended::Head && self.head.get() == 0;
        let answer = ended.answer().filter(|_| !is_unasked);
        handle.close_with(answer.unwrap_or_default().as_bytes());
    }
}

/// A connection in the table of its thread.
struct Entry {
    connection: Weak<Connection>,
    seen: u64,
    since: Instant,
}

/// The connections of one server thread that are not WebSockets, and the unfinished messages of
/// those that are.
pub struct Connections {
    limits: ConnectionLimits,
    addresses: Addresses,
    ended: IntCounterVec,
    next_key: Cell<u64>,
    /// Ordered by age, since keys increase.
    entries: RefCell<BTreeMap<u64, Entry>>,
    unfinished: RefCell<Vec<(Weak<Unfinished>, u64, Instant)>>,
}

impl Connections {
    /// Starts the sweep of this thread. It stops when the table is dropped.
    pub fn start(
        limits: ConnectionLimits,
        addresses: Addresses,
        ended: IntCounterVec,
    ) -> Rc<Connections> {
        let table = Rc::new(Connections {
            limits,
            addresses,
            ended,
            next_key: Cell::new(0),
            entries: RefCell::default(),
            unfinished: RefCell::default(),
        });
        let swept = Rc::downgrade(&table);
        actix_web::rt::spawn(async move {
            let mut turns = tokio::time::interval(SWEEP);
            turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                turns.tick().await;
                let Some(table) = swept.upgrade() else { return };
                table.sweep(Instant::now());
            }
        });
        table
    }

    /// Admits a connection. `None` if its address has too many; the client gets an error response.
    pub fn admit(self: &Rc<Connections>, stream: &TcpStream) -> Option<Rc<Connection>> {
        let handle = ConnectionHandle::of(stream)
            .inspect_err(|error| debug!("cannot duplicate the connection handle: {error}"))
            .ok();
        let address = stream.peer_addr().ok().map(|peer| peer.ip().to_canonical());
        let permit = address.map(|address| self.addresses.take_connection(address));
        let key = self.next_key.replace(self.next_key.get() + 1);
        let connection = Rc::new(Connection {
            handle,
            table: Rc::downgrade(self),
            key,
            permit: RefCell::default(),
            phase: Cell::new(Phase::Head),
            is_blocked: Cell::new(false),
            turn: Cell::new(0),
            credit: Cell::new(READ_AHEAD),
            head: Cell::new(0),
            reader: RefCell::default(),
        });
        match permit {
            Some(Err(_)) => {
                self.end(&connection, Ended::Address);
                return None;
            }
            Some(Ok(permit)) => *connection.permit.borrow_mut() = permit,
            None => {}
        }
        if self.entries.borrow().len() >= self.limits.most {
            self.make_room(1, Instant::now());
        }
        self.insert(&connection);
        Some(connection)
    }

    fn insert(&self, connection: &Rc<Connection>) {
        let (seen, since) = (connection.turn.get(), Instant::now());
        let entry = Entry {
            connection: Rc::downgrade(connection),
            seen,
            since,
        };
        self.entries.borrow_mut().insert(connection.key, entry);
    }

    /// Removes a connection that has ended.
    pub(super) fn forget(&self, connection: &Connection) {
        self.entries.borrow_mut().remove(&connection.key);
    }

    pub(super) fn end(&self, connection: &Connection, ended: Ended) {
        self.ended.with_label_values(&[ended.label()]).inc();
        connection.finish(ended);
    }

    /// Closes the connections that have kept the server waiting longest, those with an unfinished
    /// request before idle ones.
    fn make_room(&self, count: usize, now: Instant) {
        let min_age = if self.limits.always_admits {
            Duration::ZERO
        } else {
            MIN_AGE
        };
        let waiting = |entry: &Entry| {
            let connection = entry.connection.upgrade()?;
            let rank = match connection.phase.get() {
                _ if connection.is_blocked.get() => 0,
                Phase::Head | Phase::Body | Phase::Closing => 0,
                Phase::Idle => 1,
                Phase::Serving | Phase::Upgraded => return None,
            };
            let since = if entry.seen == connection.turn.get() {
                entry.since
            } else {
                now
            };
            (now.duration_since(since) >= min_age).then_some((rank, since, connection))
        };
        let mut first: Vec<_> = self.entries.borrow().values().filter_map(waiting).collect();
        if count < first.len() {
            first.select_nth_unstable_by_key(count, |(rank, since, _)| (*rank, *since));
            first.truncate(count);
        }
        for (_, _, connection) in first {
            self.forget(&connection);
            self.end(&connection, Ended::Crowded);
        }
    }

    fn sweep(&self, now: Instant) {
        let mut overdue = Vec::new();
        for entry in self.entries.borrow_mut().values_mut() {
            let Some(connection) = entry.connection.upgrade() else {
                continue;
            };
            if entry.seen != connection.turn.get() {
                (entry.seen, entry.since) = (connection.turn.get(), now);
            }
            let age = now.duration_since(entry.since);
            if let Some(ended) = end_reason(
                connection.phase.get(),
                connection.is_blocked.get(),
                age,
                &self.limits,
            ) {
                overdue.push((connection, ended));
            }
        }
        for (connection, ended) in overdue {
            self.forget(&connection);
            self.end(&connection, ended);
        }
        let excess = self.entries.borrow().len().saturating_sub(self.limits.most);
        if excess > 0 {
            self.make_room(excess, now);
        }
        self.sweep_unfinished(now);
    }

    fn sweep_unfinished(&self, now: Instant) {
        self.unfinished
            .borrow_mut()
            .retain_mut(|(message, seen, since)| {
                let Some(message) = message.upgrade() else {
                    return false;
                };
                if !message.is_active.get() {
                    message.is_listed.set(false);
                    return false;
                }
                if *seen != message.turn.get() {
                    (*seen, *since) = (message.turn.get(), now);
                }
                let is_overdue = now.duration_since(*since) >= self.limits.message;
                if is_overdue {
                    message.expire();
                }
                !is_overdue
            });
    }
}

/// A message of a WebSocket client that has begun and not ended.
#[derive(Default)]
pub struct Unfinished {
    table: Weak<Connections>,
    is_active: Cell<bool>,
    is_listed: Cell<bool>,
    is_expired: Cell<bool>,
    /// Different for each message.
    turn: Cell<u64>,
    messages: Cell<u32>,
    waker: RefCell<Option<Waker>>,
}

impl Unfinished {
    /// Records whether a message is unfinished, how many have ended, and the waker for the timeout.
    pub(super) fn set(self: &Rc<Unfinished>, is_unfinished: bool, messages: u32, waker: &Waker) {
        if !is_unfinished {
            self.is_active.set(false);
            return;
        }
        if !self.is_active.replace(true) || self.messages.replace(messages) != messages {
            self.messages.set(messages);
            self.turn.set(self.turn.get().wrapping_add(1));
        }
        if !self.is_listed.replace(true)
            && let Some(table) = self.table.upgrade()
        {
            *self.waker.borrow_mut() = Some(waker.clone());
            table.unfinished.borrow_mut().push((
                Rc::downgrade(self),
                self.turn.get(),
                Instant::now(),
            ));
        }
    }

    /// Records that the session has ended.
    pub(super) fn end(&self) {
        self.is_active.set(false);
    }

    /// Whether the message has timed out.
    pub(super) fn is_expired(&self) -> bool {
        self.is_expired.get()
    }

    fn expire(&self) {
        self.is_expired.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests;
