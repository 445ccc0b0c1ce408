//! The hot copy of the odds books, used to load a book quickly, and the broadcast of changes to
//! other instances.

pub(crate) mod embedded;
pub(crate) mod redis;
#[cfg(test)]
pub(crate) mod suite;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::domain::ids::{EventId, Source};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::source_status::SourceStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::trace_parent::TraceParent;

/// Why a cache operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// The cache cannot be reached.
    #[error("the cache is unavailable: {0}")]
    Unavailable(String),
    /// The entry of one event is damaged: it has the wrong type or unreadable content. Other events
    /// are not affected.
    #[error("the cache entry of `{event_id}` is damaged: {problem}")]
    Damaged {
        /// The event.
        event_id: EventId,
        /// The states that could be read.
        readable: Vec<Arc<MarketState>>,
        /// The fault.
        problem: String,
    },
    /// The settings of the cache are invalid.
    #[error("{0}")]
    Misconfigured(String),
}

/// The state a cache keeps when `new` is written. The later revision wins, whoever writes it and
/// when, so that a process that lags never moves a market back. For equal revisions the higher
/// sequence number wins. Numbers never decrease: a later revision with a lower or equal number gets
/// the held number plus one. `None` if the held state wins.
pub(crate) fn winning_state(
    held: Option<&MarketState>,
    new: &Arc<MarketState>,
) -> Option<Arc<MarketState>> {
    let Some(held) = held else {
        return Some(new.clone());
    };
    let rank = |state: &MarketState| (state.update.revision, state.seq);
    if rank(held) >= rank(new) {
        None
    } else if new.seq > held.seq {
        Some(new.clone())
    } else {
        Some(Arc::new(MarketState {
            update: new.update.clone(),
            seq: held.seq.saturating_add(1),
        }))
    }
}

/// A cache of market states.
pub trait OddsCache: Send + Sync {
    /// Stores the states that are newer than the held ones and broadcasts the stored states to the
    /// other instances. An older state changes nothing and is not broadcast. Idempotent.
    fn write(&self, states: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>>;

    /// Like [`OddsCache::write`], but broadcasts with each state whether earlier changes may have
    /// been conflated; a cache without broadcasts ignores that. Returns the events whose
    /// entries were damaged: the caller must write their other markets again.
    fn write_changes(
        &self,
        changes: Vec<Change>,
    ) -> BoxFuture<'static, Result<Vec<EventId>, CacheError>> {
        let writing = self.write(changes.into_iter().map(|change| change.state).collect());
        async move { writing.await.map(|()| Vec::new()) }.boxed()
    }

    /// The events whose entries a reader reported as damaged, until they are removed. Fails as
    /// [`OddsCache::ping`] does.
    fn damaged(&self) -> BoxFuture<'static, Result<Vec<EventId>, CacheError>> {
        let answer = self.ping();
        async move { answer.await.map(|()| Vec::new()) }.boxed()
    }

    /// Removes what is damaged from the entries of these events, so that it can be written again.
    /// Atomic: readable states stay, and so does what another process has written in the meantime.
    /// Returns the events from whose entries something was removed.
    fn remove_damaged(
        &self,
        _: Vec<EventId>,
    ) -> BoxFuture<'static, Result<Vec<EventId>, CacheError>> {
        std::future::ready(Ok(Vec::new())).boxed()
    }

    /// The states of an event's markets.
    fn read_book(
        &self,
        event_id: &EventId,
    ) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>>;

    /// Checks that the cache answers.
    fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>>;

    /// Tells the other instances that this one follows the bus, even without changes, and what it
    /// knows about the sources. No-op for a cache within one process.
    fn publish_heartbeat(
        &self,
        _: &BTreeMap<Source, SourceStatus>,
    ) -> BoxFuture<'static, Result<(), CacheError>> {
        std::future::ready(Ok(())).boxed()
    }

    /// Identifies the current connection; the number changes with each new connection. Data written
    /// over an earlier connection may be lost. Constant if there is no connection.
    fn connection(&self) -> u64 {
        0
    }

    /// Subscribes to the broadcasts of the other instances. `None` for a cache within one process,
    /// which has no other instances.
    fn listen(&self) -> Option<Box<dyn BroadcastStream>>;
}

/// A state to store and broadcast.
#[derive(Clone, Debug)]
pub struct Change {
    /// The state.
    pub state: Arc<MarketState>,
    /// Whether earlier changes of its market may have been conflated.
    pub conflated: bool,
    /// The span that it follows from, if it is traced.
    pub trace: Option<TraceParent>,
}

/// A change broadcast by an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// The change.
    pub update: OddsUpdate,
    /// The sequence number within the event; `None` from the original, which has no sequence
    /// numbers.
    pub seq: Option<u64>,
    /// Whether earlier changes of its market may have been conflated.
    pub conflated: bool,
    /// The span that it follows from, if it is traced.
    pub trace: Option<TraceParent>,
}

/// What one processor knows about the sources: a part of its heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceView {
    /// The processor. Unique for each start of a process.
    pub processor: String,
    /// The state of every source that was ever reported to it.
    pub sources: BTreeMap<Source, SourceStatus>,
}

/// Broadcasts rejected as implausible or foreign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedBroadcasts {
    /// The number of rejected messages by reason.
    pub counts: BTreeMap<&'static str, u64>,
    /// Events named by some of them; their books may be wrong.
    pub events: BTreeSet<EventId>,
}

/// An event of a [`BroadcastStream`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BroadcastEvent {
    /// At least one change, in broadcast order.
    Changes(Vec<Broadcast>),
    /// Heartbeats: an instance follows the bus and would broadcast any change. They are from our
    /// own deployment, or name no deployment, as the heartbeats of earlier versions do.
    Alive {
        /// Whether one is from our own deployment.
        is_own: bool,
        /// What the processors of our own deployment know about the sources, in order. Heartbeats
        /// of earlier versions contain no view.
        views: Vec<SourceView>,
    },
    /// This many changes could not be parsed and were skipped.
    Unreadable(u64),
    /// Readable messages that were rejected.
    Refused(RefusedBroadcasts),
    /// The connection is lost: known state may be stale from now on. Holds the reason, for
    /// operators.
    Lost(String),
    /// The subscriber task ended unexpectedly; no more events follow. Holds the reason, for
    /// operators.
    Ended(String),
    /// The subscription is active; changes may have been missed before. The first event, unless
    /// connecting fails.
    Listening,
}

/// A subscription to the broadcasts of other instances. Connects and reconnects by itself.
pub trait BroadcastStream: Send {
    /// Waits for the next event. Cancel safe: dropping the future loses nothing.
    fn next(&mut self) -> BoxFuture<'_, BroadcastEvent>;
}
