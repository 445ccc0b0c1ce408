//! Values by source, event and market. Two sources of one connection may offer the same market.

use std::collections::HashMap;

use crate::domain::ids::{EventId, MarketKey, Source};
use crate::domain::odds::update::OddsUpdate;

/// The maximum number of markets held. Further ones are left out.
const MAX_MARKETS: usize = 100_000;

/// One value per market of a source.
#[derive(Debug)]
pub(crate) struct ByMarket<T> {
    sources: HashMap<Source, HashMap<EventId, HashMap<MarketKey, T>>>,
    /// The number of values.
    len: usize,
}

impl<T> Default for ByMarket<T> {
    fn default() -> ByMarket<T> {
        ByMarket {
            sources: HashMap::new(),
            len: 0,
        }
    }
}

impl<T> ByMarket<T> {
    /// The value of the market of this update.
    pub(crate) fn get(&self, update: &OddsUpdate) -> Option<&T> {
        let events = self.sources.get(&update.source)?;
        events.get(&update.event_id)?.get(&update.market)
    }

    /// The value of the market of this update.
    pub(crate) fn get_mut(&mut self, update: &OddsUpdate) -> Option<&mut T> {
        let events = self.sources.get_mut(&update.source)?;
        events.get_mut(&update.event_id)?.get_mut(&update.market)
    }

    /// Replaces the value of the market of this update. Returns `false` if there is no room.
    pub(crate) fn insert(&mut self, update: &OddsUpdate, value: T) -> bool {
        if let Some(known) = self.get_mut(update) {
            *known = value;
            return true;
        }
        if self.len >= MAX_MARKETS {
            return false;
        }
        self.len += 1;
        let events = self.sources.entry(update.source.clone()).or_default();
        let markets = events.entry(update.event_id.clone()).or_default();
        markets.insert(update.market.clone(), value);
        true
    }

    /// Removes the value of the market of this update.
    pub(crate) fn remove(&mut self, update: &OddsUpdate) -> Option<T> {
        let events = self.sources.get_mut(&update.source)?;
        let markets = events.get_mut(&update.event_id)?;
        let removed = markets.remove(&update.market)?;
        self.len -= 1;
        if markets.is_empty() {
            events.remove(&update.event_id);
        }
        if events.is_empty() {
            self.sources.remove(&update.source);
        }
        Some(removed)
    }

    /// Removes the values that are not to be kept.
    pub(crate) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        let len = &mut self.len;
        self.sources.retain(|_, events| {
            events.retain(|_, markets| {
                let before = markets.len();
                markets.retain(|_, value| keep(value));
                *len -= before - markets.len();
                !markets.is_empty()
            });
            !events.is_empty()
        });
    }

    /// The values of an event: of this source, or of all.
    pub(crate) fn of_event(
        &mut self,
        event: &EventId,
        source: Option<&Source>,
    ) -> impl Iterator<Item = (&MarketKey, &mut T)> {
        let sources = self.sources.iter_mut();
        let named = sources.filter(move |(of, _)| source.is_none_or(|source| source == *of));
        named
            .filter_map(move |(_, events)| events.get_mut(event))
            .flatten()
    }

    /// All values.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let events = self.sources.values_mut().flat_map(HashMap::values_mut);
        events.flat_map(HashMap::values_mut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::odds::update::testing::update;

    #[test]
    fn markets_of_sources_are_kept_apart() {
        let of = |source: &str| OddsUpdate {
            source: Source::new(source).unwrap(),
            ..update(1, 1, 1)
        };
        let mut held = ByMarket::default();
        assert!(held.insert(&of("a"), 1) && held.insert(&of("b"), 2) && held.insert(&of("a"), 3));
        assert_eq!(
            (held.get(&of("a")), held.get(&of("b"))),
            (Some(&3), Some(&2))
        );
        let event = &update(1, 1, 1).event_id;
        assert_eq!(held.of_event(event, None).count(), 2);
        let source = &of("b").source;
        let named: Vec<_> = held.of_event(event, Some(source)).collect();
        assert_eq!(*named[0].1, 2);
        assert_eq!(held.remove(&of("a")), Some(3));
        assert_eq!(held.remove(&of("a")), None);
        assert_eq!(held.values_mut().count(), 1);
        assert_eq!(
            (held.remove(&of("b")), held.len, held.sources.len()),
            (Some(2), 0, 0)
        );
    }

    #[test]
    fn removed_values_leave_room() {
        let mut held = ByMarket::default();
        for event in 1..=4 {
            held.insert(&update(event, 1, 1), event);
        }
        held.retain(|event| event % 2 == 0);
        assert_eq!((held.len, held.values_mut().count()), (2, 2));
        assert_eq!(held.get(&update(1, 1, 1)), None);
        held.retain(|_| false);
        assert_eq!((held.len, held.sources.len()), (0, 0));
    }
}
