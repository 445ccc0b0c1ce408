//! What the messages of one frame change, gathered before any of it is published.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde_json::value::RawValue;

use super::wire::MarketId;
use crate::domain::ids::EventId;
use crate::domain::timestamp::Timestamp;
use crate::supplier::Refused;

/// What the messages of one frame change.
#[derive(Default)]
pub struct Changes {
    /// The markets to look at again, in the order of the frame.
    pub order: Vec<EventId>,
    /// When each of them changed.
    pub times: BTreeMap<EventId, Option<Timestamp>>,
    /// The time of the messages as a whole.
    pub latest: Option<Timestamp>,
    /// The markets of which a change could be read.
    pub read: BTreeSet<EventId>,
    /// What could not be taken.
    pub refused: Vec<Refused>,
    /// The markets of which a change could not be read.
    pub lost: Vec<EventId>,
    /// A change is lost whose market cannot be read.
    pub unnamed: bool,
    /// A market that changed needs an image.
    pub needs_image: bool,
}

impl Changes {
    /// Whether the market is to be looked at again.
    pub fn touches(&self, id: &EventId) -> bool {
        self.times.contains_key(id)
    }

    /// Whether a change of the market could be read.
    pub fn is_read(&self, id: &EventId) -> bool {
        self.read.contains(id)
    }

    /// The market is to be looked at again, as changed at this time.
    pub fn touch(&mut self, id: &EventId, time: Option<Timestamp>) {
        match self.times.get_mut(id) {
            Some(known) => *known = time.max(*known),
            None => {
                self.order.push(id.clone());
                self.times.insert(id.clone(), time);
            }
        }
    }

    /// A part could not be taken.
    pub fn refuse(&mut self, reason: &'static str, detail: String) {
        self.refused.push(Refused { reason, detail });
    }

    /// A change that cannot be taken may have been a suspension of its market, and if no market can
    /// be read, of any.
    pub fn lose(&mut self, text: &RawValue, reason: &'static str, error: &dyn Display) {
        let id = serde_json::from_str::<MarketId<'_>>(text.get())
            .ok()
            .and_then(|named| EventId::new(&named.id).ok());
        let Some(id) = id else {
            self.unnamed = true;
            return self.refuse(reason, format!("change of a market: {error}"));
        };
        self.refuse(reason, format!("market {id}: {error}"));
        self.lost.push(id);
    }
}
