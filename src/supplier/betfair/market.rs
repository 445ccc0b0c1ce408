//! The state of one Betfair market, and the view of it that clients see.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::definition::{Definition, Runner, RunnerKey, UNSUPPORTED, read_handicap, read_version};
use super::ladder::RunnerPrices;
use super::results::{MarketResults, NewResults};
use super::wire::{MarketChange, RunnerChange};
use crate::domain::ids::EventId;
use crate::domain::json;
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::odds::update::{MAX_SELECTIONS, OddsUpdate, Revision, Selection};
use crate::domain::timestamp::Timestamp;
use crate::supplier::Refused;

/// A market since its first image.
pub(crate) struct Market {
    id: EventId,
    definition: Option<Definition>,
    prices: BTreeMap<RunnerKey, RunnerPrices>,
    /// The version of the held definition, and the highest version seen.
    version: Option<i64>,
    highest: Option<i64>,
    doubt: Doubt,
    /// Its prices are not odds.
    unsupported: bool,
    /// The last image of the subscription did not contain the market.
    absent: bool,
    /// The last published update.
    shown: Option<OddsUpdate>,
    /// The published results.
    results: MarketResults,
    /// The definition may contain results that are not published.
    has_new_definition: bool,
}

/// Why a market is suspended even if its definition says open.
#[derive(Default)]
struct Doubt {
    /// The last definition was unreadable and may have been a suspension. Cleared by a readable
    /// definition.
    definition: bool,
    /// A change was unreadable, so the prices may be old. Only an image clears it, because the
    /// stream sends differences.
    prices: bool,
}

/// What a change replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The first entry for the market in an image of the subscription: replaces everything,
    /// including the version.
    Subscription,
    /// A further entry for the market in an image of the subscription: replaces an entry with a
    /// lower version.
    Further,
    /// An image of this market: replaces the prices.
    Market,
    /// Replaces only the fields it contains.
    Difference,
}

impl Market {
    /// Creates a market without any state.
    pub(crate) fn new(id: EventId) -> Market {
        Market {
            id,
            definition: None,
            prices: BTreeMap::new(),
            version: None,
            highest: None,
            doubt: Doubt::default(),
            unsupported: false,
            absent: false,
            shown: None,
            results: MarketResults::default(),
            has_new_definition: false,
        }
    }

    /// Applies a change. Unreadable parts are added to `refused` and suspend the market.
    ///
    /// A definition with a lower version than the held one is old, and so are its prices. The
    /// stream sends one after a market moved to another event: the image contains both copies, and
    /// only the newer one changes later.
    pub(crate) fn apply(
        &mut self,
        change: &MarketChange<'_>,
        scope: Scope,
        refused: &mut Vec<Refused>,
    ) {
        let definition = change
            .market_definition
            .map(|text| Definition::read(&self.id, text));
        let version = match (&definition, change.market_definition) {
            (Some(Ok(definition)), _) => definition.version,
            (_, Some(text)) => read_version(text),
            (_, None) => None,
        };
        if scope != Scope::Subscription
            && version.is_some_and(|version| Some(version) < self.version)
        {
            let detail = format!(
                "version {} of the definition is older than {}",
                or_none(version),
                or_none(self.version)
            );
            return refused.push(self.refuse("old_version", &detail));
        }
        let image = match scope {
            Scope::Subscription | Scope::Market => true,
            Scope::Further => version > self.version,
            Scope::Difference => false,
        };
        if image {
            self.prices.clear();
            self.doubt.prices = false;
        }
        if image || definition.is_some() {
            self.absent = false;
        }
        if let Some(definition) = definition {
            self.apply_definition(definition, refused);
        }
        match version {
            Some(_) => (self.version, self.highest) = (version, self.highest.max(version)),
            None if image && change.market_definition.is_some() => {
                (self.version, self.highest) = (None, None)
            }
            None => {}
        }
        if self.unsupported {
            return;
        }
        let faults = refused.len();
        for text in change.rc.iter().flatten() {
            if let Err(fault) = self.apply_runner(text, refused) {
                refused.push(fault);
            }
        }
        self.doubt.prices |= refused.len() > faults;
    }

    fn apply_definition(
        &mut self,
        definition: Result<Definition, Refused>,
        refused: &mut Vec<Refused>,
    ) {
        match definition {
            Ok(mut definition) => {
                // Clients subscribed to the key, so it never changes.
                if let Some(known) = self.definition.take() {
                    definition.key = known.key;
                }
                self.definition = Some(definition);
                self.has_new_definition = true;
                self.doubt.definition = false;
                self.unsupported = false;
            }
            Err(fault) => {
                // A market whose prices are not odds is reported once and then ignored.
                if !self.unsupported {
                    refused.push(self.refuse(fault.reason, &fault.detail));
                }
                self.doubt.definition = true;
                self.unsupported = fault.reason == UNSUPPORTED;
            }
        }
    }

    /// A change of the market was lost: its prices and status may be old until an image arrives.
    pub(crate) fn set_in_doubt(&mut self) {
        self.doubt.prices = true;
    }

    /// Whether the market needs an image to be reliable again.
    pub(crate) fn needs_image(&self) -> bool {
        !self.unsupported && (self.doubt.prices || self.doubt.definition)
    }

    /// Whether an image contained an older version than one seen before. It is the base of the
    /// following changes, but clients keep the state they were shown, suspended, until the version
    /// is reached again.
    fn is_behind(&self) -> bool {
        self.version < self.highest
    }

    /// Marks the market as no longer in the subscription.
    pub(crate) fn set_absent(&mut self) {
        self.absent = true;
    }

    /// Whether no more changes are expected: the market has ended or is no longer in the
    /// subscription.
    pub(crate) fn is_retired(&self) -> bool {
        self.absent || self.has_ended()
    }

    /// Whether Betfair has closed the market.
    pub(crate) fn has_ended(&self) -> bool {
        let ended = |status| !matches!(status, MarketStatus::Open | MarketStatus::Suspended);
        self.definition
            .as_ref()
            .is_some_and(|definition| ended(definition.status))
    }

    /// The last published update.
    pub(crate) fn shown(&self) -> Option<&OddsUpdate> {
        self.shown.as_ref()
    }

    /// The update with the current state, if it differs from the one clients see. `reliable` means
    /// that the data of the stream is reliable. The time never goes back, so no update is older than
    /// one published before.
    pub(crate) fn publish(
        &mut self,
        time: Option<Timestamp>,
        reliable: bool,
    ) -> Option<OddsUpdate> {
        let last = self.shown.as_ref().map(|shown| shown.revision);
        let updated_at = last.map(|last| last.updated_at).max(time)?;
        let version = last.map_or(1, |last| last.version.saturating_add(1));
        let update = self.view(
            Revision {
                updated_at,
                version,
            },
            reliable,
        )?;
        if self
            .shown
            .as_ref()
            .is_some_and(|shown| shown.shows_the_same_as(&update))
        {
            return None;
        }
        self.shown = Some(update.clone());
        Some(update)
    }

    /// The records that bring the published results to those of the definition. A definition that
    /// is older than one seen before says nothing new.
    pub(super) fn publish_results(&mut self, time: Option<Timestamp>) -> NewResults {
        let is_behind = self.is_behind();
        let is_new = std::mem::take(&mut self.has_new_definition);
        match (&self.definition, time) {
            (Some(definition), Some(time)) if is_new && !is_behind => {
                self.results.apply(&self.id, definition, time)
            }
            _ => NewResults::default(),
        }
    }

    fn view(&self, revision: Revision, reliable: bool) -> Option<OddsUpdate> {
        let definition = self.definition.as_ref()?;
        let open_or = |status, stale| {
            if stale && status == MarketStatus::Open {
                MarketStatus::Suspended
            } else {
                status
            }
        };
        if let Some(shown) = self.shown.as_ref().filter(|_| self.is_behind()) {
            return Some(OddsUpdate {
                status: open_or(shown.status, true),
                revision,
                ..shown.clone()
            });
        }
        let stale = !reliable
            || self.absent
            || self.doubt.definition
            || self.doubt.prices
            || self.is_behind();
        let status = open_or(definition.status, stale);
        Some(OddsUpdate {
            event_id: self.id.clone(),
            home_team: definition.home_team.clone(),
            away_team: definition.away_team.clone(),
            sport: definition.sport.clone(),
            start_time: definition.start_time,
            market: definition.key.clone(),
            status,
            in_play: definition.in_play,
            selections: definition
                .runners
                .iter()
                .map(|runner| self.selection(runner))
                .collect(),
            revision,
            source: super::source()?,
        })
    }

    fn selection(&self, runner: &Runner) -> Selection {
        let price = match runner.status {
            SelectionStatus::Removed => None,
            _ => self.prices.get(&runner.key).and_then(RunnerPrices::price),
        };
        Selection {
            id: runner.id.clone(),
            name: runner.name.clone(),
            price,
            status: runner.status,
        }
    }

    fn apply_runner(&mut self, text: &RawValue, refused: &mut Vec<Refused>) -> Result<(), Refused> {
        let change: RunnerChange<'_> = json::from_str(text.get())
            .map_err(|error| self.refuse("bad_runner", &format_args!("runner change: {error}")))?;
        let handicap =
            read_handicap(change.hc).map_err(|fault| self.refuse(fault.reason, &fault.detail))?;
        let key: RunnerKey = (change.id, handicap);
        if !self.prices.contains_key(&key) && self.prices.len() >= MAX_SELECTIONS {
            return Err(self.refuse(
                "too_many_runners",
                &format_args!("more than {MAX_SELECTIONS} runners"),
            ));
        }
        let first = refused.len();
        self.prices.entry(key).or_default().apply(&change, refused);
        for fault in refused.iter_mut().skip(first) {
            fault.detail = format!("market {}, runner {}: {}", self.id, change.id, fault.detail);
        }
        Ok(())
    }

    fn refuse(&self, reason: &'static str, detail: &dyn std::fmt::Display) -> Refused {
        Refused {
            reason,
            detail: format!("market {}: {detail}", self.id),
        }
    }
}

fn or_none(version: Option<i64>) -> String {
    version.map_or_else(|| "none".to_owned(), |version| version.to_string())
}
