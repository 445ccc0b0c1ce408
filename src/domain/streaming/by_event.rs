//! What a session has for each of its events.

use crate::domain::ids::EventId;

/// Values by event, sorted by event. Takes only the memory of the events that it has: a hash map
/// reserves room for several, and most sessions have one.
#[derive(Debug)]
pub(super) struct ByEvent<V>(Vec<(EventId, V)>);

impl<V> Default for ByEvent<V> {
    fn default() -> ByEvent<V> {
        ByEvent(Vec::new())
    }
}

impl<V> ByEvent<V> {
    /// How many events it has.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has the event.
    pub(super) fn contains(&self, event: &EventId) -> bool {
        self.find(event).is_ok()
    }

    /// The value of an event.
    pub(super) fn get(&self, event: &EventId) -> Option<&V> {
        let place = self.find(event).ok()?;
        self.0.get(place).map(|(_, value)| value)
    }

    /// The value of an event.
    pub(super) fn get_mut(&mut self, event: &EventId) -> Option<&mut V> {
        let place = self.find(event).ok()?;
        self.0.get_mut(place).map(|(_, value)| value)
    }

    /// Sets the value of an event. Returns whether the event is new.
    pub(super) fn insert(&mut self, event: EventId, value: V) -> bool {
        match self.find(&event) {
            Ok(place) => {
                self.0[place].1 = value;
                false
            }
            Err(place) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(place, (event, value));
                true
            }
        }
    }

    /// Removes an event. Returns whether it had it.
    pub(super) fn remove(&mut self, event: &EventId) -> bool {
        let place = self.find(event);
        place.is_ok_and(|place| {
            self.0.remove(place);
            true
        })
    }

    /// Its events, in order.
    pub(super) fn events(&self) -> impl Iterator<Item = &EventId> {
        self.0.iter().map(|(event, _)| event)
    }

    fn find(&self, event: &EventId) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(event))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((0_u8..6, any::<Option<u8>>()), 0..60)) {
            let mut events = ByEvent::default();
            let mut model = BTreeMap::new();
            for (event, value) in steps {
                let event = EventId::new(&event.to_string()).unwrap();
                match value {
                    Some(value) => {
                        let is_new = model.insert(event.clone(), value).is_none();
                        prop_assert_eq!(events.insert(event.clone(), value), is_new);
                    }
                    None => {
                        prop_assert_eq!(events.remove(&event), model.remove(&event).is_some());
                    }
                }
                prop_assert_eq!(events.get(&event), model.get(&event));
                prop_assert_eq!(events.get_mut(&event), model.get_mut(&event));
                prop_assert_eq!(events.contains(&event), model.contains_key(&event));
                prop_assert_eq!(events.len(), model.len());
                prop_assert!(events.events().eq(model.keys()));
            }
        }
    }

    #[test]
    fn one_event_takes_the_room_of_one() {
        let mut events = ByEvent::default();
        events.insert("E".parse().unwrap(), 1_u64);
        assert_eq!(events.0.capacity(), 1);
    }
}
