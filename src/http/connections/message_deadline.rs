//! The deadline of WebSocket messages that have begun and not ended.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

/// The unfinished messages of one server thread.
pub(super) struct MessageDeadlines {
    limit: Duration,
    listed: RefCell<Vec<Listed>>,
}

struct Listed {
    deadline: Weak<MessageDeadline>,
    /// The message that was unfinished at the last sweep.
    message: u64,
    since: Instant,
}

impl MessageDeadlines {
    /// Ends messages that are unfinished for `limit`.
    pub(super) fn new(limit: Duration) -> MessageDeadlines {
        MessageDeadlines {
            limit,
            listed: RefCell::default(),
        }
    }

    /// Expires messages whose time is over, and removes those that have ended.
    pub(super) fn sweep(&self, now: Instant) {
        self.listed
            .borrow_mut()
            .retain_mut(|listed| listed.remains(now, self.limit));
    }
}

impl Listed {
    fn remains(&mut self, now: Instant, limit: Duration) -> bool {
        let Some(deadline) = self.deadline.upgrade() else {
            return false;
        };
        if !deadline.is_active.get() {
            deadline.is_listed.set(false);
            return false;
        }
        if self.message != deadline.message.get() {
            self.message = deadline.message.get();
            self.since = now;
        }
        let is_overdue = now.duration_since(self.since) >= limit;
        if is_overdue {
            deadline.expire();
        }
        !is_overdue
    }
}

/// The deadline of one WebSocket client's unfinished message.
#[derive(Default)]
pub struct MessageDeadline {
    deadlines: Weak<MessageDeadlines>,
    is_active: Cell<bool>,
    is_listed: Cell<bool>,
    is_expired: Cell<bool>,
    /// Different for each message.
    message: Cell<u64>,
    ended_messages: Cell<u32>,
    waker: RefCell<Option<Waker>>,
}

impl MessageDeadline {
    /// Creates a deadline that the sweep of `deadlines` watches while a message is unfinished.
    pub(super) fn new(deadlines: Weak<MessageDeadlines>) -> MessageDeadline {
        MessageDeadline {
            deadlines,
            ..MessageDeadline::default()
        }
    }

    /// Records whether a message is unfinished, how many have ended, and the waker for the timeout.
    pub(in crate::http) fn set(
        self: &Rc<MessageDeadline>,
        is_unfinished: bool,
        ended_messages: u32,
        waker: &Waker,
    ) {
        if !is_unfinished {
            self.is_active.set(false);
            return;
        }
        let is_same_message = self.ended_messages.replace(ended_messages) == ended_messages;
        if !self.is_active.replace(true) || !is_same_message {
            self.message.set(self.message.get().wrapping_add(1));
        }
        if !self.is_listed.replace(true)
            && let Some(deadlines) = self.deadlines.upgrade()
        {
            *self.waker.borrow_mut() = Some(waker.clone());
            deadlines.listed.borrow_mut().push(Listed {
                deadline: Rc::downgrade(self),
                message: self.message.get(),
                since: Instant::now(),
            });
        }
    }

    /// Records that the session has ended.
    pub(in crate::http) fn end(&self) {
        self.is_active.set(false);
    }

    /// Whether the message has timed out.
    pub(in crate::http) fn is_expired(&self) -> bool {
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
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn listed() -> (Rc<MessageDeadlines>, Rc<MessageDeadline>) {
        let deadlines = Rc::new(MessageDeadlines::new(LIMIT));
        let deadline = Rc::new(MessageDeadline::new(Rc::downgrade(&deadlines)));
        (deadlines, deadline)
    }

    #[test]
    fn unfinished_message_expires() {
        let (deadlines, deadline) = listed();
        let start = Instant::now();
        deadline.set(true, 0, Waker::noop());
        deadlines.sweep(start);
        assert!(!deadline.is_expired());
        deadlines.sweep(start + 2 * LIMIT);
        assert!(deadline.is_expired());
        assert!(deadlines.listed.borrow().is_empty());
    }

    #[test]
    fn each_message_has_its_own_deadline() {
        let (deadlines, deadline) = listed();
        let start = Instant::now();
        for message in 0..5 {
            deadline.set(true, message, Waker::noop());
            deadlines.sweep(start + message * LIMIT);
            assert!(!deadline.is_expired());
        }
        assert_eq!(deadlines.listed.borrow().len(), 1);
    }

    #[test]
    fn ended_message_is_removed_and_listed_again() {
        let (deadlines, deadline) = listed();
        let start = Instant::now();
        deadline.set(true, 0, Waker::noop());
        deadline.set(false, 1, Waker::noop());
        deadlines.sweep(start + 2 * LIMIT);
        assert!(!deadline.is_expired() && deadlines.listed.borrow().is_empty());
        deadline.set(true, 1, Waker::noop());
        assert_eq!(deadlines.listed.borrow().len(), 1);
        deadline.end();
        deadlines.sweep(start + 2 * LIMIT);
        assert!(!deadline.is_expired() && deadlines.listed.borrow().is_empty());
    }
}
