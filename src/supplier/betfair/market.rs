//! One Betfair market as it is kept, and what our clients see of it.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::super::Refused;
use super::definition::{Definition, Runner, RunnerKey, UNSUPPORTED, read_handicap};
use super::ladder::RunnerPrices;
use super::wire::{MarketChange, RunnerChange};
use crate::domain::ids::{EventId, Source};
use crate::domain::json;
use crate::domain::status::{MarketStatus, SelectionStatus};
use crate::domain::timestamp::Timestamp;
use crate::domain::update::{MAX_SELECTIONS, OddsUpdate, Revision, Selection};

/// A market, from its first image on.
pub struct Market {
    id: EventId,
    definition: Option<Definition>,
    prices: BTreeMap<RunnerKey, RunnerPrices>,
    /// The last definition could not be read: it might have been a suspension.
    in_doubt: bool,
    /// Its prices are no odds.
    unsupported: bool,
    /// The last image of the subscription did not hold the market.
    absent: bool,
    /// What was last given out.
    shown: Option<OddsUpdate>,
}

impl Market {
    /// A market of which nothing is known yet.
    pub fn new(id: EventId) -> Market {
        Market {
            id,
            definition: None,
            prices: BTreeMap::new(),
            in_doubt: false,
            unsupported: false,
            absent: false,
            shown: None,
        }
    }

    /// Takes a change. `image`: it replaces what was known of the runners. What cannot be taken goes to `refused`.
    pub fn apply(&mut self, change: &MarketChange<'_>, image: bool, refused: &mut Vec<Refused>) {
        if image {
            self.prices.clear();
        }
        if image || change.market_definition.is_some() {
            self.absent = false;
        }
        if let Some(text) = change.market_definition {
            match Definition::read(&self.id, text) {
                Ok(mut definition) => {
                    // The key is what a client subscribed to: it stays for the market's life.
                    if let Some(known) = self.definition.take() {
                        definition.key = known.key;
                    }
                    self.definition = Some(definition);
                    self.in_doubt = false;
                }
                Err(fault) => {
                    // A market whose prices are no odds says so once, and is passed over from then on.
                    if !self.unsupported {
                        refused.push(self.refuse(fault.reason, &fault.detail));
                    }
                    self.in_doubt = true;
                    self.unsupported = fault.reason == UNSUPPORTED;
                }
            }
        }
        if self.unsupported {
            return;
        }
        for text in change.rc.iter().flatten() {
            if let Err(fault) = self.apply_runner(text, refused) {
                refused.push(fault);
            }
        }
    }

    /// The subscription does not hold the market any more.
    pub fn set_absent(&mut self) {
        self.absent = true;
    }

    /// Whether nothing more is to be expected: it has ended, or the subscription does not hold it.
    pub fn is_retired(&self) -> bool {
        self.absent || self.has_ended()
    }

    /// Whether Betfair has closed it.
    pub fn has_ended(&self) -> bool {
        let ended = |status| !matches!(status, MarketStatus::Open | MarketStatus::Suspended);
        self.definition.as_ref().is_some_and(|definition| ended(definition.status))
    }

    /// The update that shows the market as it is now, where clients see another one. `reliable`: the stream vouches for
    /// its data. The time never goes back, so that no update is older than one given out before.
    pub fn publish(&mut self, time: Option<Timestamp>, reliable: bool) -> Option<OddsUpdate> {
        let last = self.shown.as_ref().map(|shown| shown.revision);
        let updated_at = last.map(|last| last.updated_at).max(time)?;
        let version = last.map_or(1, |last| last.version.saturating_add(1));
        let update = self.view(Revision { updated_at, version }, reliable)?;
        if self.shown.as_ref().is_some_and(|shown| shown.shows_the_same_as(&update)) {
            return None;
        }
        self.shown = Some(update.clone());
        Some(update)
    }

    fn view(&self, revision: Revision, reliable: bool) -> Option<OddsUpdate> {
        let definition = self.definition.as_ref()?;
        let stale = !reliable || self.absent || self.in_doubt;
        let status = match definition.status {
            MarketStatus::Open if stale => MarketStatus::Suspended,
            status => status,
        };
        Some(OddsUpdate {
            event_id: self.id.clone(),
            home_team: definition.home_team.clone(),
            away_team: definition.away_team.clone(),
            market: definition.key.clone(),
            status,
            in_play: definition.in_play,
            selections: definition.runners.iter().map(|runner| self.selection(runner)).collect(),
            revision,
            source: Source::new("betfair").ok()?,
        })
    }

    fn selection(&self, runner: &Runner) -> Selection {
        let price = match runner.status {
            SelectionStatus::Removed => None,
            _ => self.prices.get(&runner.key).and_then(RunnerPrices::price),
        };
        Selection { id: runner.id.clone(), name: runner.name.clone(), price, status: runner.status }
    }

    fn apply_runner(&mut self, text: &RawValue, refused: &mut Vec<Refused>) -> Result<(), Refused> {
        let change: RunnerChange<'_> = json::from_str(text.get())
            .map_err(|error| self.refuse("bad_runner", &format_args!("change of a runner: {error}")))?;
        let handicap = read_handicap(change.hc).map_err(|fault| self.refuse(fault.reason, &fault.detail))?;
        let key: RunnerKey = (change.id, handicap);
        if !self.prices.contains_key(&key) && self.prices.len() >= MAX_SELECTIONS {
            return Err(self.refuse("too_many_runners", &format_args!("more than {MAX_SELECTIONS} runners")));
        }
        let first = refused.len();
        self.prices.entry(key).or_default().apply(&change, refused);
        for fault in refused.iter_mut().skip(first) {
            fault.detail = format!("market {}, runner {}: {}", self.id, change.id, fault.detail);
        }
        Ok(())
    }

    fn refuse(&self, reason: &'static str, detail: &dyn std::fmt::Display) -> Refused {
        Refused { reason, detail: format!("market {}: {detail}", self.id) }
    }
}
