//! The sources that have published since this process started.

use std::collections::BTreeSet;

use parking_lot::RwLock;

use super::update_records::with_records;
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

    /// A batch was read. An update counts if its record was published since the start; a record
    /// without a time may be older, so it does not count. On the embedded bus, whose records have no
    /// time, every source is reported. Suspensions do not count: `ingest` publishes them on behalf of
    /// a source that is silent.
    pub(crate) fn read(&self, batch: &[Record], updates: &[PositionedUpdate]) {
        let new = with_records(batch, updates)
            .filter(|(record, _)| record.published_at >= Some(self.started_at));
        let updates = new.map(|(_, positioned)| &positioned.update);
        for update in updates.filter(|update| update.status == MarketStatus::Open) {
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
    use crate::domain::odds::update::OddsUpdate;
    use crate::domain::odds::update::testing::update;

    const START: i64 = 1_700_000_000_000_000;

    /// The sources that count of a batch of open and other markets with these publish times. Each
    /// market has a source of its own, named by its position.
    fn counted(batch: &[(MarketStatus, Option<i64>)]) -> Vec<String> {
        let at = |micros| Timestamp::from_micros(micros).unwrap();
        let record = |(position, (_, published_at)): (u64, &(_, Option<i64>))| Record {
            record: NewRecord {
                key: Vec::new().into(),
                payload: Vec::new().into(),
                headers: Vec::new(),
            },
            partition: 0,
            offset: position,
            published_at: published_at.map(at),
        };
        let read = |(position, (status, _)): (u64, &(MarketStatus, _))| PositionedUpdate {
            trace: None,
            update: OddsUpdate {
                source: Source::new(&position.to_string()).unwrap(),
                status: *status,
                ..update(1, 1, 1)
            },
            position,
            partition: 0,
        };
        let records: Vec<_> = (0..).zip(batch).map(record).collect();
        let mut updates: Vec<_> = (0..).zip(batch).map(read).collect();
        // The first record of each batch holds no update.
        updates.remove(0);
        let sources = PublishedSources::new(at(START));
        sources.read(&records, &updates);
        let counted = sources.get().into_iter();
        counted.map(|source| source.as_str().to_owned()).collect()
    }

    #[test]
    fn only_new_open_markets_count() {
        use MarketStatus::{Open, Suspended};
        let batch = [
            (Open, Some(START - 1)),
            (Open, Some(START)),
            (Open, Some(START - 1)),
            (Open, None),
            (Suspended, Some(START)),
            (Open, Some(START + 1)),
        ];
        assert_eq!(counted(&batch), ["1", "5"]);
    }
}
