//! Counts what is in use by client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// The permits in use of each address, shared by all threads. Bounded: an address is removed with
/// its last permit.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressCounts(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A permit of an address. Returned when dropped.
#[derive(Debug)]
pub struct AddressPermit {
    counts: AddressCounts,
    address: IpAddr,
}

impl AddressCounts {
    /// Takes a permit. `None` if the address already has `max`.
    pub(crate) fn acquire(&self, address: IpAddr, max: usize) -> Option<AddressPermit> {
        let mut counts = self.0.lock();
        let count = counts.get(&address).copied().unwrap_or(0);
        if count >= max {
            return None;
        }
        counts.insert(address, count + 1);
        Some(AddressPermit {
            counts: self.clone(),
            address,
        })
    }

    /// Whether no address has a permit.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
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
        /// No address exceeds its limit, a refusal means that it is reached, and unused addresses
        /// are removed.
        #[test]
        fn permits_are_counted_exactly(
            max in 1_usize..4,
            steps in proptest::collection::vec((0_u8..3, any::<bool>()), 0..60),
        ) {
            let counts = AddressCounts::default();
            let mut held: [Vec<AddressPermit>; 3] = Default::default();
            for (address, acquires) in steps {
                let permits = &mut held[usize::from(address)];
                if !acquires {
                    permits.pop();
                    continue;
                }
                let permit = counts.acquire(Ipv4Addr::new(192, 0, 2, address).into(), max);
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
