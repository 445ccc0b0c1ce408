//! The native format: one JSON update per frame, text or binary.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Decoded, Decoder, FrameFault, Refused, future_time_detail};
use crate::domain::ids::{EventId, MarketKey, MarketName};
use crate::domain::odds::price::Line;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::{OddsUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// The maximum number of open markets tracked for suspension when the supplier is gone. Markets
/// beyond this limit stay unchanged.
const MAX_TRACKED: usize = 100_000;

/// Decodes the native format. It tracks the open markets so that it can suspend them.
#[derive(Debug, Default)]
pub struct NativeDecoder {
    open: HashMap<EventId, HashMap<MarketKey, OpenMarket>>,
    /// The number of markets in `open`.
    tracked: usize,
    latest: Option<Timestamp>,
    /// Rejected updates without a readable event: each may concern any market.
    unnamed: u64,
}

/// A market that the supplier last reported as open.
#[derive(Debug)]
struct OpenMarket {
    /// The supplier's last revision of the market.
    supplier_revision: Revision,
    /// The last published update, with our own revision if we had to create one.
    shown: OddsUpdate,
    /// A later update was rejected, so repeating the earlier one does not open the market again.
    in_doubt: bool,
    /// [`NativeDecoder::unnamed`] at the time of this update.
    unnamed_before: u64,
}

/// The market named by an update that cannot be decoded completely. An unreadable part matches any
/// value.
struct Named {
    event: EventId,
    market: Option<MarketName>,
    line: Option<Option<Line>>,
}

#[derive(Deserialize)]
struct WireNames<'a> {
    event_id: EventId,
    #[serde(default, borrow)]
    market: Option<&'a RawValue>,
    #[serde(default, borrow)]
    line: Option<&'a RawValue>,
}

impl Named {
    fn read(frame: &[u8]) -> Option<Named> {
        let wire: WireNames<'_> = serde_json::from_slice(frame).ok()?;
        Some(Named {
            event: wire.event_id,
            market: wire
                .market
                .and_then(|text| serde_json::from_str(text.get()).ok()),
            line: wire.line.map_or(Some(None), |text| {
                serde_json::from_str(text.get()).ok().map(Some)
            }),
        })
    }

    fn matches(&self, key: &MarketKey) -> bool {
        let Some(market) = &self.market else {
            return true;
        };
        *market == key.name && self.line.is_none_or(|line| line == key.line)
    }
}

/// The revision one microsecond after another one, so that later changes of the supplier do not
/// come before it.
fn next_revision(revision: Revision) -> Revision {
    let updated_at =
        Timestamp::from_micros(revision.updated_at.micros() + 1).unwrap_or(revision.updated_at);
    Revision {
        updated_at,
        ..revision
    }
}

impl OpenMarket {
    fn suspend(&mut self) -> Option<OddsUpdate> {
        if self.shown.status != MarketStatus::Open {
            return None;
        }
        self.shown.status = MarketStatus::Suspended;
        self.shown.revision = next_revision(self.shown.revision);
        Some(self.shown.clone())
    }
}

impl NativeDecoder {
    /// Tracks an update. An update sent after we suspended its market opens the market, even if it
    /// repeats the last one. It then needs a revision after the suspension's, or it would count as
    /// old.
    fn track(&mut self, mut update: OddsUpdate) -> OddsUpdate {
        let supplier_revision = update.revision;
        let known = self
            .open
            .get_mut(&update.event_id)
            .and_then(|markets| markets.get_mut(&update.market));
        let is_known = known.is_some();
        if let Some(market) = known {
            let opens_again = market.shown.status == MarketStatus::Suspended && !market.in_doubt;
            if supplier_revision < market.supplier_revision
                || (supplier_revision == market.supplier_revision && !opens_again)
            {
                return update;
            }
            if supplier_revision <= market.shown.revision {
                update.revision = next_revision(market.shown.revision);
            }
        }
        if update.status == MarketStatus::Open {
            if is_known || self.tracked < MAX_TRACKED {
                self.tracked += usize::from(!is_known);
                let unnamed_before = self.unnamed;
                let market = OpenMarket {
                    supplier_revision,
                    shown: update.clone(),
                    in_doubt: false,
                    unnamed_before,
                };
                self.open
                    .entry(update.event_id.clone())
                    .or_default()
                    .insert(update.market.clone(), market);
            }
        } else if is_known {
            self.forget(&update);
        }
        update
    }

    fn forget(&mut self, update: &OddsUpdate) {
        let Some(markets) = self.open.get_mut(&update.event_id) else {
            return;
        };
        self.tracked -= usize::from(markets.remove(&update.market).is_some());
        if markets.is_empty() {
            self.open.remove(&update.event_id);
        }
    }

    /// Suspends the open markets that a rejected update may concern: it may have been a suspension.
    fn suspend_named(&mut self, reason: &'static str, frame: &[u8]) -> Vec<OddsUpdate> {
        let Some(named) = Named::read(frame) else {
            // A message of another type does not update any market.
            self.unnamed += u64::from(reason != "unknown_type");
            return Vec::new();
        };
        let markets = self.open.get_mut(&named.event).into_iter().flatten();
        let suspend = |(key, market): (&MarketKey, &mut OpenMarket)| {
            if !named.matches(key) {
                return None;
            }
            market.in_doubt = true;
            market.suspend()
        };
        markets.filter_map(suspend).collect()
    }

    fn refuse(&mut self, reason: &'static str, detail: String, frame: &[u8]) -> Decoded {
        Decoded {
            updates: self.suspend_named(reason, frame),
            send: Vec::new(),
            refused: vec![Refused { reason, detail }],
        }
    }
}

impl Decoder for NativeDecoder {
    fn on_connected(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn on_frame(&mut self, frame: &[u8]) -> Result<Decoded, FrameFault> {
        let update = match OddsUpdate::from_json(frame) {
            Ok(update) => update,
            Err(error) => return Ok(self.refuse(error.reason(), error.to_string(), frame)),
        };
        match future_time_detail(update.revision.updated_at, self.latest) {
            Some(detail) => Ok(self.refuse("future", detail, frame)),
            None => Ok(Decoded {
                updates: vec![self.track(update)],
                ..Decoded::default()
            }),
        }
    }

    fn refuse_after(&mut self, latest: Timestamp) {
        self.latest = Some(latest);
    }

    fn on_stale(&mut self) -> Vec<OddsUpdate> {
        self.open
            .values_mut()
            .flat_map(HashMap::values_mut)
            .filter_map(OpenMarket::suspend)
            .collect()
    }

    fn unnamed_refusals(&self) -> u64 {
        self.unnamed
    }

    fn suspend_unconfirmed(&mut self, refusals: u64) -> Vec<OddsUpdate> {
        let markets = self.open.values_mut().flat_map(HashMap::values_mut);
        let unconfirmed = markets.filter(|market| market.unnamed_before < refusals);
        let suspend = |market: &mut OpenMarket| {
            market.in_doubt = true;
            market.suspend()
        };
        unconfirmed.filter_map(suspend).collect()
    }

    // The supplier does not resend everything. The suspensions may be unpublished too, so all are
    // sent.
    fn on_unpublished(&mut self) -> Vec<OddsUpdate> {
        let _ = self.on_stale();
        self.open
            .values()
            .flat_map(HashMap::values)
            .map(|market| market.shown.clone())
            .collect()
    }

    // Each frame is a full market, so a missed frame does not affect later ones.
    fn on_lost(&mut self, _: bool) -> Vec<OddsUpdate> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
