//! Where dead letters are read from.

use std::collections::{BTreeMap, HashSet};

use secrecy::ExposeSecret;

use super::entry::{DeadLetterEntry, Id};
use super::text::SHOWN_BYTES;
use super::{DlqError, Place};
use crate::bus::kafka::KafkaBus;
use crate::store::Store;
use crate::store::sqlite::SqliteStore;

/// Maximum number of database rows to search.
const ROWS: usize = 100_000;

/// Kafka's dead-letter topic, or the server's database.
pub(super) enum Source {
    Kafka(KafkaBus, String),
    Store(Box<dyn Store>),
}

impl Source {
    pub(super) fn open(place: &Place) -> Result<Source, DlqError> {
        if place.bus.kafka_brokers.is_some() {
            return Ok(Source::Kafka(
                KafkaBus::new(&place.bus, "sports-bet-dlq")?,
                place.topic(),
            ));
        }
        // Read-only and without a database lock, so that the server that holds the lock is not
        // disturbed.
        Ok(Source::Store(Box::new(SqliteStore::open_existing(
            place.database_url.expose_secret(),
        )?)))
    }

    /// The newest letters with this reason, newest last, truncated to the displayed bytes.
    pub(super) fn newest(
        &self,
        limit: usize,
        reason: Option<&str>,
    ) -> Result<Vec<DeadLetterEntry>, DlqError> {
        let mut newest = Newest {
            limit,
            letters: BTreeMap::new(),
            seen: HashSet::new(),
        };
        let mut add = |letter: DeadLetterEntry| {
            if reason.is_none_or(|reason| letter.reason == reason) {
                newest.add(letter);
            }
        };
        match self {
            Source::Kafka(bus, topic) => {
                for record in bus.scan(topic, None)? {
                    add(DeadLetterEntry::of_record(record?));
                }
            }
            Source::Store(store) => {
                let rows = if reason.is_some() { ROWS } else { limit };
                store
                    .list_dead_letters(rows)?
                    .into_iter()
                    .map(DeadLetterEntry::of_store)
                    .for_each(add);
            }
        }
        Ok(newest.letters.into_values().collect())
    }

    /// One complete letter.
    pub(super) fn one(&self, id: &Id) -> Result<Option<DeadLetterEntry>, DlqError> {
        match (self, id) {
            (Source::Kafka(bus, topic), Id::Place(partition, offset)) => {
                let record = bus
                    .scan(topic, Some(&[(*partition, *offset)]))?
                    .next()
                    .transpose()?;
                Ok(record
                    .filter(|record| record.offset == *offset)
                    .map(DeadLetterEntry::of_record))
            }
            (Source::Store(store), Id::Number(number)) => {
                let found = store
                    .list_dead_letters(ROWS)?
                    .into_iter()
                    .find(|stored| stored.id == *number);
                Ok(found.map(DeadLetterEntry::of_store))
            }
            _ => Ok(None),
        }
    }
}

/// The newest letters so far, ordered by time, without duplicates.
struct Newest {
    limit: usize,
    letters: BTreeMap<(i64, u64, u64), DeadLetterEntry>,
    seen: HashSet<String>,
}

impl Newest {
    fn add(&mut self, mut letter: DeadLetterEntry) {
        if !self.seen.insert(letter.identity()) {
            return;
        }
        let place = match letter.id {
            Id::Place(partition, offset) => (u64::from(partition), offset),
            Id::Number(number) => (0, number.unsigned_abs()),
        };
        letter.shorten(SHOWN_BYTES);
        self.letters
            .insert((letter.received_at.micros(), place.0, place.1), letter);
        if self.letters.len() > self.limit {
            self.letters.pop_first();
        }
    }
}
