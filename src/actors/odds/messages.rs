//! Messages of the odds books and of the actors that feed and store them.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::cache::Broadcast;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::ids::{EventId, Source};
use crate::domain::odds::book::{MarketState, Snapshot};
use crate::domain::odds::hold::Hold;
use crate::domain::odds::restriction_change::RestrictionChange;
use crate::domain::odds::source_status::{CurrentReports, SourceStatus};
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::streaming::protocol::FeedStatus;
use crate::domain::trace_parent::TraceParent;
use crate::store::StoreError;

/// Sent by a consumer to the router. The reply follows after every book has applied its part and
/// published the changes.
#[derive(Debug)]
pub struct ApplyUpdates(pub Vec<PositionedUpdate>);

/// Sent by the broadcast listener to the router: changes that other processes published. The reply
/// is that of [`ApplyUpdates`].
#[derive(Debug, Clone)]
pub struct ApplyBroadcasts(pub Vec<Broadcast>);

/// Sent by the router to a book: the part of a batch that concerns its event. The reply follows
/// after the changes are published.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), ApplyError>")]
pub struct Apply<T>(pub Vec<T>);

/// Sent by the broadcast listener to the router after a gap: reload these books, or all. New state
/// is published before the reply, which lists the books that could not read the cache.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Vec<EventId>")]
pub struct ReloadBooks(pub Option<Vec<EventId>>);

/// Sent by the router to a mirror: reload the state. Fails if the cache cannot be read.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "Result<(), ApplyError>")]
pub struct ReloadBook;

/// Why updates were not applied. They can be retried: a book applies each update once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A book or the router stopped before it replied.
    #[error("the book of `{0}` stopped before it replied")]
    BookEnded(EventId),
    /// The book has no state to show, because the store could not be read when it started.
    #[error("could not load the book of `{0}`")]
    NotLoaded(EventId),
    /// Too many client reads are waiting.
    #[error("too many requests are waiting for the database; retry `{0}` later")]
    Busy(EventId),
    /// The router did not reply.
    #[error("no reply from the book router: {0}")]
    RouterEnded(String),
}

impl ApplyError {
    /// A constant text for each variant, for logs that are limited by cause.
    pub fn cause(&self) -> &'static str {
        match self {
            ApplyError::BookEnded(_) => "book ended",
            ApplyError::NotLoaded(_) => "not loaded",
            ApplyError::Busy(_) => "busy",
            ApplyError::RouterEnded(_) => "no answer",
        }
    }
}

/// A message of the live path to the router. It is enqueued at once, even if client requests fill
/// the mailbox, so that records of one event stay in order. The sender bounds how many are in
/// flight.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct InOrder<M> {
    /// The message to handle.
    pub message: M,
    /// Receives the result. Dropped if the router stops.
    pub done: oneshot::Sender<Result<(), ApplyError>>,
}

impl<M: Send + 'static> InOrder<M> {
    /// Sends a message to the router and returns a future of the reply.
    pub fn send(
        to: &Recipient<InOrder<M>>,
        message: M,
    ) -> impl Future<Output = Result<(), ApplyError>> + use<M> {
        let (done, reply) = oneshot::channel();
        to.do_send(InOrder { message, done });
        async move {
            reply
                .await
                .unwrap_or_else(|_| Err(ApplyError::RouterEnded("it has stopped".to_owned())))
        }
    }
}

/// Sent by a session or a REST handler to the router and by the router to a book: returns the
/// current state of the book.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Result<Snapshot, ApplyError>")]
pub struct GetSnapshot(pub EventId);

/// Sent by a book to its subscribers: changed markets of one event, ordered by sequence number.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct BookChanged {
    /// The new states of the markets.
    pub states: Arc<[Arc<MarketState>]>,
    /// Whether earlier changes may not have been published: a book that starts publishes the state
    /// it loaded.
    pub conflated: bool,
    /// The states are not new: they are shown in another way from now on, because the restrictions
    /// on them have changed. Their sequence numbers were published before.
    pub restated: Option<Restated>,
    /// The states that are traced. Most messages have none.
    pub traced: Option<Arc<[TracedState]>>,
}

impl BookChanged {
    /// The span that a state follows from, if it is traced.
    pub(crate) fn trace_of(&self, state: usize) -> Option<TraceParent> {
        let traced = self.traced.as_deref()?;
        Some(traced.iter().find(|it| it.state == state)?.parent)
    }
}

/// A state that is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedState {
    /// Its index in the message.
    pub state: usize,
    /// The span that it follows from.
    pub parent: TraceParent,
}

/// Why a book publishes states again.
#[derive(Clone, Debug, Default)]
pub struct Restated {
    /// The sources of the states that were lost or are live again. Empty if only holds changed.
    pub sources: Arc<[(Source, FeedStatus)]>,
    /// The last sequence number of the book at that time.
    pub head: u64,
}

/// Sent by the keeper of the restrictions to the router: the book of this event publishes the states
/// that are shown in another way from now on. It is loaded first if it is not running.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<(), ApplyError>")]
pub struct RestateBook {
    /// The event.
    pub event_id: EventId,
    /// What changed.
    pub change: Arc<RestrictionChange>,
}

/// Sent by the router to a book: publish the states that this change affects. The reply follows
/// after they are published.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<(), ApplyError>")]
pub struct Restate(pub Arc<RestrictionChange>);

/// Sent by the source monitor to the heartbeat or the keeper of the restrictions, and by the
/// broadcast listener to the keeper: the state of every reported source.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub struct SourcesReported(pub BTreeMap<Source, SourceStatus>);

/// Sent by the source monitor to the selector: what is reported about every source.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub struct ReportsRead(pub BTreeMap<Source, CurrentReports>);

/// Sent to the keeper of the restrictions: the holds in force, read from the database.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub struct HoldsLoaded(pub Vec<Hold>);

/// Sent by a consumer to the store writer. The reply follows after the transaction is committed.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), StoreError>")]
pub struct StoreBatch {
    /// Updates in bus order.
    pub updates: Vec<PositionedUpdate>,
    /// Records that could not be decoded.
    pub dead_letters: Vec<DeadLetter>,
}

/// Sent by a consumer to the store writer: states that were published. The reply follows after the
/// transaction is committed.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), StoreError>")]
pub struct StoreStates(pub Vec<Arc<MarketState>>);

/// Sent by a consumer to the router: other processes may read these partitions from now on, or they
/// start again, so drop their books. The reply is the last state of the markets of these books.
#[derive(Message, Debug)]
#[rtype(result = "Vec<Arc<MarketState>>")]
pub struct PartitionsRevoked {
    /// The partitions.
    pub partitions: Vec<u32>,
    /// Whether records of them may be lost: the sequence numbers of these books then jump.
    pub are_records_lost: bool,
}

/// Sent by a consumer to the cache writer. The reply follows after the cache holds every change
/// submitted before.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct FlushCache;
