//! The hot copy of the books, for whoever starts a book, and the broadcast to other instances.

pub mod embedded;
pub mod redis;
#[cfg(test)]
pub(crate) mod suite;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::domain::ids::EventId;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::OddsUpdate;

/// Why the cache did not do as it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// The cache cannot be reached.
    #[error("the cache is unavailable: {0}")]
    Unavailable(String),
    /// The entry of one event is damaged: of another type, or it holds what cannot be read. The
    /// others are not affected.
    #[error("the cache entry of `{event_id}` is damaged: {problem}")]
    Damaged {
        /// The event.
        event_id: EventId,
        /// The states that can be read.
        readable: Vec<Arc<MarketState>>,
        /// What is wrong.
        problem: String,
    },
    /// The cache cannot be used as the settings say.
    #[error("{0}")]
    Misconfigured(String),
}

/// What a cache keeps of a market: the state with the later revision, whoever wrote it and when, so
/// that a process that lags behind never takes a market back. Of one revision the larger number
/// stays. The number of a market never goes back: where a later revision has a smaller one, it is
/// counted on. `None` where what is held stays.
pub(crate) fn kept(held: Option<&MarketState>, new: &Arc<MarketState>) -> Option<Arc<MarketState>> {
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
    /// Keeps these states, each in place of an older one of its market, and tells the other
    /// instances of those that it kept. A state that is older than what the cache holds changes
    /// nothing and is not told. Safe to repeat.
    fn write(&self, states: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>>;

    /// As [`OddsCache::write`], and tells with each what may have been left out before it. A cache
    /// that tells nobody has no use for that. Gives the events whose damaged entry was removed on
    /// the way: their other markets are to be written again.
    fn write_changes(
        &self,
        changes: Vec<Change>,
    ) -> BoxFuture<'static, Result<Vec<EventId>, CacheError>> {
        let writing = self.write(changes.into_iter().map(|change| change.state).collect());
        async move { writing.await.map(|()| Vec::new()) }.boxed()
    }

    /// Events whose entries some reader found damaged, until they are removed. Fails as
    /// [`OddsCache::ping`] does.
    fn damaged(&self) -> BoxFuture<'static, Result<Vec<EventId>, CacheError>> {
        let answer = self.ping();
        async move { answer.await.map(|()| Vec::new()) }.boxed()
    }

    /// Removes the entries of these events, so that they can be written again.
    fn remove(&self, _: Vec<EventId>) -> BoxFuture<'static, Result<(), CacheError>> {
        std::future::ready(Ok(())).boxed()
    }

    /// The states of an event's markets.
    fn read_book(
        &self,
        event_id: &EventId,
    ) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>>;

    /// Whether the cache answers.
    fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>>;

    /// Tells the other instances that this one follows the bus, though it may have no change to
    /// tell. Nothing to do for a cache within one process.
    fn publish_heartbeat(&self) -> BoxFuture<'static, Result<(), CacheError>> {
        std::future::ready(Ok(())).boxed()
    }

    /// Which connection it works over, by a number that changes with each new one: what was written
    /// over an earlier one may be gone. Always the same where there is none.
    fn connection(&self) -> u64 {
        0
    }

    /// What the other instances tell, from now on. `None` for a cache within one process: there are
    /// no others.
    fn listen(&self) -> Option<Box<dyn BroadcastStream>>;
}

/// A state to be kept and told.
#[derive(Clone, Debug)]
pub struct Change {
    /// The state.
    pub state: Arc<MarketState>,
    /// Whether changes of its market before it may have been left out.
    pub conflated: bool,
}

/// A change that some instance told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// The change.
    pub update: OddsUpdate,
    /// The event's number of it; none where the original told it, which does not count.
    pub seq: Option<u64>,
    /// Whether changes of its market before it may have been left out.
    pub conflated: bool,
}

/// Broadcasts that are not believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedBroadcasts {
    /// How many, by reason.
    pub counts: BTreeMap<&'static str, u64>,
    /// The events of some of them, whose books may be wrong.
    pub events: BTreeSet<EventId>,
}

/// What is heard of the other instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BroadcastEvent {
    /// Changes, at least one, in the order in which they were told.
    Changes(Vec<Broadcast>),
    /// No change, but some instance follows the bus and would tell of one. Whether the heartbeat is
    /// that of our own deployment; else it names no deployment, as those of earlier versions.
    Alive {
        /// Whether it is our own deployment's.
        is_own: bool,
    },
    /// So many changes could not be read, and are passed over.
    Unreadable(u64),
    /// Messages that could be read, and are not believed.
    Refused(RefusedBroadcasts),
    /// Nothing can be heard: what is known may be stale from now on. Why, for people.
    Lost(String),
    /// Nothing will be heard any more: the listening has ended in the middle. Why, for people.
    Ended(String),
    /// Everything is heard from now on; something may have been missed before. The first thing to
    /// be heard, where nothing is in the way of it.
    Listening,
}

/// The listening to other instances. Connects, and connects anew, by itself.
pub trait BroadcastStream: Send {
    /// Waits for what comes next. A caller may give up waiting (drop the future) and loses nothing.
    fn next(&mut self) -> BoxFuture<'_, BroadcastEvent>;
}
