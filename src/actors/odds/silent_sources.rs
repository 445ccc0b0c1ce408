//! Sources that have markets in the database, and that nobody has heard since this process started.

use std::collections::BTreeSet;

use parking_lot::RwLock;

use crate::domain::ids::Source;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::timestamp::Timestamp;

/// The sources of stored markets from which no open market has been read since. Shared by the live
/// consumer, which hears them, and the source monitor, which shows them as lost.
#[derive(Debug)]
pub(crate) struct SilentSources {
    started_at: Timestamp,
    sources: RwLock<BTreeSet<Source>>,
}

impl SilentSources {
    /// No source. `started_at`: records that were published earlier prove nothing.
    pub(crate) fn new(started_at: Timestamp) -> SilentSources {
        SilentSources {
            started_at,
            sources: RwLock::default(),
        }
    }

    /// These sources have markets in the database.
    pub(crate) fn add(&self, stored: Vec<Source>) {
        self.sources.write().extend(stored);
    }

    /// Records were read, of which the oldest was published at `oldest`. A source that publishes an
    /// open market speaks. Suspensions are also published by `ingest` on behalf of a silent source.
    pub(crate) fn hear(&self, updates: &[PositionedUpdate], oldest: Timestamp) {
        if oldest < self.started_at || self.sources.read().is_empty() {
            return;
        }
        let mut sources = self.sources.write();
        for PositionedUpdate { update, .. } in updates {
            if update.status == MarketStatus::Open {
                sources.remove(&update.source);
            }
        }
    }

    /// The sources that are still silent.
    pub(crate) fn get(&self) -> BTreeSet<Source> {
        self.sources.read().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::odds::update::testing::update;

    fn record(source: &str, status: MarketStatus) -> PositionedUpdate {
        let mut update = update(1, 1, 1);
        update.source = Source::new(source).unwrap();
        update.status = status;
        PositionedUpdate {
            update,
            position: 1,
            partition: 0,
        }
    }

    #[test]
    fn source_with_new_open_market_is_not_silent() {
        let at = |micros| Timestamp::from_micros(micros).unwrap();
        let source = |name| Source::new(name).unwrap();
        let silent = SilentSources::new(at(100));
        silent.add(vec![source("a"), source("b"), source("c")]);
        let both = [source("a"), source("b"), source("c")];
        silent.hear(&[record("a", MarketStatus::Open)], at(99));
        silent.hear(&[record("b", MarketStatus::Suspended)], at(100));
        assert_eq!(silent.get(), BTreeSet::from(both));
        let spoken = [
            record("a", MarketStatus::Open),
            record("x", MarketStatus::Open),
        ];
        silent.hear(&spoken, at(100));
        assert_eq!(silent.get(), BTreeSet::from([source("b"), source("c")]));
    }
}
