//! The hot copy of the books, for whoever starts a book, and the broadcast to other instances.

pub mod embedded;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::domain::book::MarketState;
use crate::domain::ids::EventId;

/// Why the cache did not do as it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// The cache cannot be reached.
    #[error("the cache is unavailable: {0}")]
    Unavailable(String),
}

/// A cache of market states.
pub trait OddsCache: Send + Sync {
    /// Keeps these states, each in place of an older one of its market, and tells the other instances.
    fn write(&self, states: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>>;

    /// The states of an event's markets.
    fn read_book(&self, event_id: &EventId) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>>;

    /// Whether the cache answers.
    fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>>;
}
