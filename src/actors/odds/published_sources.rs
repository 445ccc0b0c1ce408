//! The sources that have published since this process started.

use std::collections::BTreeSet;

use parking_lot::RwLock;

use crate::bus::Record;
use crate::domain::ids::Source;
use crate::domain::odds::source_status::MAX_SOURCES;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::timestamp::Timestamp;

/// The sources of open markets that were published since the start. The live consumer reads them,
/// and the source monitor trusts those that nobody reports.
#[derive(Debug)]
pub(crate) struct PublishedSources {
    started_at: Timestamp,
    sources: RwLock<BTreeSet<Source>>,
}

impl PublishedSources {
    /// No source yet. What was published before `started_at` does not count.
    pub(crate) fn new(started_at: Timestamp) -> PublishedSources {
        PublishedSources {
            started_at,
            sources: RwLock::default(),
        }
    }

    /// A batch was read. It counts if all of it was published since the start. On the embedded bus,
    /// whose records have no time, every source is reported. Suspensions do not count: `ingest`
    /// publishes them on behalf of a source that is silent.
    pub(crate) fn read(&self, batch: &[Record], updates: &[PositionedUpdate]) {
        let is_new = |record: &Record| record.published_at >= Some(self.started_at);
        if !batch.iter().all(is_new) {
            return;
        }
        let updates = updates.iter().map(|positioned| &positioned.update);
        let open = updates.filter(|update| update.status == MarketStatus::Open);
        for update in open {
            if !self.sources.read().contains(&update.source) {
                self.add(update.source.clone());
            }
        }
    }

    fn add(&self, source: Source) {
        let mut sources = self.sources.write();
        if sources.len() < MAX_SOURCES {
            sources.insert(source);
        }
    }

    /// The sources so far.
    pub(crate) fn get(&self) -> BTreeSet<Source> {
        self.sources.read().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::NewRecord;
    use crate::domain::odds::update::testing::update;

    const START: i64 = 1_700_000_000_000_000;

    /// Whether an update with this status counts that was published at this time.
    fn counts(status: MarketStatus, published_at: Option<i64>) -> bool {
        let at = |micros| Timestamp::from_micros(micros).unwrap();
        let mut update = update(1, 1, 1);
        update.status = status;
        let record = Record {
            record: NewRecord {
                key: Vec::new().into(),
                payload: Vec::new().into(),
                headers: Vec::new(),
            },
            partition: 0,
            offset: 1,
            published_at: published_at.map(at),
        };
        let source = update.source.clone();
        let read = PositionedUpdate {
            update,
            position: 1,
            partition: 0,
        };
        let sources = PublishedSources::new(at(START));
        sources.read(&[record], &[read]);
        sources.get().contains(&source)
    }

    #[test]
    fn new_open_markets_count() {
        use MarketStatus::{Open, Suspended};
        assert!(counts(Open, Some(START)));
        assert!(!counts(Open, Some(START - 1)), "published before the start");
        assert!(!counts(Open, None), "on the embedded bus");
        assert!(!counts(Suspended, Some(START)));
    }
}
