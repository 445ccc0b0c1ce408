//! Rows of holds.

use diesel::{Queryable, Selectable};

use super::{Time, line, line_text, parsed, unreadable};
use crate::domain::ids::MarketKey;
use crate::domain::odds::hold::{Hold, HoldScope};
use crate::store::StoreError;
use crate::store::holds::{HoldStep, StoredHold};
use crate::store::sqlite::schema::holds;

/// The columns of a scope.
pub(in crate::store) struct ScopeColumns<'a> {
    pub(in crate::store) scope: &'static str,
    pub(in crate::store) source: Option<&'a str>,
    pub(in crate::store) event_id: Option<&'a str>,
    pub(in crate::store) market: Option<&'a str>,
    pub(in crate::store) line: Option<String>,
    pub(in crate::store) selection: Option<&'a str>,
}

impl<'a> ScopeColumns<'a> {
    pub(in crate::store) fn of(scope: &'a HoldScope) -> ScopeColumns<'a> {
        let (source, event, market, selection) = match scope {
            HoldScope::All => (None, None, None, None),
            HoldScope::Source(source) => (Some(source), None, None, None),
            HoldScope::Event(event) => (None, Some(event), None, None),
            HoldScope::Market(event, market) => (None, Some(event), Some(market), None),
            HoldScope::Selection(event, market, selection) => {
                (None, Some(event), Some(market), Some(selection))
            }
        };
        ScopeColumns {
            scope: scope.kind(),
            source: source.map(|source| source.as_str()),
            event_id: event.map(|event| event.as_str()),
            market: market.map(|market| market.name.as_str()),
            line: market.map(|market| line_text(market.line)),
            selection: selection.map(|selection| selection.as_str()),
        }
    }
}

/// A hold.
#[derive(Queryable, Selectable)]
#[diesel(table_name = holds)]
pub(in crate::store) struct HoldRow {
    id: i64,
    scope: String,
    source: Option<String>,
    event_id: Option<String>,
    market: Option<String>,
    line: Option<String>,
    selection: Option<String>,
    until: Option<Time>,
    reason: String,
    created_by: String,
    created_at: Time,
    release_reason: Option<String>,
    released_by: Option<String>,
    released_at: Option<Time>,
}

impl HoldRow {
    pub(in crate::store) fn read(self) -> Result<StoredHold, StoreError> {
        let scope = self.scope()?;
        let hold = Hold {
            id: self.id,
            scope,
            until: self.until.map(|time| time.0),
        };
        let set = HoldStep {
            at: self.created_at.0,
            by: self.created_by,
            reason: self.reason,
        };
        let released = match (self.released_at, self.released_by, self.release_reason) {
            (Some(at), Some(by), Some(reason)) => Some(HoldStep {
                at: at.0,
                by,
                reason,
            }),
            _ => None,
        };
        Ok(StoredHold {
            hold,
            set,
            released,
        })
    }

    fn scope(&self) -> Result<HoldScope, StoreError> {
        let bad = || unreadable("hold", self.id);
        let event = || parsed("event_id", self.event_id.as_deref().ok_or_else(bad)?);
        let market = || {
            Ok(MarketKey {
                name: parsed("market", self.market.as_deref().ok_or_else(bad)?)?,
                line: line(self.line.as_deref().ok_or_else(bad)?).map_err(|_| bad())?,
            })
        };
        Ok(match self.scope.as_str() {
            "all" => HoldScope::All,
            "source" => {
                HoldScope::Source(parsed("source", self.source.as_deref().ok_or_else(bad)?)?)
            }
            "event" => HoldScope::Event(event()?),
            "market" => HoldScope::Market(event()?, market()?),
            "selection" => {
                let selection = self.selection.as_deref().ok_or_else(bad)?;
                HoldScope::Selection(event()?, market()?, parsed("selection", selection)?)
            }
            other => return Err(unreadable("scope", other)),
        })
    }
}
