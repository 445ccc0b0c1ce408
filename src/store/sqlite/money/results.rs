//! The records of results.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use crate::domain::ids::{EventId, EventMarket, MarketKey};
use crate::domain::settlement::market_results::Inserted;
use crate::domain::settlement::record::ResultRecord;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::{ResultStore, StoredRecord, StoredResults, in_market_order};
use crate::store::rows::settlements::{RecordRow, content_hash, market_results};
use crate::store::rows::{line_text, read_all, row_limit};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::schema::{market_results as records, market_settlements};

impl ResultStore for SqliteStore {
    fn store_results(
        &self,
        results: &[ResultRecord],
        at: Timestamp,
    ) -> Result<Vec<Inserted>, StoreError> {
        self.connections
            .write(|connection| in_market_order(results, |record| store(connection, record, at)))
    }

    fn market_results(&self, market: &EventMarket) -> Result<StoredResults, StoreError> {
        let line = line_text(market.market.line);
        self.read(|connection| {
            let rows = market_settlements::table
                .left_join(
                    records::table.on(records::event_id
                        .eq(market_settlements::event_id)
                        .and(records::market.eq(market_settlements::market))
                        .and(records::line.eq(market_settlements::line))),
                )
                .filter(market_settlements::event_id.eq(market.event_id.as_str()))
                .filter(market_settlements::market.eq(market.market.name.as_str()))
                .filter(market_settlements::line.eq(&line))
                .select((market_settlements::generation, records::record.nullable()))
                .load(connection)?;
            Ok(market_results(rows)?)
        })
    }

    fn event_results(
        &self,
        event_id: &EventId,
        limit: usize,
    ) -> Result<Vec<StoredRecord>, StoreError> {
        self.read(|connection| {
            let rows = records::table
                .filter(records::event_id.eq(event_id.as_str()))
                .order((records::received_at.desc(), records::generation.desc()))
                .limit(row_limit(limit))
                .select((records::record, records::received_at))
                .load(connection)?;
            let mut latest: Vec<StoredRecord> = read_all::<_, _, Failure>(rows, RecordRow::read)?;
            // Stable: the records of a market stay in their order.
            latest.reverse();
            latest.sort_by_cached_key(|stored| {
                let MarketKey { name, line } = &stored.record.market;
                (name.clone(), line_text(*line))
            });
            Ok(latest)
        })
    }
}

/// Stores a record; the counterpart of `result_store` in PostgreSQL.
fn store(
    connection: &mut SqliteConnection,
    record: &ResultRecord,
    at: Timestamp,
) -> Result<Inserted, Failure> {
    let json = record.to_json();
    let hash = content_hash(&json);
    let line = line_text(record.market.line);
    let kind: &str = record.content.kind().into();
    let known: Vec<Vec<u8>> = records::table
        .filter(records::event_id.eq(record.event_id.as_str()))
        .filter(records::market.eq(record.market.name.as_str()))
        .filter(records::line.eq(&line))
        .filter(records::source.eq(record.source.as_str()))
        .filter(records::kind.eq(kind))
        .filter(records::updated_at.eq(record.revision.updated_at.micros()))
        .filter(records::version.eq(record.revision.version))
        .select(records::content_hash)
        .load(connection)?;
    if known.contains(&hash) {
        return Ok(Inserted::Known);
    }
    let generation = next_generation(connection, record, !known.is_empty(), at)?;
    diesel::insert_into(records::table)
        .values((
            records::event_id.eq(record.event_id.as_str()),
            records::market.eq(record.market.name.as_str()),
            records::line.eq(&line),
            records::source.eq(record.source.as_str()),
            records::kind.eq(kind),
            records::updated_at.eq(record.revision.updated_at.micros()),
            records::version.eq(record.revision.version),
            records::content_hash.eq(&hash),
            records::record.eq(&json),
            records::generation.eq(generation),
            records::received_at.eq(at.micros()),
        ))
        .execute(connection)?;
    Ok(if known.is_empty() {
        Inserted::New
    } else {
        Inserted::Conflict
    })
}

/// Makes the market due by a new generation, and returns it.
fn next_generation(
    connection: &mut SqliteConnection,
    record: &ResultRecord,
    is_conflict: bool,
    at: Timestamp,
) -> Result<i64, Failure> {
    use market_settlements as markets;
    let key = (
        record.event_id.as_str(),
        record.market.name.as_str(),
        line_text(record.market.line),
    );
    let stored: Option<(i64, i64, i64)> = markets::table
        .find(key.clone())
        .select((
            markets::generation,
            markets::settled_generation,
            markets::due_since,
        ))
        .first(connection)
        .optional()?;
    let (generation, settled, due_since) = stored.unwrap_or((0, 0, at.micros()));
    if stored.is_none() {
        diesel::insert_into(markets::table)
            .values((
                markets::event_id.eq(key.0),
                markets::market.eq(key.1),
                markets::line.eq(&key.2),
                markets::generation.eq(generation),
                markets::due_since.eq(due_since),
                markets::next_attempt_at.eq(at.micros()),
            ))
            .execute(connection)?;
    }
    let since = if settled < generation {
        due_since
    } else {
        at.micros()
    };
    diesel::update(markets::table.find(key))
        .set((
            markets::generation.eq(generation + 1),
            markets::conflicts.eq(markets::conflicts + i64::from(is_conflict)),
            markets::due_since.eq(since),
            markets::next_attempt_at.eq(at.micros()),
            markets::lease.eq(None::<String>),
        ))
        .execute(connection)?;
    Ok(generation + 1)
}
