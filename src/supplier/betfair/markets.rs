//! The markets of the stream, and the updates that are published about them.

use std::collections::{BTreeMap, VecDeque};

use serde_json::value::RawValue;

use super::changes::Changes;
use super::market::{Market, Scope};
use super::results::NewResults;
use super::wire::MarketChange;
use crate::domain::ids::EventId;
use crate::domain::json;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;
use crate::supplier::{Decoded, Refused};

/// The maximum number of markets held, including ended ones.
const MAX_MARKETS: usize = 50_000;
/// The number of ended markets held; a late change of an older one is rejected as unknown.
const MAX_RETIRED: usize = 1_000;
/// The maximum number of rejected parts reported per frame.
const MAX_REFUSED: usize = 32;

/// The state of all markets. Outlives a connection, so a reconnect only needs the changes.
#[derive(Default)]
pub(super) struct Markets {
    held: BTreeMap<EventId, Market>,
    /// Ended or removed markets, oldest first.
    retired: VecDeque<EventId>,
}

impl Markets {
    /// The number of markets held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether the stream has sent this market.
    pub(super) fn holds(&self, id: &EventId) -> bool {
        self.held.contains_key(id)
    }

    /// Applies one market's change of a message with this time.
    pub(super) fn apply(
        &mut self,
        text: &RawValue,
        is_image: bool,
        time: Option<Timestamp>,
        changes: &mut Changes,
    ) {
        let change: MarketChange<'_> = match json::from_str(text.get()) {
            Ok(change) => change,
            Err(error) => return changes.lose(text, "bad_market", &error),
        };
        let id = match EventId::new(&change.id) {
            Ok(id) => id,
            Err(error) => return changes.lose(text, "bad_market", &error),
        };
        if time.is_none() {
            return changes.lose(text, "no_time", &"the message has no pt");
        }
        let scope = match (is_image, change.img == Some(true)) {
            (true, _) if !changes.is_read(&id) => Scope::Subscription,
            (_, true) => Scope::Market,
            (true, false) => Scope::Further,
            (false, false) => Scope::Difference,
        };
        if let Err((reason, detail)) = self.admit(&id, &change, scope) {
            return changes.refuse(reason, detail);
        }
        changes.touch(&id, time);
        changes.read.insert(id.clone());
        let market = self
            .held
            .entry(id.clone())
            .or_insert_with(|| Market::new(id));
        market.apply(&change, scope, &mut changes.refused);
        changes.needs_image |= market.needs_image();
    }

    /// Checks that the market is known or may be added. Fails with a code and a detail.
    fn admit(
        &self,
        id: &EventId,
        change: &MarketChange<'_>,
        scope: Scope,
    ) -> Result<(), (&'static str, String)> {
        if self.held.contains_key(id) {
            return Ok(());
        }
        if scope == Scope::Difference && change.market_definition.is_none() {
            let detail = format!("market {id}: a change before its first image");
            return Err(("unknown_market", detail));
        }
        if self.held.len() >= MAX_MARKETS {
            let detail = format!("market {id}: the limit of {MAX_MARKETS} markets is reached");
            return Err(("too_many_markets", detail));
        }
        Ok(())
    }

    /// Suspends the markets with a lost change. Runs after all changes of the frame: the lost change
    /// may contradict the rest of the frame.
    pub(super) fn suspend_lost(&mut self, changes: &mut Changes) {
        for id in std::mem::take(&mut changes.lost) {
            let Some(market) = self.held.get_mut(&id) else {
                continue;
            };
            market.set_in_doubt();
            changes.needs_image |= market.needs_image();
            changes.touch(&id, changes.latest);
        }
    }

    /// Suspends the markets missing from an image. It contains the whole subscription, so they must
    /// not look live.
    pub(super) fn suspend_missing(&mut self, changes: &mut Changes) {
        for (id, market) in self
            .held
            .iter_mut()
            .filter(|(_, market)| !market.is_retired())
        {
            if !changes.touches(id) {
                market.set_absent();
                changes.touch(id, changes.latest);
            }
        }
    }

    /// The open markets, as they were published last.
    pub(super) fn open(&self) -> impl Iterator<Item = &OddsUpdate> {
        let shown = self.held.values().filter_map(Market::shown);
        shown.filter(|update| update.status == MarketStatus::Open)
    }

    /// Marks all markets that have not ended for publishing.
    pub(super) fn touch_all(&self, changes: &mut Changes) {
        for (id, _) in self.held.iter().filter(|(_, market)| !market.has_ended()) {
            changes.touch(id, changes.latest);
        }
    }

    /// The updates of the touched markets that differ from the published ones, and the rejected
    /// parts. Every open market is suspended unless the stream is trusted.
    pub(super) fn publish(&mut self, mut changes: Changes, is_trusted: bool) -> Decoded {
        let mut updates = Vec::new();
        let mut results = NewResults::default();
        for id in std::mem::take(&mut changes.order) {
            let Some(market) = self.held.get_mut(&id) else {
                continue;
            };
            let time = changes.times.get(&id).copied().flatten();
            updates.extend(market.publish(time, is_trusted));
            results.extend(market.publish_results(time));
            if market.is_retired() && !self.retired.contains(&id) {
                self.retired.push_back(id);
            }
        }
        self.remove_oldest_retired();
        truncate(&mut changes.refused);
        truncate(&mut results.refused);
        Decoded {
            updates,
            refused: changes.refused,
            results: results.records,
            refused_results: results.refused,
            ..Decoded::default()
        }
    }

    fn remove_oldest_retired(&mut self) {
        while self.retired.len() > MAX_RETIRED {
            let Some(id) = self.retired.pop_front() else {
                break;
            };
            if self.held.get(&id).is_some_and(Market::is_retired) {
                self.held.remove(&id);
            }
        }
    }
}

/// Each rejected part becomes a dead letter with the whole frame.
fn truncate(refused: &mut Vec<Refused>) {
    let excess = refused.len().saturating_sub(MAX_REFUSED);
    refused.truncate(MAX_REFUSED);
    if let Some(last) = refused.last_mut().filter(|_| excess > 0) {
        last.detail = format!("{}; and {excess} more parts", last.detail);
    }
}
