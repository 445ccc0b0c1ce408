//! The records of results, and the markets that have some.

use crate::domain::ids::{EventId, EventMarket};
use crate::domain::settlement::market_results::{Inserted, MarketResults};
use crate::domain::settlement::record::ResultRecord;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::rows::line_text;

/// The records of a market, read at one point in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredResults {
    /// Grows with each new record of the market. 0 if there is none.
    pub generation: u64,
    /// The records.
    pub results: MarketResults,
}

/// A stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The record.
    pub record: ResultRecord,
    /// When it was stored.
    pub received_at: Timestamp,
}

/// Stores the records of results. They are never changed or deleted.
pub trait ResultStore: Send + Sync {
    /// Stores records in one transaction, and returns what each did, in the same order. A new record
    /// makes its market due for settlement.
    fn store_results(
        &self,
        records: &[ResultRecord],
        at: Timestamp,
    ) -> Result<Vec<Inserted>, StoreError>;

    /// The records of a market.
    fn market_results(&self, market: &EventMarket) -> Result<StoredResults, StoreError>;

    /// The latest records of the markets of an event, at most `limit`: by market, and then in the order
    /// in which they were stored.
    fn event_results(
        &self,
        event_id: &EventId,
        limit: usize,
    ) -> Result<Vec<StoredRecord>, StoreError>;
}

/// Stores each record with `store`, market by market in the order of their columns, in which all
/// transactions lock markets. Returns the answers in the order of the records.
pub(in crate::store) fn in_market_order<E>(
    records: &[ResultRecord],
    mut store: impl FnMut(&ResultRecord) -> Result<Inserted, E>,
) -> Result<Vec<Inserted>, E> {
    let mut order: Vec<_> = records.iter().enumerate().collect();
    order.sort_by_cached_key(|(_, record)| {
        let line = line_text(record.market.line);
        (&record.event_id, &record.market.name, line)
    });
    let mut answers = Vec::with_capacity(records.len());
    for (place, record) in order {
        answers.push((place, store(record)?));
    }
    answers.sort_unstable_by_key(|(place, _)| *place);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}
