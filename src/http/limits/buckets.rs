//! The buckets of a rate limit, by key.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use parking_lot::Mutex;

/// Threads that serve different keys rarely wait for each other.
const SHARDS: usize = 16;
const SHARD_BITS: u32 = SHARDS.trailing_zeros();
/// Maximum number of buckets of a rate limit.
pub(super) const MAX_BUCKETS: usize = 65_536;

/// When each bucket is full again. A full bucket is like a new one, so it need not be kept.
type Shard = HashMap<u64, Nanos, RandomState>;

/// The buckets of a rate limit. A shard without room drops the half of its buckets that is full
/// soonest, so many new clients do not free one that is limited.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    shards: Arc<[Mutex<Shard>]>,
    max_in_shard: usize,
}

impl Buckets {
    /// Up to this many buckets.
    pub(super) fn new(max: usize) -> Buckets {
        Buckets {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            max_in_shard: max.div_ceil(SHARDS),
        }
    }

    /// Takes this much more from a bucket, even if it is empty: then it is full again later, but
    /// not after `latest`.
    pub(super) fn charge(&self, key: u64, cost: Nanos, now: Nanos, latest: Nanos) {
        let mut shard = self.shard(key).lock();
        let known = shard.get(&key).copied().unwrap_or(now);
        let charged = known.max(now).as_u64().saturating_add(cost.as_u64());
        let full_at = Nanos::new(charged.min(latest.as_u64())).max(known);
        self.insert(&mut shard, key, full_at);
    }

    fn insert(&self, shard: &mut Shard, key: u64, full_at: Nanos) {
        if shard.len() >= self.max_in_shard && !shard.contains_key(&key) {
            make_room(shard);
        }
        shard.insert(key, full_at);
    }

    fn shard(&self, key: u64) -> &Mutex<Shard> {
        // Keys are hashes. The map of a shard uses their other bits.
        &self.shards[(key >> (u64::BITS - SHARD_BITS)) as usize]
    }
}

fn make_room(shard: &mut Shard) {
    let mut times: Vec<u64> = shard.values().map(|full_at| full_at.as_u64()).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    shard.retain(|_, full_at| full_at.as_u64() > median);
}

impl StateStore for Buckets {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(*key).lock();
        if let Some(full_at) = shard.get_mut(key) {
            let (outcome, next) = decide(Some(*full_at))?;
            *full_at = next;
            return Ok(outcome);
        }
        let (outcome, next) = decide(None)?;
        self.insert(&mut shard, *key, next);
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<u64> for Buckets {
    fn retain_recent(&self, full_before: Nanos) {
        for shard in self.shards.iter() {
            shard.lock().retain(|_, full_at| *full_at > full_before);
        }
    }

    fn shrink_to_fit(&self) {
        for shard in self.shards.iter() {
            shard.lock().shrink_to_fit();
        }
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.lock().is_empty())
    }
}
