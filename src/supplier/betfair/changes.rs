//! Collects the changes of the messages in one frame before any of them is published.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde_json::value::RawValue;

use super::wire::MarketId;
use crate::domain::ids::EventId;
use crate::domain::timestamp::Timestamp;
use crate::supplier::Refused;

/// The changes of the messages in one frame.
#[derive(Default)]
pub(super) struct Changes {
    /// The markets to publish again, in frame order.
    pub order: Vec<EventId>,
    /// The time of the change of each market.
    pub times: BTreeMap<EventId, Option<Timestamp>>,
    /// The latest time of the messages.
    pub latest: Option<Timestamp>,
    /// The markets with a readable change.
    pub read: BTreeSet<EventId>,
    /// Rejected parts.
    pub refused: Vec<Refused>,
    /// The markets with an unreadable change.
    pub lost: Vec<EventId>,
    /// A change is lost and its market is unreadable.
    pub unnamed: bool,
    /// A changed market needs an image.
    pub needs_image: bool,
}

impl Changes {
    /// Whether the market is to be published again.
    pub(super) fn touches(&self, id: &EventId) -> bool {
        self.times.contains_key(id)
    }

    /// Whether a change of the market was readable.
    pub(super) fn is_read(&self, id: &EventId) -> bool {
        self.read.contains(id)
    }

    /// Marks the market for publishing, as changed at this time.
    pub(super) fn touch(&mut self, id: &EventId, time: Option<Timestamp>) {
        match self.times.get_mut(id) {
            Some(known) => *known = time.max(*known),
            None => {
                self.order.push(id.clone());
                self.times.insert(id.clone(), time);
            }
        }
    }

    /// Records a rejected part.
    pub(super) fn refuse(&mut self, reason: &'static str, detail: String) {
        self.refused.push(Refused { reason, detail });
    }

    /// Records an unreadable change. It may have been a suspension of its market or, if the market
    /// is unreadable, of any market.
    pub(super) fn lose(&mut self, text: &RawValue, reason: &'static str, error: &dyn Display) {
        let id = serde_json::from_str::<MarketId<'_>>(text.get())
            .ok()
            .and_then(|named| EventId::new(&named.id).ok());
        let Some(id) = id else {
            self.unnamed = true;
            return self.refuse(reason, format!("market change: {error}"));
        };
        self.refuse(reason, format!("market {id}: {error}"));
        self.lost.push(id);
    }
}
