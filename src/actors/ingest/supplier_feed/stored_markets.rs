//! Reads what an earlier process has left of a source in the database.

use crate::domain::ids::Source;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::store::{MarketsOfSourceQuery, Store, StoreError};

/// Markets per read of the database.
const PAGE: usize = 1_000;
/// The maximum number of markets of a source that are read: of the open ones, and of the suspended
/// ones.
pub(super) const MAX_MARKETS: usize = 100_000;

/// The unfinished markets of a source.
#[derive(Debug, Default)]
pub(super) struct StoredMarkets {
    /// The open ones first.
    pub markets: Vec<OddsUpdate>,
    /// The statuses of which there may be more markets than were read.
    pub truncated: Vec<MarketStatus>,
}

impl StoredMarkets {
    /// Reads up to `most` markets of each status.
    pub(super) fn read(
        store: &dyn Store,
        source: &Source,
        most: usize,
    ) -> Result<StoredMarkets, StoreError> {
        let mut stored = StoredMarkets::default();
        for status in [MarketStatus::Open, MarketStatus::Suspended] {
            let read = markets_with(store, source, status, most)?;
            if read.len() >= most {
                stored.truncated.push(status);
            }
            stored.markets.extend(read);
        }
        Ok(stored)
    }
}

fn markets_with(
    store: &dyn Store,
    source: &Source,
    status: MarketStatus,
    most: usize,
) -> Result<Vec<OddsUpdate>, StoreError> {
    let mut query = MarketsOfSourceQuery {
        source: source.clone(),
        status,
        after: None,
        limit: 0,
    };
    let mut markets: Vec<OddsUpdate> = Vec::new();
    while markets.len() < most {
        query.limit = PAGE.min(most - markets.len());
        let page = store.unfinished_markets(&query)?;
        let Some(last) = page.last() else { break };
        query.after = Some((last.event_id.clone(), last.market.clone()));
        markets.extend(page);
    }
    Ok(markets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::odds::update::PositionedUpdate;
    use crate::domain::odds::update::testing::update;
    use crate::store::sqlite::SqliteStore;

    /// Suspended markets of earlier events do not keep open ones of later events from being read.
    #[test]
    fn open_markets_are_read_first() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("test.db");
        let store = SqliteStore::open(&path.to_string_lossy()).unwrap();
        store.migrate().unwrap();
        let statuses = [
            MarketStatus::Suspended,
            MarketStatus::Suspended,
            MarketStatus::Suspended,
            MarketStatus::Open,
        ];
        let rows: Vec<_> = (1..)
            .zip(statuses)
            .map(|(event, status)| PositionedUpdate {
                trace: None,
                update: OddsUpdate {
                    status,
                    ..update(event, 1, 1)
                },
                partition: 0,
                position: event as u64,
            })
            .collect();
        store.write_updates(&rows).unwrap();
        let source = update(1, 1, 1).source;
        let read = |most| {
            let stored = StoredMarkets::read(&store, &source, most).unwrap();
            let events = stored
                .markets
                .iter()
                .map(|market| market.event_id.to_string());
            (events.collect::<Vec<_>>().join(" "), stored.truncated)
        };
        let suspended = vec![MarketStatus::Suspended];
        assert_eq!(
            read(2),
            ("MATCH_004 MATCH_001 MATCH_002".to_owned(), suspended)
        );
        let all = "MATCH_004 MATCH_001 MATCH_002 MATCH_003";
        assert_eq!(read(4), (all.to_owned(), Vec::new()));
    }
}
