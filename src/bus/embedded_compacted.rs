//! The in-process compacted topic: the latest record of each key, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{BusError, CompactedTopic, NewRecord, ReadEvent, Record, TopicReader};
use crate::domain::timestamp::Timestamp;

/// A compacted topic in memory. A slow reader skips records that newer ones have replaced, so it
/// can neither lag nor hold anything back.
#[derive(Clone, Default)]
pub(crate) struct EmbeddedCompactedTopic {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    latest: Mutex<BTreeMap<Bytes, Record>>,
    /// The offset of the next record.
    end: watch::Sender<u64>,
}

impl Shared {
    fn publish(&self, records: Vec<NewRecord>) {
        let mut latest = self.latest.lock();
        let mut offset = *self.end.borrow();
        for record in records {
            let key = record.key.clone();
            let record = Record {
                partition: 0,
                offset,
                published_at: Some(Timestamp::now()),
                record,
            };
            latest.insert(key, record);
            offset += 1;
        }
        self.end.send_replace(offset);
    }

    /// The latest record of each key that was published since `from`, in order, and the offset
    /// after them.
    fn since(&self, from: u64) -> (Vec<Record>, u64) {
        let latest = self.latest.lock();
        let new = latest.values().filter(|record| record.offset >= from);
        let mut records: Vec<Record> = new.cloned().collect();
        records.sort_unstable_by_key(|record| record.offset);
        (records, *self.end.borrow())
    }
}

impl CompactedTopic for EmbeddedCompactedTopic {
    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        self.shared.publish(records);
        std::future::ready(Ok(())).boxed()
    }

    fn read(&self) -> Result<Box<dyn TopicReader>, BusError> {
        let (held, next) = self.shared.since(0);
        Ok(Box::new(EmbeddedReader {
            end: self.shared.end.subscribe(),
            shared: self.shared.clone(),
            held: Some(held),
            is_caught_up: false,
            next,
        }))
    }
}

struct EmbeddedReader {
    shared: Arc<Shared>,
    end: watch::Receiver<u64>,
    /// What the topic held when the reader started, until it is returned.
    held: Option<Vec<Record>>,
    is_caught_up: bool,
    next: u64,
}

impl TopicReader for EmbeddedReader {
    fn next(&mut self) -> BoxFuture<'_, Result<ReadEvent, BusError>> {
        async move {
            if let Some(held) = self.held.take().filter(|held| !held.is_empty()) {
                return Ok(ReadEvent::Held(held));
            }
            if !std::mem::replace(&mut self.is_caught_up, true) {
                return Ok(ReadEvent::CaughtUp);
            }
            let next = self.next;
            let waited = self.end.wait_for(|end| *end > next).await.map(drop);
            waited.map_err(|_| BusError::Closed)?;
            let (records, end) = self.shared.since(self.next);
            self.next = end;
            Ok(ReadEvent::Published(records))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::suite::record;

    crate::bus::suite::compacted_suite!(Arc::new(EmbeddedCompactedTopic::default()));

    /// A reader that does not read costs nothing: it gets the latest record of each key.
    #[tokio::test]
    async fn slow_reader_skips_replaced_records() {
        let topic = EmbeddedCompactedTopic::default();
        let mut reader = topic.read().unwrap();
        assert_eq!(reader.next().await, Ok(ReadEvent::CaughtUp));
        for value in 0..1_000 {
            topic.publish(vec![record("k", value)]).await.unwrap();
        }
        let Ok(ReadEvent::Published(records)) = reader.next().await else {
            panic!("no records")
        };
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].record, record("k", 999));
    }
}
