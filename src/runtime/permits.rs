//! Counts what is in use by key, such as a client's address.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// The permits in use of each key, shared by all threads. Bounded: a key is removed with its last
/// permit.
#[derive(Debug)]
pub(crate) struct PermitCounts<K>(Arc<Mutex<HashMap<K, usize>>>);

/// A permit of a key. Returned when dropped.
#[derive(Debug)]
pub struct Permit<K: Eq + Hash> {
    counts: PermitCounts<K>,
    key: K,
}

/// A permit of an address.
pub(crate) type AddressPermit = Permit<IpAddr>;

impl<K> Clone for PermitCounts<K> {
    fn clone(&self) -> PermitCounts<K> {
        PermitCounts(self.0.clone())
    }
}

impl<K> Default for PermitCounts<K> {
    fn default() -> PermitCounts<K> {
        PermitCounts(Arc::default())
    }
}

impl<K: Copy + Eq + Hash> PermitCounts<K> {
    /// Takes a permit. `None` if the key already has `max`.
    pub(crate) fn acquire(&self, key: K, max: usize) -> Option<Permit<K>> {
        let mut counts = self.0.lock();
        let count = counts.get(&key).copied().unwrap_or(0);
        if count >= max {
            return None;
        }
        counts.insert(key, count + 1);
        Some(Permit {
            counts: self.clone(),
            key,
        })
    }

    /// Whether no key has a permit.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl<K: Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// No key exceeds its limit, a refusal means that it is reached, and unused keys are
        /// removed.
        #[test]
        fn permits_are_counted_exactly(
            max in 1_usize..4,
            steps in proptest::collection::vec((0_u8..3, any::<bool>()), 0..60),
        ) {
            let counts = PermitCounts::default();
            let mut held: [Vec<AddressPermit>; 3] = Default::default();
            for (key, acquires) in steps {
                let permits = &mut held[usize::from(key)];
                if !acquires {
                    permits.pop();
                    continue;
                }
                let permit = counts.acquire(Ipv4Addr::new(192, 0, 2, key).into(), max);
                prop_assert_eq!(permit.is_some(), permits.len() < max);
                permits.extend(permit);
            }
            let in_use = held.iter().filter(|permits| !permits.is_empty()).count();
            prop_assert_eq!(counts.0.lock().len(), in_use);
            drop(held);
            prop_assert!(counts.is_empty());
        }
    }
}
