//! The records of results.

use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bytea, Nullable, Text, Timestamptz};

use crate::domain::ids::{EventId, EventMarket};
use crate::domain::settlement::market_results::Inserted;
use crate::domain::settlement::record::ResultRecord;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::{ResultStore, StoredRecord, StoredResults, in_market_order};
use crate::store::postgres::PgStore;
use crate::store::postgres::statement::statement;
use crate::store::rows::settlements::{RecordRow, content_hash, market_results};
use crate::store::rows::{line_text, pg_time, read_all, row_limit, unreadable};

statement! {
    /// Stores a record.
    StoreResult<'a> returns (Text):
    "SELECT result_store(" { event: &'a str as Text } ", " { market: &'a str as Text } ", " { line: &'a str as Text } ", "
        { source: &'a str as Text } ", " { kind: &'a str as Text } ", " { updated_at: PgTimestamp as Timestamptz } ", "
        { version: i64 as BigInt } ", " { hash: &'a [u8] as Bytea } ", " { record: &'a str as Text } ", "
        { now: PgTimestamp as Timestamptz } ")"
}

statement! {
    /// The records of a market, with its generation.
    MarketRecords<'a> returns (BigInt, Nullable<Text>):
    "SELECT settlement.generation, result.record
    FROM market_settlements AS settlement
    LEFT JOIN market_results AS result ON result.event_id = settlement.event_id AND result.market = settlement.market
        AND result.line = settlement.line
    WHERE settlement.event_id = " { event: &'a str as Text } " AND settlement.market = " { market: &'a str as Text }
    " AND settlement.line = " { line: &'a str as Text } ""
}

statement! {
    /// The records of an event.
    EventRecords<'a> returns (Text, Timestamptz):
    "SELECT record, received_at FROM (
        SELECT * FROM market_results WHERE event_id = " { event: &'a str as Text }
    " ORDER BY received_at DESC, generation DESC LIMIT " { limit: i64 as BigInt } "
    ) AS latest ORDER BY market, line, generation"
}

impl ResultStore for PgStore {
    fn store_results(
        &self,
        records: &[ResultRecord],
        at: Timestamp,
    ) -> Result<Vec<Inserted>, StoreError> {
        self.money()?.transaction(|connection| {
            // Each record locks its market. All transactions lock markets in the same order.
            in_market_order(records, |record| store(connection, record, at))
        })
    }

    fn market_results(&self, market: &EventMarket) -> Result<StoredResults, StoreError> {
        let statement = MarketRecords {
            event: market.event_id.as_str(),
            market: market.market.name.as_str(),
            line: &line_text(market.market.line),
        };
        self.money()?
            .run(|connection| Ok(market_results(statement.load(connection)?)?))
    }

    fn event_results(
        &self,
        event_id: &EventId,
        limit: usize,
    ) -> Result<Vec<StoredRecord>, StoreError> {
        let statement = EventRecords {
            event: event_id.as_str(),
            limit: row_limit(limit),
        };
        self.readers()?
            .run(|connection| read_all(statement.load(connection)?, RecordRow::read))
    }
}

fn store(
    connection: &mut PgConnection,
    record: &ResultRecord,
    at: Timestamp,
) -> Result<Inserted, Failure> {
    let json = record.to_json();
    let statement = StoreResult {
        event: record.event_id.as_str(),
        market: record.market.name.as_str(),
        line: &line_text(record.market.line),
        source: record.source.as_str(),
        kind: record.content.kind().into(),
        updated_at: pg_time(record.revision.updated_at),
        version: record.revision.version,
        hash: &content_hash(&json),
        record: &json,
        now: pg_time(at),
    };
    let (outcome,) = statement.get_result::<(String,)>(connection)?;
    match outcome.as_str() {
        "NEW" => Ok(Inserted::New),
        "KNOWN" => Ok(Inserted::Known),
        "CONFLICT" => Ok(Inserted::Conflict),
        other => Err(unreadable("outcome", other).into()),
    }
}
