//! The table of one server thread's connections, and its sweep.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use actix_web::rt::net::TcpStream;
use log::debug;
use prometheus::IntCounterVec;

use super::connection::Connection;
use super::ended::Ended;
use super::limits::ConnectionLimits;
use super::message_deadline::MessageDeadlines;
use super::state::Priority;
use crate::http::addresses::Addresses;
use crate::runtime::connection::ConnectionHandle;

/// How often connections are checked.
const SWEEP: Duration = Duration::from_millis(500);
/// A connection that has kept the server waiting for less is not closed to make room.
const MIN_AGE: Duration = Duration::from_secs(1);

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

    /// Admits a connection. `None` if its address has too many; the client gets an error response.
    pub(crate) fn admit(self: &Rc<Connections>, stream: &TcpStream) -> Option<Rc<Connection>> {
        let handle = ConnectionHandle::of(stream)
            .inspect_err(|error| debug!("cannot duplicate the connection handle: {error}"))
            .ok();
        let address = stream.peer_addr().ok().map(|peer| peer.ip().to_canonical());
        let permit = address.map_or(Ok(None), |address| self.addresses.take_connection(address));
        let key = self.next_key.replace(self.next_key.get() + 1);
        let permit = match permit {
            Ok(permit) => permit,
            Err(_) => {
                let refused = Connection::new(handle, Rc::downgrade(self), key, None);
                self.end(&refused, Ended::Address);
                return None;
            }
        };
        let connection = Rc::new(Connection::new(handle, Rc::downgrade(self), key, permit));
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
            self.remove(&candidate.connection);
            self.end(&candidate.connection, Ended::Crowded);
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
            self.remove(&connection);
            self.end(&connection, ended);
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
