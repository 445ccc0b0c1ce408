//! Sources that have markets in the database, and that nobody has heard since this process started.

use std::collections::BTreeSet;

use parking_lot::RwLock;

use crate::domain::ids::Source;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::timestamp::Timestamp;

/// Maximum number of sources that are remembered before the database was read.
const MAX_HEARD: usize = 1_000;

/// The sources of stored markets from which no open market has been read since. Shared by the live
/// consumer, which hears them, and the source monitor, which shows them as lost.
#[derive(Debug)]
pub(crate) struct SilentSources {
    started_at: Timestamp,
    known: RwLock<Known>,
}

#[derive(Debug)]
enum Known {
    /// The database was not read yet. These sources were heard.
    Heard(BTreeSet<Source>),
    /// These sources have markets in the database and were not heard.
    Silent(BTreeSet<Source>),
}

impl SilentSources {
    /// No source. `started_at`: records that were published earlier prove nothing.
    pub(crate) fn new(started_at: Timestamp) -> SilentSources {
        SilentSources {
            started_at,
            known: RwLock::new(Known::Heard(BTreeSet::new())),
        }
    }

    /// These sources have markets in the database. Those that were heard since the start are not
    /// silent: the markets may have been stored since.
    pub(crate) fn stored(&self, sources: Vec<Source>) {
        let mut known = self.known.write();
        if let Known::Heard(heard) = &*known {
            let silent = sources.into_iter().filter(|source| !heard.contains(source));
            *known = Known::Silent(silent.collect());
        }
    }

    /// Records were read, of which the oldest was published at `oldest`. A source that publishes an
    /// open market speaks. Suspensions are also published by `ingest` on behalf of a silent source.
    pub(crate) fn hear(&self, updates: &[PositionedUpdate], oldest: Timestamp) {
        if oldest < self.started_at || self.are_all_heard() {
            return;
        }
        let open = updates
            .iter()
            .map(|positioned| &positioned.update)
            .filter(|update| update.status == MarketStatus::Open);
        let mut known = self.known.write();
        for update in open {
            match &mut *known {
                Known::Heard(heard) if heard.len() < MAX_HEARD => {
                    heard.insert(update.source.clone());
                }
                Known::Heard(_) => {}
                Known::Silent(silent) => {
                    silent.remove(&update.source);
                }
            }
        }
    }

    fn are_all_heard(&self) -> bool {
        matches!(&*self.known.read(), Known::Silent(silent) if silent.is_empty())
    }

    /// The sources that are still silent; `None` before the database was read.
    pub(crate) fn get(&self) -> Option<BTreeSet<Source>> {
        match &*self.known.read() {
            Known::Heard(_) => None,
            Known::Silent(silent) => Some(silent.clone()),
        }
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
        silent.stored(vec![source("a"), source("b"), source("c")]);
        let all = [source("a"), source("b"), source("c")];
        silent.hear(&[record("a", MarketStatus::Open)], at(99));
        silent.hear(&[record("b", MarketStatus::Suspended)], at(100));
        assert_eq!(silent.get(), Some(BTreeSet::from(all)));
        let spoken = [
            record("a", MarketStatus::Open),
            record("x", MarketStatus::Open),
        ];
        silent.hear(&spoken, at(100));
        let others = BTreeSet::from([source("b"), source("c")]);
        assert_eq!(silent.get(), Some(others));
    }

    /// The database may hold what was read since the start.
    #[test]
    fn source_that_was_heard_first_is_not_silent() {
        let at = |micros| Timestamp::from_micros(micros).unwrap();
        let source = |name| Source::new(name).unwrap();
        let silent = SilentSources::new(at(100));
        silent.hear(&[record("old", MarketStatus::Open)], at(99));
        silent.hear(&[record("a", MarketStatus::Open)], at(100));
        assert_eq!(silent.get(), None);
        silent.stored(vec![source("a"), source("old")]);
        assert_eq!(silent.get(), Some(BTreeSet::from([source("old")])));
    }
}
