//! Holds. The function `bets_held` in `migrations/postgres/*_holds` applies them to bets.

use diesel::pg::PgConnection;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

use super::PgStore;
use super::statement::statement;
use crate::domain::odds::hold::HoldScope;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::holds::{HoldOrder, HoldStep, HoldStore, Released, StoredHold};
use crate::store::rows::holds::{HoldRow, ScopeColumns};
use crate::store::rows::{pg_time, read_all, unsigned};

statement! {
    /// Sets a hold, unless this request has set it.
    Set<'a>:
    "INSERT INTO holds (request, scope, source, event_id, market, line, selection, until, reason, created_by,
        created_at)
    VALUES (" { request: Uuid as SqlUuid } ", " { scope: &'a str as Text } ", "
        { source: Option<&'a str> as Nullable<Text> } ", " { event_id: Option<&'a str> as Nullable<Text> } ", "
        { market: Option<&'a str> as Nullable<Text> } ", " { line: Option<&'a str> as Nullable<Text> } ", "
        { selection: Option<&'a str> as Nullable<Text> } ", " { until: Option<PgTimestamp> as Nullable<Timestamptz> } ", "
        { reason: &'a str as Text } ", " { by: &'a str as Text } ", " { at: PgTimestamp as Timestamptz } ")
    ON CONFLICT (request) DO NOTHING"
}

statement! {
    /// The number of the hold that a request has set.
    IdOf returns (BigInt):
    "SELECT id FROM holds WHERE request = " { request: Uuid as SqlUuid } ""
}

statement! {
    /// Releases a hold, unless it is released.
    Release<'a>:
    "UPDATE holds SET released_at = " { at: PgTimestamp as Timestamptz } ", released_by = " { by: &'a str as Text }
    ", release_reason = " { reason: &'a str as Text }
    " WHERE released_at IS NULL AND id = " { id: i64 as BigInt } ""
}

statement! {
    /// A hold.
    Find returns (BigInt, Text, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>,
        Nullable<Timestamptz>, Text, Text, Timestamptz, Nullable<Text>, Nullable<Text>, Nullable<Timestamptz>):
    "SELECT id, scope, source, event_id, market, line, selection, until, reason, created_by, created_at,
        release_reason, released_by, released_at
    FROM holds WHERE id = " { id: i64 as BigInt } ""
}

statement! {
    /// The holds in force.
    InForce returns (BigInt, Text, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>,
        Nullable<Timestamptz>, Text, Text, Timestamptz, Nullable<Text>, Nullable<Text>, Nullable<Timestamptz>):
    "SELECT id, scope, source, event_id, market, line, selection, until, reason, created_by, created_at,
        release_reason, released_by, released_at
    FROM holds WHERE released_at IS NULL AND (until IS NULL OR until > " { at: PgTimestamp as Timestamptz } ")
    ORDER BY id"
}

statement! {
    /// All holds.
    All returns (BigInt, Text, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>,
        Nullable<Timestamptz>, Text, Text, Timestamptz, Nullable<Text>, Nullable<Text>, Nullable<Timestamptz>):
    "SELECT id, scope, source, event_id, market, line, selection, until, reason, created_by, created_at,
        release_reason, released_by, released_at
    FROM holds ORDER BY id"
}

statement! {
    /// The open markets of a scope.
    OpenMarkets<'a> returns (BigInt):
    "SELECT count(*) FROM odds_current
    WHERE status = 'open'
        AND source = COALESCE(" { source: Option<&'a str> as Nullable<Text> } ", source)
        AND event_id = COALESCE(" { event_id: Option<&'a str> as Nullable<Text> } ", event_id)
        AND market = COALESCE(" { market: Option<&'a str> as Nullable<Text> } ", market)
        AND line = COALESCE(" { line: Option<&'a str> as Nullable<Text> } ", line)
        AND (" { any_selection: bool as Bool } " OR EXISTS (
            SELECT FROM jsonb_array_elements(selections) AS one
            WHERE one ->> 'id' = " { selection: &'a str as Text } "))"
}

impl HoldStore for PgStore {
    fn set_hold(&self, order: &HoldOrder) -> Result<i64, StoreError> {
        self.writers()?.transaction(|connection| {
            insert(connection, order)?;
            let request = order.request;
            let (id,) = IdOf { request }.get_result::<(i64,)>(connection)?;
            Ok(id)
        })
    }

    fn release_hold(&self, id: i64, step: &HoldStep) -> Result<Released, StoreError> {
        self.writers()?.transaction(|connection| {
            let release = Release {
                at: pg_time(step.at),
                by: &step.by,
                reason: &step.reason,
                id,
            };
            release.execute(connection)?;
            let row = Find { id }.get_result::<HoldRow>(connection).optional()?;
            Ok(Released::of(row.map(HoldRow::read).transpose()?, step))
        })
    }

    fn holds(&self, in_force_at: Option<Timestamp>) -> Result<Vec<StoredHold>, StoreError> {
        self.readers()?.run(|connection| {
            let rows = match in_force_at {
                Some(at) => InForce { at: pg_time(at) }.load(connection)?,
                None => All {}.load(connection)?,
            };
            read_all(rows, HoldRow::read)
        })
    }

    fn count_open_markets(&self, scope: &HoldScope) -> Result<u64, StoreError> {
        let scope = ScopeColumns::of(scope);
        let statement = OpenMarkets {
            source: scope.source,
            event_id: scope.event_id,
            market: scope.market,
            line: scope.line.as_deref(),
            any_selection: scope.selection.is_none(),
            selection: scope.selection.unwrap_or_default(),
        };
        self.readers()?.run(|connection| {
            let (open,) = statement.get_result::<(i64,)>(connection)?;
            Ok(unsigned("holds", open)?)
        })
    }
}

fn insert(connection: &mut PgConnection, order: &HoldOrder) -> Result<(), Failure> {
    let scope = ScopeColumns::of(&order.scope);
    let statement = Set {
        request: order.request,
        scope: scope.scope,
        source: scope.source,
        event_id: scope.event_id,
        market: scope.market,
        line: scope.line.as_deref(),
        selection: scope.selection,
        until: order.until.map(pg_time),
        reason: &order.step.reason,
        by: &order.step.by,
        at: pg_time(order.step.at),
    };
    statement.execute(connection)?;
    Ok(())
}
