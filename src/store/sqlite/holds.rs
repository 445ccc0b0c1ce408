//! Holds. The rules are in [`crate::domain::bets::held`].

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use diesel::sqlite::SqliteConnection;

use super::SqliteStore;
use super::schema::{holds, odds_current};
use crate::domain::odds::hold::{Hold, HoldScope};
use crate::domain::odds::status::MarketStatus;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::holds::{HoldOrder, HoldStep, HoldStore, Released, StoredHold};
use crate::store::rows::holds::{HoldRow, ScopeColumns};
use crate::store::rows::{read_all, unsigned};

impl HoldStore for SqliteStore {
    fn set_hold(&self, order: &HoldOrder) -> Result<i64, StoreError> {
        self.connections.write(|connection| set(connection, order))
    }

    fn release_hold(&self, id: i64, step: &HoldStep) -> Result<Released, StoreError> {
        self.connections.write(|connection| {
            diesel::update(holds::table.find(id))
                .filter(holds::released_at.is_null())
                .set((
                    holds::released_at.eq(step.at.micros()),
                    holds::released_by.eq(&step.by),
                    holds::release_reason.eq(&step.reason),
                ))
                .execute(connection)?;
            let row = holds::table
                .find(id)
                .select(HoldRow::as_select())
                .first(connection)
                .optional()?;
            Ok(Released::of(row.map(HoldRow::read).transpose()?, step))
        })
    }

    fn holds(&self, in_force_at: Option<Timestamp>) -> Result<Vec<StoredHold>, StoreError> {
        self.read(|connection| match in_force_at {
            Some(at) => stored_in_force(connection, at),
            None => {
                let rows = holds::table.order(holds::id).select(HoldRow::as_select());
                read_all(rows.load(connection)?, HoldRow::read)
            }
        })
    }

    fn count_open_markets(&self, scope: &HoldScope) -> Result<u64, StoreError> {
        self.read(|connection| open_markets(connection, scope))
    }
}

/// The holds in force at a time.
pub(super) fn in_force(
    connection: &mut SqliteConnection,
    at: Timestamp,
) -> Result<Vec<Hold>, Failure> {
    let stored = stored_in_force(connection, at)?;
    Ok(stored.into_iter().map(|stored| stored.hold).collect())
}

fn stored_in_force(
    connection: &mut SqliteConnection,
    at: Timestamp,
) -> Result<Vec<StoredHold>, Failure> {
    let has_not_ended = holds::until.is_null().or(holds::until.gt(at.micros()));
    let rows = holds::table
        .filter(holds::released_at.is_null())
        .filter(has_not_ended)
        .order(holds::id)
        .select(HoldRow::as_select());
    read_all(rows.load(connection)?, HoldRow::read)
}

fn set(connection: &mut SqliteConnection, order: &HoldOrder) -> Result<i64, Failure> {
    let request = order.request.to_string();
    let scope = ScopeColumns::of(&order.scope);
    diesel::insert_into(holds::table)
        .values((
            holds::request.eq(&request),
            holds::scope.eq(scope.scope),
            holds::source.eq(scope.source),
            holds::event_id.eq(scope.event_id),
            holds::market.eq(scope.market),
            holds::line.eq(scope.line),
            holds::selection.eq(scope.selection),
            holds::until.eq(order.until.map(Timestamp::micros)),
            holds::reason.eq(&order.step.reason),
            holds::created_by.eq(&order.step.by),
            holds::created_at.eq(order.step.at.micros()),
        ))
        .on_conflict(holds::request)
        .do_nothing()
        .execute(connection)?;
    Ok(holds::table
        .filter(holds::request.eq(&request))
        .select(holds::id)
        .first(connection)?)
}

fn open_markets(connection: &mut SqliteConnection, scope: &HoldScope) -> Result<u64, Failure> {
    let scope = ScopeColumns::of(scope);
    let mut markets = odds_current::table
        .filter(odds_current::status.eq(<&str>::from(MarketStatus::Open)))
        .count()
        .into_boxed();
    if let Some(source) = scope.source {
        markets = markets.filter(odds_current::source.eq(source));
    }
    if let Some(event_id) = scope.event_id {
        markets = markets.filter(odds_current::event_id.eq(event_id));
    }
    if let Some(market) = scope.market {
        markets = markets.filter(odds_current::market.eq(market));
    }
    if let Some(line) = scope.line {
        markets = markets.filter(odds_current::line.eq(line));
    }
    if let Some(selection) = scope.selection {
        let has = "EXISTS (SELECT 1 FROM json_each(selections) AS one WHERE one.value ->> 'id' = ";
        markets = markets.filter(sql::<Bool>(has).bind::<Text, _>(selection).sql(")"));
    }
    Ok(unsigned("holds", markets.get_result(connection)?)?)
}
