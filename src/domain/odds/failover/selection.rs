//! The markets of a process, each with its sources.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::held::HeldRecords;
use super::{
    Basis, Decision, DroppedRecord, FailoverCause, FailoverRefusal, FailoverRules, MarketSources,
    Received, SourceLives, SourceUpdate,
};
use crate::domain::ids::{EventId, MarketKey, Source};
use crate::domain::odds::book::MAX_MARKETS;
use crate::domain::odds::source_status::CurrentReports;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;

/// How long after the last record that an earlier process may have handled an idle reader counts as
/// having read it.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// How long after it records may be read again at most.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Maximum number of events without records that are kept because a market was handed over.
pub const MAX_IDLE_HANDED_OVER: usize = 10_000;

/// What follows from a record, or from a change of the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Publish this update.
    Publish(Arc<OddsUpdate>),
    /// A market has changed its owner.
    Moved(FailoverCause),
    /// A live source did not become the owner of a market.
    Refused(FailoverRefusal),
    /// A market is suspended because no source offers it.
    Withdrawn,
    /// The record was dropped.
    Dropped(DroppedRecord),
}

/// The published states of an event.
#[derive(Clone, Debug, Default)]
pub struct PublishedStates {
    /// The states; a market may have several, of which the latest counts.
    pub updates: Vec<Arc<OddsUpdate>>,
    /// Whether a market without a state was never published. It is unknown otherwise.
    pub is_complete: bool,
}

/// Selects the shown state of each market.
#[derive(Debug)]
pub struct SourceSelection {
    rules: FailoverRules,
    lives: SourceLives,
    events: HashMap<EventId, EventMarkets>,
    /// The records of markets whose published state is unknown.
    held: HeldRecords,
    /// Whether there may be markets whose records are read again. They are decided about after that.
    rereads: bool,
    /// The time of the last record of each partition.
    read: BTreeMap<u32, Timestamp>,
    /// When this process has taken over each partition: an earlier one has handled no later record.
    taken_over: BTreeMap<u32, Timestamp>,
    /// Whether an earlier process may have handled records that are read.
    is_durable: bool,
}

/// The markets of one event.
#[derive(Debug)]
struct EventMarkets {
    partition: u32,
    used_at: Instant,
    /// Whether the published state of every market is known.
    is_complete: bool,
    markets: BTreeMap<MarketKey, MarketSources>,
}

impl SourceSelection {
    /// Knows no market. `grace`: see [`SourceLives::new`].
    pub fn new(rules: FailoverRules, grace: Duration, now: Instant) -> SourceSelection {
        SourceSelection {
            lives: SourceLives::new(rules.failback_after, grace, now),
            rules,
            events: HashMap::new(),
            held: HeldRecords::default(),
            rereads: false,
            read: BTreeMap::new(),
            taken_over: BTreeMap::new(),
            is_durable: true,
        }
    }

    /// Reads from a bus that ends with the process, so no earlier one has handled its records.
    pub fn on_memory_bus(self) -> SourceSelection {
        SourceSelection {
            is_durable: false,
            ..self
        }
    }

    /// Whether the published state of this update's market is unknown. It must be loaded; until then
    /// the records of the market are held.
    pub fn needs(&self, update: &OddsUpdate) -> bool {
        self.events
            .get(&update.event_id)
            .is_none_or(|event| !event.is_complete && !event.markets.contains_key(&update.market))
    }

    /// The number of records that are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing waits: no record is held, and no market is decided about later because its
    /// records are read again. What was received has led to its effects then.
    pub fn is_decided(&self) -> bool {
        self.held.len() == 0 && !self.rereads
    }

    /// The events with records that are held, with the partition of each.
    pub fn held_events(&self) -> impl Iterator<Item = (&EventId, u32)> {
        self.held.events()
    }

    /// Adds the published states of an event, and receives its records that were held for them.
    pub fn load(
        &mut self,
        event: &EventId,
        partition: u32,
        published: PublishedStates,
        now: Instant,
        clock: Timestamp,
    ) -> Vec<Effect> {
        let mut latest = BTreeMap::<MarketKey, Arc<OddsUpdate>>::new();
        for update in published.updates {
            let known = latest
                .entry(update.market.clone())
                .or_insert(update.clone());
            if known.revision < update.revision {
                *known = update;
            }
        }
        let known = self.events.entry(event.clone()).or_insert(EventMarkets {
            partition,
            used_at: now,
            is_complete: false,
            markets: BTreeMap::new(),
        });
        known.is_complete |= published.is_complete;
        let taken_over = *self.taken_over.entry(partition).or_insert(clock);
        let reread_until = self.is_durable.then_some(taken_over);
        for (key, update) in latest {
            let is_lost = self.lives.is_lost(&update.source);
            let restored = || MarketSources::restored(update, is_lost, now, reread_until);
            known.markets.entry(key).or_insert_with(restored);
        }
        self.rereads |= !known.markets.is_empty();
        let held = self.held.take(event);
        held.into_iter()
            .flat_map(|heard| self.receive(heard, now))
            .collect()
    }

    /// Receives a record. It is held if the published state of its market is unknown.
    pub fn receive(&mut self, heard: SourceUpdate, now: Instant) -> Vec<Effect> {
        if self.needs(&heard.update) {
            self.held.push(heard);
            return Vec::new();
        }
        self.read.insert(heard.partition, heard.published_at);
        let (clock, is_replayed) = (heard.published_at, heard.is_replayed);
        self.rereads |= is_replayed;
        let market = market_of(&mut self.events, &heard.update, now);
        let basis = Basis {
            rules: &self.rules,
            lives: &self.lives,
            now,
            clock,
        };
        let (decision, dropped) = match market {
            None => return Vec::new(),
            Some(Err(dropped)) => (None, Some(dropped)),
            Some(Ok(market)) => {
                let Received { is_due, dropped } = market.receive(heard, &self.lives);
                (is_due.then(|| market.decide(basis)), dropped)
            }
        };
        // The effect of a replayed record was counted when it was read first.
        let dropped = dropped.filter(|_| !is_replayed).map(Effect::Dropped);
        let decided = decision.into_iter().flat_map(effects);
        decided.chain(dropped).collect()
    }

    /// Follows the reports about the sources, and decides about all markets if that may change
    /// their owners. Otherwise only the markets whose records have just been read again are decided
    /// about. `is_idle` is whether no record waits to be read.
    pub fn observe(
        &mut self,
        reported: &BTreeMap<Source, CurrentReports>,
        is_idle: bool,
        now: Instant,
        clock: Timestamp,
    ) -> Vec<Effect> {
        let observed = self.lives.observe(reported, now);
        let rereads = std::mem::take(&mut self.rereads);
        if !observed.is_due && !rereads {
            return Vec::new();
        }
        let basis = Basis {
            rules: &self.rules,
            lives: &self.lives,
            now,
            clock,
        };
        let wait = if is_idle { IDLE_WAIT } else { MAX_WAIT };
        let mut decided = Vec::new();
        for event in self.events.values_mut() {
            let read = self.read.get(&event.partition).copied();
            for market in event.markets.values_mut() {
                observed.lost.iter().for_each(|source| market.lose(source));
                let has_finished = market.finish_reading_after(read, wait, clock);
                self.rereads |= market.is_reading_again();
                if has_finished || (observed.is_due && !market.is_reading_again()) {
                    decided.extend(effects(market.decide(basis)));
                }
            }
        }
        decided
    }

    /// Forgets what belongs to partitions of another process.
    pub fn forget(&mut self, partitions: &[u32]) {
        self.events
            .retain(|_, event| !partitions.contains(&event.partition));
        self.held.forget(partitions);
        self.read
            .retain(|partition, _| !partitions.contains(partition));
        self.taken_over
            .retain(|partition, _| !partitions.contains(partition));
    }

    /// Forgets events that are over, and those without a record for `idle_limit`. They are loaded
    /// again with their next record. The published state does not show that a market was handed
    /// over, so the [`MAX_IDLE_HANDED_OVER`] latest events with such a market are kept.
    pub fn sweep(&mut self, idle_limit: Duration, now: Instant) {
        let mut idle_handed_over = Vec::new();
        self.events.retain(|id, event| {
            let is_over = event.markets.values().all(MarketSources::is_ended);
            let is_idle = now.saturating_duration_since(event.used_at) >= idle_limit;
            let is_handed_over = event.markets.values().any(MarketSources::is_handed_over);
            if is_idle && is_handed_over {
                idle_handed_over.push((event.used_at, id.clone()));
            }
            !is_over && (!is_idle || is_handed_over)
        });
        let excess = idle_handed_over.len().saturating_sub(MAX_IDLE_HANDED_OVER);
        idle_handed_over.sort_unstable();
        for (_, id) in idle_handed_over.drain(..excess) {
            self.events.remove(&id);
        }
    }

    /// The number of markets.
    pub fn markets(&self) -> usize {
        self.events.values().map(|event| event.markets.len()).sum()
    }
}

/// The market of an update, or why it has none; `None` if its event is not loaded.
fn market_of<'a>(
    events: &'a mut HashMap<EventId, EventMarkets>,
    update: &OddsUpdate,
    now: Instant,
) -> Option<Result<&'a mut MarketSources, DroppedRecord>> {
    let event = events.get_mut(&update.event_id)?;
    event.used_at = now;
    let is_full = event.markets.len() >= MAX_MARKETS;
    if is_full && !event.markets.contains_key(&update.market) {
        return Some(Err(DroppedRecord::TooManyMarkets));
    }
    let market = event.markets.entry(update.market.clone()).or_default();
    Some(Ok(market))
}

fn effects(decision: Decision) -> impl Iterator<Item = Effect> {
    let Decision {
        publish,
        moved,
        refused,
        is_withdrawn,
    } = decision;
    let effects = [
        publish.map(Effect::Publish),
        moved.map(Effect::Moved),
        refused.map(Effect::Refused),
        is_withdrawn.then_some(Effect::Withdrawn),
    ];
    effects.into_iter().flatten()
}
