//! Holds: operators set, release and list them, and processes read those in force.

use uuid::Uuid;

use super::StoreError;
use crate::domain::odds::hold::{Hold, HoldScope};
use crate::domain::timestamp::Timestamp;

/// A request to set a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HoldOrder {
    /// Identifies the request: a repeated request sets one hold.
    pub request: Uuid,
    /// What to hold.
    pub scope: HoldScope,
    /// When the hold ends by itself.
    pub until: Option<Timestamp>,
    /// Who sets it, when, and why.
    pub step: HoldStep,
}

/// A step in the life of a hold: it is set, or released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HoldStep {
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A hold with its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredHold {
    /// The hold.
    pub hold: Hold,
    /// How it was set.
    pub set: HoldStep,
    /// How it was released.
    pub released: Option<HoldStep>,
}

/// The result of releasing a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// It was released by this request.
    Now(StoredHold),
    /// It was released before.
    Before(StoredHold),
    /// There is no such hold.
    Unknown,
}

/// Stores holds. Each one that is set or released is recorded in an audit that the database never
/// changes.
pub(crate) trait HoldStore: Send + Sync {
    /// Sets a hold and returns its number. Safe to repeat.
    fn set_hold(&self, order: &HoldOrder) -> Result<i64, StoreError>;

    /// Releases a hold. Other holds on the same market stay. Safe to repeat.
    fn release_hold(&self, id: i64, step: &HoldStep) -> Result<Released, StoreError>;

    /// Holds in the order of their numbers: those in force at a time, or all that ever were.
    fn holds(&self, in_force_at: Option<Timestamp>) -> Result<Vec<StoredHold>, StoreError>;

    /// How many open markets a hold with this scope covers now, by their stored state.
    fn count_open_markets(&self, scope: &HoldScope) -> Result<u64, StoreError>;
}

impl Released {
    /// The result for a stored hold, after an attempt to release it in this step.
    pub(super) fn of(stored: Option<StoredHold>, step: &HoldStep) -> Released {
        match stored {
            None => Released::Unknown,
            Some(hold) if hold.released.as_ref() == Some(step) => Released::Now(hold),
            Some(hold) => Released::Before(hold),
        }
    }
}
