//! The records of one market.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{RecordContent, RecordKind, ResultRecord};
use super::trust::{TrustedSources, is_operator};
use crate::domain::ids::{SelectionId, Source};
use crate::domain::odds::update::Revision;

/// Identifies a record of a market. The order is that of the revisions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey {
    /// Its revision.
    pub revision: Revision,
    /// Its source.
    pub source: Source,
    /// Its kind.
    pub kind: RecordKind,
}

/// The set of records of one market. It is the same in whatever order they arrived, and however
/// often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarketResults(BTreeMap<RecordKey, BTreeSet<RecordContent>>);

/// What inserting a record did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is new.
    New,
    /// The same record is known.
    Known,
    /// The source has sent other contents with this revision. All of them are kept, and nothing of
    /// the revision is paid.
    Conflict,
}

impl MarketResults {
    /// Adds a record of this market.
    pub fn insert(&mut self, record: ResultRecord) -> Inserted {
        let key = RecordKey {
            revision: record.revision,
            source: record.source,
            kind: record.content.kind(),
        };
        let contents = self.0.entry(key).or_default();
        match (contents.insert(record.content), contents.len()) {
            (false, _) => Inserted::Known,
            (true, 1) => Inserted::New,
            (true, _) => Inserted::Conflict,
        }
    }

    /// The records, the latest first, with all contents that each was sent with.
    pub fn latest_first(&self) -> impl Iterator<Item = (&RecordKey, &BTreeSet<RecordContent>)> {
        self.0.iter().rev()
    }

    /// The selections that settlements name.
    pub fn selections(&self) -> impl Iterator<Item = &SelectionId> {
        let contents = self.0.values().flatten();
        let named = contents.filter_map(|content| match content {
            RecordContent::Settlement(settlement) => Some(&settlement.selections),
            _ => None,
        });
        named.flatten().map(|result| &result.id)
    }

    /// Whether the latest record of a trusted source is an operator's: an operator has decided, and no
    /// limit applies.
    pub fn is_decided_by_operator(&self, sources: &TrustedSources) -> bool {
        let mut trusted = self
            .latest_first()
            .filter(|(key, _)| sources.trusts(&key.source));
        trusted
            .next()
            .is_some_and(|(key, _)| is_operator(&key.source))
    }

    /// The records that were sent with more than one content.
    pub fn conflicts(&self) -> impl Iterator<Item = &RecordKey> {
        let conflicts = self.0.iter().filter(|(_, contents)| contents.len() > 1);
        conflicts.map(|(key, _)| key)
    }
}
