//! Messages of books and of what feeds and stores them.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::cache::Broadcast;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::ids::EventId;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::book::Snapshot;
use crate::domain::odds::update::PositionedUpdate;
use crate::store::StoreError;

/// A consumer to the router, the router to a book: answered when every book has applied its part
/// and told everyone.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), ApplyError>")]
pub struct ApplyUpdates(pub Vec<PositionedUpdate>);

/// The broadcast listener to the router, the router to a book: what other processes told. Answered
/// as [`ApplyUpdates`].
#[derive(Message, Debug, Clone)]
#[rtype(result = "Result<(), ApplyError>")]
pub struct ApplyBroadcasts(pub Vec<Broadcast>);

/// The broadcast listener to the router: changes may have been missed; have these books, or all,
/// read what is known. What is new is told before the answer: the books that could not read the
/// cache.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Vec<EventId>")]
pub struct ReloadBooks(pub Option<Vec<EventId>>);

/// The router to a book: read what is known. An error where the cache cannot be read.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "Result<(), ApplyError>")]
pub struct ReloadBook;

/// Why updates were not applied. They may be applied again: a book takes each once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A book or the router ended in the middle.
    #[error("the book of `{0}` ended in the middle")]
    BookEnded(EventId),
    /// The book has nothing to show, because the store could not be read when it started.
    #[error("what is known of `{0}` could not be read")]
    NotLoaded(EventId),
    /// Too many reads for clients wait already.
    #[error("too many requests wait for the database; ask for `{0}` again")]
    Busy(EventId),
    /// The router did not answer.
    #[error("the book router does not answer: {0}")]
    RouterEnded(String),
}

impl ApplyError {
    /// A word for logs that are counted by cause.
    pub fn cause(&self) -> &'static str {
        match self {
            ApplyError::BookEnded(_) => "book ended",
            ApplyError::NotLoaded(_) => "not loaded",
            ApplyError::Busy(_) => "busy",
            ApplyError::RouterEnded(_) => "no answer",
        }
    }
}

/// The live path to the router: takes its place in the mailbox at once, even if clients' questions
/// fill it, so that records of one event stay in their order. The sender bounds how many there are.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct InOrder<M> {
    /// What is to be done.
    pub message: M,
    /// Answered when it is done. Dropped if the router ends.
    pub done: oneshot::Sender<Result<(), ApplyError>>,
}

impl<M: Send + 'static> InOrder<M> {
    /// Sends a message to the router, and gives what answers it.
    pub fn send(
        to: &Recipient<InOrder<M>>,
        message: M,
    ) -> impl Future<Output = Result<(), ApplyError>> + use<M> {
        let (done, answer) = oneshot::channel();
        to.do_send(InOrder { message, done });
        async move {
            answer
                .await
                .unwrap_or_else(|_| Err(ApplyError::RouterEnded("it has ended".to_owned())))
        }
    }
}

/// A session or a REST handler to the router, the router to a book: the book as it is now.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Result<Snapshot, ApplyError>")]
pub struct GetSnapshot(pub EventId);

/// A book to whoever wants to know: markets of one event that changed, in the order of their
/// numbers.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct BookChanged {
    /// The markets as they are now.
    pub states: Arc<[Arc<MarketState>]>,
    /// Whether changes before these may not have been told: a book that starts tells what it found.
    pub conflated: bool,
}

/// A consumer to the store writer: answered when the transaction is committed.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), StoreError>")]
pub struct StoreBatch {
    /// Updates, in their order on the bus.
    pub updates: Vec<PositionedUpdate>,
    /// What could not be read.
    pub dead_letters: Vec<DeadLetter>,
}

/// A consumer to the router: other processes read these partitions from now on; let their books go.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PartitionsRevoked(pub Vec<u32>);

/// A consumer to the cache writer: answered when the cache holds every change that was handed in
/// before.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct FlushCache;
