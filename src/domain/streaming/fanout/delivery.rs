//! What a session is handed: changes, encoded once for all sessions.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::super::protocol::{FeedStatus, Form, UpdateFrame, source_message, text_frame};
use super::super::shown_at::ShownAt;
use crate::domain::ids::{EventId, Source};

/// Changes for one session, in the order of their sequence numbers.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub(super) changes: Arc<Changes>,
    /// Whether earlier changes may have been left out.
    pub conflated: bool,
    /// The feed status to send after the changes.
    pub feed: Option<FeedStatus>,
    /// Whether the session measures the age of the changes when it sends them. Set only for the
    /// last session that a change goes to, so that a change is measured once and not once per
    /// session.
    pub measured: bool,
}

/// The part that all sessions share.
#[derive(Debug, Default)]
pub(super) struct Changes {
    frames: Vec<Arc<UpdateFrame>>,
    /// Which frames have replaced others because the clients requested it. Empty if none has.
    replaced: Vec<bool>,
    joined: Option<Joined>,
    notices: Vec<SourceNotice>,
    trace: Option<Box<dyn DeliveryTrace>>,
}

/// Follows a delivery that is traced, on all threads. Most deliveries have none.
pub trait DeliveryTrace: std::fmt::Debug + Send + Sync {
    /// A thread has offered the delivery to its subscribers, and so many have accepted it.
    fn offered(&self, accepted: usize);

    /// The last subscriber of a thread has written the changes to its client.
    fn written(&self);
}

/// The frames of all changes in one buffer.
#[derive(Debug)]
struct Joined {
    bytes: Bytes,
    for_plain: bool,
    for_extended: bool,
}

/// The `feed` message of a source of an event.
#[derive(Clone, Debug)]
pub struct SourceNotice {
    /// The event.
    pub event_id: EventId,
    /// The source.
    pub source: Source,
    /// Its status.
    pub status: FeedStatus,
    /// From when it has this status.
    pub at: ShownAt,
    /// The message as a WebSocket frame.
    pub wire: Bytes,
}

impl SourceNotice {
    /// Encodes the notice that a source of an event has this status from `at` on.
    pub fn new(
        event_id: &EventId,
        source: &Source,
        status: FeedStatus,
        at: ShownAt,
    ) -> SourceNotice {
        SourceNotice {
            event_id: event_id.clone(),
            source: source.clone(),
            status,
            at,
            wire: text_frame(&source_message(status, source, event_id)),
        }
    }
}

impl Delivery {
    /// A delivery of changes only.
    pub fn of(frames: Vec<Arc<UpdateFrame>>, conflated: bool) -> Delivery {
        Delivery::with_notices(Vec::new(), frames, conflated)
    }

    /// A delivery of changes after notices.
    pub fn with_notices(
        notices: Vec<SourceNotice>,
        frames: Vec<Arc<UpdateFrame>>,
        conflated: bool,
    ) -> Delivery {
        let joined = join(&frames, |_| Form::of(conflated, false)).map(|bytes| Joined {
            bytes,
            for_plain: true,
            for_extended: !conflated && frames.iter().all(|frame| frame.is_same_for_all()),
        });
        Delivery {
            conflated,
            ..Delivery::sharing(Changes {
                frames,
                joined,
                notices,
                ..Changes::default()
            })
        }
    }

    /// A delivery of changes that were held back on request of the clients. `replaced`: which
    /// changes have replaced others.
    pub(super) fn held_back(frames: Vec<Arc<UpdateFrame>>, replaced: Vec<bool>) -> Delivery {
        let joined = join(&frames, |index| held_form(replaced[index])).map(|bytes| Joined {
            bytes,
            for_plain: false,
            for_extended: true,
        });
        Delivery::sharing(Changes {
            frames,
            replaced,
            joined,
            ..Changes::default()
        })
    }

    /// Lets `trace` follow this delivery.
    pub fn traced_by(mut self, trace: Box<dyn DeliveryTrace>) -> Delivery {
        // Nobody shares a delivery that was just made.
        if let Some(changes) = Arc::get_mut(&mut self.changes) {
            changes.trace = Some(trace);
        }
        self
    }

    /// What follows this delivery.
    pub fn trace(&self) -> Option<&dyn DeliveryTrace> {
        self.changes.trace.as_deref()
    }

    fn sharing(changes: Changes) -> Delivery {
        Delivery {
            changes: Arc::new(changes),
            conflated: false,
            feed: None,
            measured: false,
        }
    }

    pub(super) fn feed(status: FeedStatus) -> Delivery {
        Delivery {
            feed: Some(status),
            ..Delivery::of(Vec::new(), false)
        }
    }

    /// The notices of this delivery without its changes; `None` if there are none.
    pub(super) fn only_notices(&self) -> Option<Delivery> {
        let notices = self.notices().to_vec();
        (!notices.is_empty()).then(|| Delivery::with_notices(notices, Vec::new(), false))
    }

    /// The notices to send before the changes.
    pub fn notices(&self) -> &[SourceNotice] {
        &self.changes.notices
    }

    /// The changes.
    pub fn frames(&self) -> &[Arc<UpdateFrame>] {
        &self.changes.frames
    }

    /// The form in which a client gets the change with this index.
    pub fn form(&self, index: usize, is_extended: bool) -> Form {
        let has_replaced = self.changes.replaced.get(index).copied();
        match has_replaced {
            Some(replaced) if is_extended && !self.conflated => held_form(replaced),
            _ => Form::of(self.conflated || has_replaced.unwrap_or(false), is_extended),
        }
    }

    /// The encoded frames of all changes in one buffer, if the changes are new and belong to one
    /// event. A client that has none of them yet gets them with one write.
    pub fn joined(&self, is_extended: bool) -> Option<&Bytes> {
        let joined = self.changes.joined.as_ref()?;
        let fits = if is_extended {
            joined.for_extended
        } else {
            joined.for_plain
        };
        fits.then_some(&joined.bytes)
    }
}

fn held_form(replaced: bool) -> Form {
    if replaced {
        Form::Requested
    } else {
        Form::Extended
    }
}

fn join(frames: &[Arc<UpdateFrame>], form: impl Fn(usize) -> Form) -> Option<Bytes> {
    let (first, rest) = frames.split_first()?;
    let is_new = |frame: &Arc<UpdateFrame>| frame.restated_at().is_none();
    if !frames.iter().all(is_new) {
        return None;
    }
    if rest.is_empty() {
        return Some(first.wire(form(0)).clone());
    }
    let is_of_one_event = rest.iter().all(|frame| frame.event_id == first.event_id);
    is_of_one_event.then(|| {
        let wire = |index: usize| frames[index].wire(form(index));
        let length = (0..frames.len()).map(|index| wire(index).len()).sum();
        let mut joined = BytesMut::with_capacity(length);
        (0..frames.len()).for_each(|index| joined.extend_from_slice(wire(index)));
        joined.freeze()
    })
}
