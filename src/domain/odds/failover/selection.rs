//! The markets of a process, each with its sources.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Decision, DroppedRecord, FailoverCause, FailoverRefusal, FailoverRules, MarketSources,
    SourceLives, SourceUpdate, Standing,
};
use crate::domain::ids::{EventId, MarketKey, Source};
use crate::domain::odds::book::MAX_MARKETS;
use crate::domain::odds::source_status::SourceStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;

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

/// Selects the shown state of each market.
#[derive(Debug)]
pub struct SourceSelection {
    rules: FailoverRules,
    lives: SourceLives,
    events: HashMap<EventId, EventMarkets>,
    /// Whether markets were loaded or learned of since the last decision about all of them: their
    /// owners may have been lost before.
    has_undecided: bool,
}

/// The markets of one event.
#[derive(Debug)]
struct EventMarkets {
    partition: u32,
    used_at: Instant,
    markets: BTreeMap<MarketKey, MarketSources>,
}

impl SourceSelection {
    /// Knows no market. `grace`: see [`SourceLives::new`].
    pub fn new(rules: FailoverRules, grace: Duration, now: Instant) -> SourceSelection {
        SourceSelection {
            lives: SourceLives::new(rules.failback_after, grace, now),
            rules,
            events: HashMap::new(),
            has_undecided: false,
        }
    }

    /// Whether the published state of an event must be loaded before its records are received.
    pub fn needs(&self, event: &EventId) -> bool {
        !self.events.contains_key(event)
    }

    /// Adds an event with its published states.
    pub fn load(
        &mut self,
        event: &EventId,
        partition: u32,
        published: impl IntoIterator<Item = Arc<OddsUpdate>>,
        now: Instant,
        clock: Timestamp,
    ) {
        let mut latest = BTreeMap::<MarketKey, Arc<OddsUpdate>>::new();
        for update in published {
            let known = latest
                .entry(update.market.clone())
                .or_insert(update.clone());
            if known.revision < update.revision {
                *known = update;
            }
        }
        let markets = latest.into_iter().map(|(key, update)| {
            let is_live = self.lives.is_live(&update.source);
            let market = MarketSources::restored(update, is_live, now, clock);
            (key, market)
        });
        let markets = EventMarkets {
            partition,
            used_at: now,
            markets: markets.collect(),
        };
        self.has_undecided |= !markets.markets.is_empty();
        self.events.insert(event.clone(), markets);
    }

    /// Receives a new record of an event that is loaded.
    pub fn receive(&mut self, heard: SourceUpdate, now: Instant) -> Vec<Effect> {
        let SourceSelection {
            rules,
            lives,
            events,
            ..
        } = self;
        let market = match market_of(events, &heard.update, now) {
            Some(Ok(market)) => market,
            Some(Err(dropped)) => return vec![Effect::Dropped(dropped)],
            None => return Vec::new(),
        };
        let received = if heard.standing == Standing::Unvouched {
            market.suspend(heard)
        } else {
            market.receive(heard)
        };
        match received {
            Ok(()) => effects(market.decide(rules, lives, now)).collect(),
            Err(dropped) => vec![Effect::Dropped(dropped)],
        }
    }

    /// Learns the state of a source from a record that an earlier process has handled.
    pub fn replay(&mut self, mut heard: SourceUpdate, now: Instant) {
        if heard.standing == Standing::Unvouched {
            if let Some(Ok(market)) = market_of(&mut self.events, &heard.update, now) {
                // Late records and further sources were counted when they were first read.
                let _ = market.suspend(heard);
                self.has_undecided = true;
            }
            return;
        }
        let is_live = self.lives.is_live(&heard.update.source);
        if heard.standing == Standing::Current && !is_live {
            heard.standing = Standing::Unvouched;
        }
        if let Some(Ok(market)) = market_of(&mut self.events, &heard.update, now) {
            market.replay(heard);
            self.has_undecided = true;
        }
    }

    /// Learns the states of the sources, and decides about all markets if one has changed, or if
    /// there are markets that were not decided about yet.
    pub fn observe(
        &mut self,
        reported: &BTreeMap<Source, SourceStatus>,
        now: Instant,
    ) -> Vec<Effect> {
        let observed = self.lives.observe(reported, now);
        let has_undecided = std::mem::take(&mut self.has_undecided);
        if !observed.is_due && !has_undecided {
            return Vec::new();
        }
        let mut decided = Vec::new();
        let events = self.events.values_mut();
        for market in events.flat_map(|event| event.markets.values_mut()) {
            observed.lost.iter().for_each(|source| market.lose(source));
            decided.extend(effects(market.decide(&self.rules, &self.lives, now)));
        }
        decided
    }

    /// Forgets the events of partitions that belong to another process now.
    pub fn forget(&mut self, partitions: &[u32]) {
        self.events
            .retain(|_, event| !partitions.contains(&event.partition));
    }

    /// Forgets events that are over, and those without a record for `idle_limit`. They are loaded
    /// again with their next record. Until then a lost source is shown as such by the readers.
    pub fn sweep(&mut self, idle_limit: Duration, now: Instant) {
        self.events.retain(|_, event| {
            let is_over = event.markets.values().all(MarketSources::is_ended);
            !is_over && now.saturating_duration_since(event.used_at) < idle_limit
        });
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
