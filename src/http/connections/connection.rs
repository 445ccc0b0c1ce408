//! One connection, shared by its stream, its requests and the sweep of its thread.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::task::Waker;

use log::debug;

use super::ended::Ended;
use super::message_deadline::MessageDeadline;
use super::state::{ConnectionState, Phase};
use super::table::Connections;
use crate::runtime::address_permit::AddressPermit;
use crate::runtime::connection::ConnectionHandle;

/// One connection of a server thread.
pub struct Connection {
    handle: Option<ConnectionHandle>,
    table: Weak<Connections>,
    key: u64,
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
        permit: Option<AddressPermit>,
    ) -> Connection {
        Connection {
            handle,
            table,
            key,
            permit: RefCell::new(permit),
            state: RefCell::new(ConnectionState::new()),
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
        let state = self.state();
        if state.is_blocked() || state.phase() == Phase::Closing {
            return handle.close();
        }
        // A client that has sent nothing expects no response, and would take it for the response to
        // its next request.
        let is_unexpected = ended == Ended::Head && !state.has_partial_head();
        let response = ended.response().filter(|_| !is_unexpected);
        handle.close_with(response.unwrap_or_default().as_bytes());
    }
}
