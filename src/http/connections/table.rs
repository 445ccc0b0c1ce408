//! The connections of one server thread, their table and its sweep. A connection is shared by its
//! stream, its requests and the sweep.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use actix_web::rt::net::TcpStream;
use log::debug;
use prometheus::IntCounterVec;

use super::ended::Ended;
use super::limits::ConnectionLimits;
use super::message_deadline::{MessageDeadline, MessageDeadlines};
use super::state::{ConnectionState, Phase, Priority};
use crate::http::addresses::Addresses;
use crate::runtime::connection::ConnectionHandle;
use crate::runtime::permits::AddressPermit;

/// How often connections are checked.
const SWEEP: Duration = Duration::from_millis(500);
/// A connection that has kept the server waiting for less is not closed to make room.
const MIN_AGE: Duration = Duration::from_secs(1);

/// One connection of a server thread.
pub struct Connection {
    handle: Option<ConnectionHandle>,
    table: Weak<Connections>,
    key: u64,
    /// Whether the client speaks TLS.
    is_encrypted: bool,
    /// The reason whose response the stream of an encrypted connection must still send.
    final_reason: Cell<Option<Ended>>,
    permit: RefCell<Option<AddressPermit>>,
    state: RefCell<ConnectionState>,
    /// Wakes the reader that is held back.
    reader: RefCell<Option<Waker>>,
}

impl Connection {
    /// A new connection, not listed in `table` yet.
    pub(super) fn new(
        handle: Option<ConnectionHandle>,
        table: Weak<Connections>,
        key: u64,
        is_encrypted: bool,
        permit: Option<AddressPermit>,
    ) -> Connection {
        let state = if is_encrypted {
            ConnectionState::with_handshake()
        } else {
            ConnectionState::new()
        };
        Connection {
            handle,
            table,
            key,
            is_encrypted,
            final_reason: Cell::new(None),
            permit: RefCell::new(permit),
            state: RefCell::new(state),
            reader: RefCell::default(),
        }
    }

    /// A handle that can end the connection from outside.
    pub fn handle(&self) -> Option<ConnectionHandle> {
        self.handle.clone()
    }

    /// The key in the table.
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// The state for the sweep.
    pub(super) fn state(&self) -> std::cell::Ref<'_, ConnectionState> {
        self.state.borrow()
    }

    /// What the connection waits for.
    pub(in crate::http) fn phase(&self) -> Phase {
        self.state().phase()
    }

    /// Marks the connection as a WebSocket. It no longer counts among the connections of the server
    /// and of its address: sessions have their own limits.
    pub fn upgrade(&self) {
        self.state.borrow_mut().enter(Phase::Upgraded);
        drop(self.permit.take());
        if let Some(handle) = &self.handle {
            handle.lift_unsent_limit();
        }
        self.remove_from_table();
    }

    /// Records that the session of this WebSocket has ended. Unsent bytes must not keep the
    /// connection open, so it is counted and swept again.
    pub fn session_ended(self: &Rc<Connection>) {
        if self.phase() != Phase::Upgraded {
            return;
        }
        self.state.borrow_mut().enter(Phase::Closing);
        if let Some(table) = self.table.upgrade() {
            table.insert(self);
        }
    }

    /// Records that the stream was dropped.
    pub(in crate::http) fn stream_dropped(&self) {
        // A session that ends later must not add it again.
        self.state.borrow_mut().enter(Phase::Closing);
        self.remove_from_table();
    }

    fn remove_from_table(&self) {
        if let Some(table) = self.table.upgrade() {
            table.remove(self);
        }
    }

    /// Creates the deadline of this WebSocket's unfinished messages.
    pub fn message_deadline(&self) -> Rc<MessageDeadline> {
        let table = self.table.upgrade();
        let deadlines = table.map_or_else(Weak::new, |table| table.message_deadlines());
        Rc::new(MessageDeadline::new(deadlines))
    }

    /// Records bytes received on the socket. Returns whether the TLS handshake may continue.
    pub(in crate::http) fn may_continue_handshake(&self, bytes: usize) -> bool {
        !self.is_encrypted || self.state.borrow_mut().may_continue_handshake(bytes)
    }

    /// Records that the TLS handshake is complete.
    pub(in crate::http) fn handshake_done(&self) {
        self.state.borrow_mut().end_handshake();
    }

    /// Records that a request is being handled.
    pub(in crate::http) fn begin(&self, has_body: bool) {
        self.state.borrow_mut().begin_request(has_body);
    }

    /// Records that the body of the current request has arrived.
    pub(in crate::http) fn body_ended(&self) {
        self.state.borrow_mut().end_body();
    }

    /// Records that the request has been handled.
    pub(in crate::http) fn end(&self) {
        let may_continue = self.state.borrow_mut().end_request();
        if may_continue {
            self.wake_reader();
        }
    }

    /// Records received bytes. Fails if the head that they belong to is too large.
    pub(in crate::http) fn received(&self, bytes: &[u8]) -> Result<(), Ended> {
        self.state.borrow_mut().receive(bytes)
    }

    /// How many bytes may be read now. `None` holds the reader back; it is woken when it may
    /// continue.
    pub(in crate::http) fn read_limit(&self, waker: &Waker) -> Option<usize> {
        let limit = self.state().read_limit();
        if limit == 0 {
            *self.reader.borrow_mut() = Some(waker.clone());
            return None;
        }
        Some(limit)
    }

    /// Records that the client accepted bytes.
    pub(in crate::http) fn sent(&self) {
        let was_blocked = self.state.borrow_mut().set_blocked(false);
        if was_blocked {
            self.wake_reader();
        }
    }

    /// Records that the client accepts no more bytes for now.
    pub(in crate::http) fn blocked(&self) {
        self.state.borrow_mut().set_blocked(true);
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    /// Closes the connection, after a final response if the client waits for one.
    pub(super) fn finish(&self, ended: Ended) {
        debug!(reason = ended.label(); "connection ended");
        let Some(handle) = &self.handle else { return };
        let (phase, is_blocked) = (self.phase(), self.state().is_blocked());
        if is_blocked || phase == Phase::Closing {
            self.final_reason.set(None);
            handle.close();
        } else if !self.is_encrypted || ended == Ended::PlainHttp {
            handle.close_with(self.response(ended).as_bytes());
        } else if phase == Phase::Handshake {
            handle.close_with(b"");
        } else {
            // Only the stream can encrypt the response. It is woken by the end of its bytes, and
            // reads no further.
            self.final_reason.set(Some(ended));
            self.state.borrow_mut().enter(Phase::Closing);
            handle.stop_reading();
        }
    }

    /// The final response; empty if the client expects none.
    fn response(&self, ended: Ended) -> String {
        // A client that has sent nothing expects no response, and would take it for the response to
        // its next request.
        let is_unexpected = ended == Ended::Head && !self.state().has_partial_head();
        let response = ended.response().filter(|_| !is_unexpected);
        response.unwrap_or_default()
    }

    /// The final response that the stream must send and then end, if the server has ended an
    /// encrypted connection.
    pub(in crate::http) fn take_final_response(&self) -> Option<String> {
        self.final_reason.take().map(|ended| self.response(ended))
    }
}

/// A connection in the table of its thread.
struct Entry {
    connection: Weak<Connection>,
    /// The connection's number of changes when `since` was set.
    changes: u64,
    since: Instant,
}

/// A connection that may be closed to make room.
struct Candidate {
    priority: Priority,
    since: Instant,
    connection: Rc<Connection>,
}

impl Entry {
    /// Since when the connection is in its current state, as far as the sweep knows.
    fn waiting_since(&self, connection: &Connection, now: Instant) -> Instant {
        if self.changes == connection.state().changes() {
            self.since
        } else {
            now
        }
    }

    /// The reason to end the connection, if its time is over.
    fn overdue(
        &mut self,
        limits: &ConnectionLimits,
        now: Instant,
    ) -> Option<(Rc<Connection>, Ended)> {
        let connection = self.connection.upgrade()?;
        self.since = self.waiting_since(&connection, now);
        self.changes = connection.state().changes();
        let age = now.duration_since(self.since);
        let ended = connection.state().end_reason(age, limits)?;
        Some((connection, ended))
    }

    fn candidate(&self, min_age: Duration, now: Instant) -> Option<Candidate> {
        let connection = self.connection.upgrade()?;
        let priority = connection.state().closing_priority()?;
        let since = self.waiting_since(&connection, now);
        (now.duration_since(since) >= min_age).then_some(Candidate {
            priority,
            since,
            connection,
        })
    }
}

/// The connections of one server thread that are not WebSockets, and the unfinished messages of
/// those that are.
pub(crate) struct Connections {
    limits: ConnectionLimits,
    addresses: Addresses,
    ended: IntCounterVec,
    next_key: Cell<u64>,
    /// Ordered by age, since keys increase.
    entries: RefCell<BTreeMap<u64, Entry>>,
    message_deadlines: Rc<MessageDeadlines>,
}

impl Connections {
    /// Starts the sweep of this thread. It stops when the table is dropped.
    pub(crate) fn start(
        limits: ConnectionLimits,
        addresses: Addresses,
        ended: IntCounterVec,
    ) -> Rc<Connections> {
        let table = Rc::new(Connections {
            message_deadlines: Rc::new(MessageDeadlines::new(limits.message)),
            limits,
            addresses,
            ended,
            next_key: Cell::new(0),
            entries: RefCell::default(),
        });
        let swept = Rc::downgrade(&table);
        actix_web::rt::spawn(async move {
            let mut interval = tokio::time::interval(SWEEP);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                let Some(table) = swept.upgrade() else { return };
                table.sweep(Instant::now());
            }
        });
        table
    }

    /// Admits a connection. `None` if its address has too many; the client gets an error response,
    /// unless the port speaks TLS.
    pub(crate) fn admit(
        self: &Rc<Connections>,
        stream: &TcpStream,
        is_encrypted: bool,
    ) -> Option<Rc<Connection>> {
        let handle = ConnectionHandle::of(stream)
            .inspect_err(|error| debug!("cannot duplicate the connection handle: {error}"))
            .ok();
        let address = stream.peer_addr().ok().map(|peer| peer.ip().to_canonical());
        let permit = address.map_or(Ok(None), |address| self.addresses.take_connection(address));
        let key = self.next_key.replace(self.next_key.get() + 1);
        let new = |permit| Connection::new(handle, Rc::downgrade(self), key, is_encrypted, permit);
        let permit = match permit {
            Ok(permit) => permit,
            Err(_) => {
                let refused = new(None);
                self.end(&refused, Ended::Address);
                return None;
            }
        };
        let connection = Rc::new(new(permit));
        if self.entries.borrow().len() >= self.limits.most {
            self.make_room(1, Instant::now());
        }
        self.insert(&connection);
        Some(connection)
    }

    /// Adds a connection, from now on subject to the sweep.
    pub(super) fn insert(&self, connection: &Rc<Connection>) {
        let entry = Entry {
            connection: Rc::downgrade(connection),
            changes: connection.state().changes(),
            since: Instant::now(),
        };
        self.entries.borrow_mut().insert(connection.key(), entry);
    }

    /// Removes a connection that has ended or is a WebSocket.
    pub(super) fn remove(&self, connection: &Connection) {
        self.entries.borrow_mut().remove(&connection.key());
    }

    /// The unfinished messages of the thread's WebSockets.
    pub(super) fn message_deadlines(&self) -> Weak<MessageDeadlines> {
        Rc::downgrade(&self.message_deadlines)
    }

    /// Ends a connection for this reason.
    pub(in crate::http) fn end(&self, connection: &Connection, ended: Ended) {
        self.count(ended);
        connection.finish(ended);
    }

    /// Counts a connection that ends for this reason.
    pub(in crate::http) fn count(&self, ended: Ended) {
        self.ended.with_label_values(&[ended.label()]).inc();
    }

    /// Ends a connection of the table.
    fn end_listed(&self, connection: &Rc<Connection>, ended: Ended) {
        self.remove(connection);
        self.end(connection, ended);
        if connection.final_reason.get().is_some() {
            // Swept again in case its stream does not send the response.
            self.insert(connection);
        }
    }

    /// Closes the connections that have kept the server waiting longest, those with an unfinished
    /// request before idle ones.
    fn make_room(&self, count: usize, now: Instant) {
        let min_age = if self.limits.always_admits {
            Duration::ZERO
        } else {
            MIN_AGE
        };
        let mut candidates: Vec<_> = self
            .entries
            .borrow()
            .values()
            .filter_map(|entry| entry.candidate(min_age, now))
            .collect();
        if count < candidates.len() {
            candidates.select_nth_unstable_by_key(count, |candidate| {
                (candidate.priority, candidate.since)
            });
            candidates.truncate(count);
        }
        for candidate in candidates {
            self.end_listed(&candidate.connection, Ended::Crowded);
        }
    }

    fn sweep(&self, now: Instant) {
        let overdue: Vec<_> = self
            .entries
            .borrow_mut()
            .values_mut()
            .filter_map(|entry| entry.overdue(&self.limits, now))
            .collect();
        for (connection, ended) in overdue {
            self.end_listed(&connection, ended);
        }
        let excess = self.entries.borrow().len().saturating_sub(self.limits.most);
        if excess > 0 {
            self.make_room(excess, now);
        }
        self.message_deadlines.sweep(now);
    }
}

#[cfg(test)]
mod tests;
