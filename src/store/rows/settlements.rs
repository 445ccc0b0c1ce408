//! Rows of results and settlements.

use diesel::Queryable;
use ring::digest::{SHA256, digest};
use uuid::Uuid;

use super::{Id, Time, amount, line, parsed, price, unreadable, unsigned};
use crate::domain::bets::bet::{BetId, BetStatus};
use crate::domain::ids::{EventMarket, MarketKey};
use crate::domain::settlement::market_results::MarketResults;
use crate::domain::settlement::postings::BetPosition;
use crate::domain::settlement::record::ResultRecord;
use crate::store::StoreError;
use crate::store::money::{
    DueBet, MarketLease, OpenPosition, OutcomeTotal, SettlementBacklog, StoredRecord,
    StoredResults, TransferTotal,
};

/// The hash of a record, which tells different contents of one revision apart.
pub(in crate::store) fn content_hash(json: &str) -> Vec<u8> {
    digest(&SHA256, json.as_bytes()).as_ref().to_vec()
}

fn record(json: &str) -> Result<ResultRecord, StoreError> {
    ResultRecord::from_json(json.as_bytes()).map_err(|error| unreadable("record", error))
}

/// A market.
pub(in crate::store) fn market(
    event_id: &str,
    market: &str,
    line_text: &str,
) -> Result<EventMarket, StoreError> {
    Ok(EventMarket {
        event_id: parsed("event_id", event_id)?,
        market: MarketKey {
            name: parsed("market", market)?,
            line: line(line_text).map_err(|_| unreadable("line", line_text))?,
        },
    })
}

/// The generation of a market with one of its records.
#[derive(Queryable)]
pub(in crate::store) struct MarketRecordRow {
    generation: i64,
    record: Option<String>,
}

/// Reads the records of one market.
pub(in crate::store) fn market_results(
    rows: Vec<MarketRecordRow>,
) -> Result<StoredResults, StoreError> {
    let mut generation = 0;
    let mut results = MarketResults::default();
    for row in rows {
        generation = unsigned("generation", row.generation)?;
        if let Some(json) = row.record {
            results.insert(record(&json)?);
        }
    }
    Ok(StoredResults {
        generation,
        results,
    })
}

/// A record of an event.
#[derive(Queryable)]
pub(in crate::store) struct RecordRow {
    record: String,
    received_at: Time,
}

impl RecordRow {
    pub(in crate::store) fn read(self) -> Result<StoredRecord, StoreError> {
        Ok(StoredRecord {
            record: record(&self.record)?,
            received_at: self.received_at.0,
        })
    }
}

/// A market that was leased.
#[derive(Queryable)]
pub(in crate::store) struct LeasedRow {
    event_id: String,
    market: String,
    line: String,
    generation: i64,
    due_since: Time,
}

impl LeasedRow {
    pub(in crate::store) fn read(self, id: Uuid) -> Result<MarketLease, StoreError> {
        Ok(MarketLease {
            market: market(&self.event_id, &self.market, &self.line)?,
            generation: unsigned("generation", self.generation)?,
            due_since: self.due_since.0,
            id,
        })
    }
}

/// A due bet.
#[derive(Queryable)]
pub(in crate::store) struct DueBetRow {
    id: Id,
    user_id: String,
    selection: String,
    stake_cents: i64,
    price_thousandths: i32,
    placed_at: Time,
    status: String,
    payout_cents: Option<i64>,
    outcome: Option<String>,
    settlements: i32,
    settled_by: i64,
}

impl DueBetRow {
    pub(in crate::store) fn read(self) -> Result<DueBet, StoreError> {
        let status: BetStatus = parsed("status", &self.status)?;
        let position = match (status, self.payout_cents) {
            (BetStatus::Settled, Some(paid)) => BetPosition::Settled { paid },
            (BetStatus::Confirmed, None) => BetPosition::Open,
            (_, Some(payout)) => return Err(unreadable("payout_cents", payout)),
            (_, None) => return Err(unreadable("status", status)),
        };
        let outcome = self.outcome.as_deref();
        Ok(DueBet {
            id: BetId(self.id.0),
            user_id: parsed("user_id", &self.user_id)?,
            selection: parsed("selection", &self.selection)?,
            stake: amount("stake_cents", self.stake_cents)?,
            price: price(self.price_thousandths)?,
            placed_at: self.placed_at.0,
            position,
            outcome: outcome.map(|text| parsed("outcome", text)).transpose()?,
            settlements: u32::try_from(self.settlements)
                .map_err(|_| unreadable("settlements", self.settlements))?,
            settled_by: unsigned("settled_by", self.settled_by)?,
        })
    }
}

/// What is waiting.
#[derive(Queryable)]
pub(in crate::store) struct BacklogRow {
    due_markets: i64,
    due_since: Option<Time>,
    held_markets: i64,
    held_bets: i64,
    conflicts: i64,
    missing_bets: i64,
    owed_cents: i64,
}

impl BacklogRow {
    pub(in crate::store) fn read(self) -> Result<SettlementBacklog, StoreError> {
        Ok(SettlementBacklog {
            due_markets: unsigned("due_markets", self.due_markets)?,
            due_since: self.due_since.map(|time| time.0),
            held_markets: unsigned("held_markets", self.held_markets)?,
            held_bets: unsigned("held_bets", self.held_bets)?,
            conflicts: unsigned("conflicts", self.conflicts)?,
            missing_bets: unsigned("missing_bets", self.missing_bets)?,
            owed_cents: unsigned("owed_cents", self.owed_cents)?,
        })
    }
}

/// The open bets on a selection.
#[derive(Queryable)]
pub(in crate::store) struct PositionRow {
    event_id: String,
    market: String,
    line: String,
    selection: String,
    bets: i64,
    stake_cents: i64,
    payout_cents: i64,
}

impl PositionRow {
    pub(in crate::store) fn read(self) -> Result<OpenPosition, StoreError> {
        Ok(OpenPosition {
            market: market(&self.event_id, &self.market, &self.line)?,
            selection: parsed("selection", &self.selection)?,
            bets: unsigned("bets", self.bets)?,
            stake_cents: self.stake_cents,
            payout_cents: self.payout_cents,
        })
    }
}

/// A sum of cents, as billions and a rest: the sum may exceed 64 bits.
pub(in crate::store) fn cents(billions: i64, rest: i64) -> i128 {
    i128::from(billions) * 1_000_000_000 + i128::from(rest)
}

/// The settlements with one outcome.
#[derive(Queryable)]
pub(in crate::store) struct OutcomeTotalRow {
    outcome: Option<String>,
    settlements: i64,
    billions: i64,
    rest: i64,
}

impl OutcomeTotalRow {
    pub(in crate::store) fn read(self) -> Result<OutcomeTotal, StoreError> {
        let outcome = self.outcome.as_deref();
        Ok(OutcomeTotal {
            outcome: outcome.map(|text| parsed("outcome", text)).transpose()?,
            settlements: unsigned("count", self.settlements)?,
            difference_cents: cents(self.billions, self.rest),
        })
    }
}

/// The transfers of one kind.
#[derive(Queryable)]
pub(in crate::store) struct TransferTotalRow {
    kind: String,
    transfers: i64,
    billions: i64,
    rest: i64,
}

impl TransferTotalRow {
    pub(in crate::store) fn read(self) -> Result<TransferTotal, StoreError> {
        Ok(TransferTotal {
            kind: parsed("kind", &self.kind)?,
            transfers: unsigned("count", self.transfers)?,
            cents: cents(self.billions, self.rest),
        })
    }
}
