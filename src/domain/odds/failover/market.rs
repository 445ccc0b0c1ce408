//! The sources of one market, and which of their states is shown.

mod choice;
mod reread;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::choice::Target;
use self::reread::Reread;
use super::{
    DroppedRecord, FailoverCause, FailoverRefusal, FailoverRules, MAX_SOURCES, SourceLives,
};
use crate::domain::ids::Source;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::{OddsUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// The smallest step between two revisions.
const STEP: Duration = Duration::from_micros(1);

/// An update of a source.
#[derive(Clone, Debug)]
pub struct SourceUpdate {
    /// The update.
    pub update: Arc<OddsUpdate>,
    /// The partition of its record.
    pub partition: u32,
    /// When it was published, by the clock of the bus.
    pub published_at: Timestamp,
    /// When that was by the clock of this process.
    pub heard_at: Instant,
    /// Whether the source offers this state.
    pub standing: Standing,
    /// Whether the record was committed before this process read it.
    pub is_replayed: bool,
}

/// Whether a source offers its state of a market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The source sent it.
    Current,
    /// The source gives up the market.
    HandedOver,
    /// It does not count until the next one: `ingest` has suspended the market because the source
    /// may have missed changes of it, or the source was lost since it sent the state.
    Unconfirmed,
}

/// What a decision depends on, beside the states of the market.
#[derive(Clone, Copy, Debug)]
pub struct Basis<'a> {
    /// When a market changes its owner.
    pub rules: &'a FailoverRules,
    /// Which sources are live.
    pub lives: &'a SourceLives,
    /// The time of the decision, by the clock of this process.
    pub now: Instant,
    /// When the record was published that leads to the decision; without a record the time of day.
    /// A revision that the platform itself creates has this time, so it does not depend on when,
    /// or how often, a record is read.
    pub clock: Timestamp,
}

/// The latest state of a source.
#[derive(Clone, Debug)]
struct Kept {
    update: Arc<OddsUpdate>,
    /// The revision that the source itself gave it, or a later one with which `ingest` has suspended
    /// it. `None` if that is unknown: for a state that was loaded, which may have been published with
    /// a later one, and for the suspension of a market that the source has not sent yet.
    own: Option<Revision>,
    heard_at: Instant,
    standing: Standing,
}

impl Kept {
    /// The version that the source itself gave it: a published revision has the same one.
    fn version(&self) -> i64 {
        self.own.unwrap_or(self.update.revision).version
    }

    /// Whether the source itself has suspended or ended the market, so that a suspension by `ingest`
    /// with this revision says nothing new. A suspended state that was loaded may be that of
    /// `ingest`.
    fn is_own_suspension(&self, revision: Revision) -> bool {
        let is_before = match self.own {
            Some(own) => revision.version <= own.version,
            None => revision.version < self.version(),
        };
        is_before && self.update.status != MarketStatus::Open
    }
}

/// What was published last.
#[derive(Clone, Debug)]
struct Shown {
    update: Arc<OddsUpdate>,
    /// The own revision of the source's state.
    own: Option<Revision>,
    /// Whether the state is open and published as suspended, because no source offers it.
    is_withdrawn: bool,
}

/// The states of a market, one per source, and the state that is shown.
#[derive(Clone, Debug, Default)]
pub struct MarketSources {
    states: BTreeMap<Source, Kept>,
    shown: Option<Shown>,
    /// The last refusal, so that each one is counted once.
    refused: Option<(Source, FailoverRefusal)>,
    /// Of a market that an earlier process has published: its records that are read again.
    reread: Option<Reread>,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Whether a decision is due.
    pub is_due: bool,
    /// Why it was dropped, if it was.
    pub dropped: Option<DroppedRecord>,
}

impl Received {
    /// `is_new` is whether the record leads to a decision if it is kept; `has_changed` is whether
    /// the market has changed before that.
    fn after(kept: Result<(), DroppedRecord>, is_new: bool, has_changed: bool) -> Received {
        Received {
            is_due: has_changed || (is_new && kept.is_ok()),
            dropped: kept.err(),
        }
    }
}

/// What follows from the states of a market.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The update to publish.
    pub publish: Option<Arc<OddsUpdate>>,
    /// Why the market has a new owner.
    pub moved: Option<FailoverCause>,
    /// Why a live source did not become the owner. Reported once.
    pub refused: Option<FailoverRefusal>,
    /// Whether an open market is suspended because no source offers it.
    pub is_withdrawn: bool,
}

impl MarketSources {
    /// A market whose published state was loaded; `is_lost` is whether its source is. Records that
    /// were published before `reread_until` may have been handled by an earlier process.
    pub fn restored(
        update: Arc<OddsUpdate>,
        is_lost: bool,
        now: Instant,
        reread_until: Option<Timestamp>,
    ) -> MarketSources {
        let standing = if is_lost {
            Standing::Unconfirmed
        } else {
            Standing::Current
        };
        let kept = Kept {
            update: update.clone(),
            own: None,
            heard_at: now,
            standing,
        };
        let shown = Shown {
            update,
            own: None,
            is_withdrawn: false,
        };
        MarketSources {
            states: BTreeMap::from([(shown.update.source.clone(), kept)]),
            shown: Some(shown),
            refused: None,
            reread: reread_until.map(Reread::until),
        }
    }

    /// Receives an update. No decision is due while records are read again that an earlier process
    /// may have handled, because the loaded state follows from all of them.
    pub fn receive(&mut self, mut heard: SourceUpdate, lives: &SourceLives) -> Received {
        let was_handled = heard.is_replayed || self.may_have_handled(&heard);
        if heard.is_replayed && self.shown.is_none() {
            // It was published, and the loaded state does not show it.
            let until = Reread::until(heard.published_at);
            self.reread.get_or_insert(until);
        }
        if heard.standing == Standing::Unconfirmed {
            return self.receive_suspension(heard, was_handled);
        }
        if heard.standing == Standing::Current && was_lost_after(&heard, was_handled, lives) {
            heard.standing = Standing::Unconfirmed;
        }
        if was_handled && !self.is_new(&heard) {
            let dropped = self.read_again(heard, lives).err();
            return Received {
                is_due: false,
                dropped,
            };
        }
        let is_new = !heard.is_replayed;
        let has_changed = is_new && self.finish_reading();
        if self.shown.as_ref().is_some_and(|shown| shown.own.is_none()) {
            self.identify(&heard);
        }
        Received::after(self.keep(heard), is_new, has_changed)
    }

    fn receive_suspension(&mut self, heard: SourceUpdate, was_handled: bool) -> Received {
        let has_changed = !was_handled && self.finish_reading();
        Received::after(self.suspend(heard), !was_handled, has_changed)
    }

    fn keep(&mut self, heard: SourceUpdate) -> Result<(), DroppedRecord> {
        let source = &heard.update.source;
        let revision = heard.update.revision;
        let earlier = self.states.get(source);
        if earlier.and_then(|kept| kept.own) > Some(revision) {
            return Err(DroppedRecord::Late);
        }
        if earlier.is_none() && self.states.len() >= MAX_SOURCES {
            return Err(DroppedRecord::TooManySources);
        }
        let is_repeated =
            |kept: &&Kept| kept.own == Some(revision) && kept.update.revision == revision;
        let repeated = earlier.filter(is_repeated);
        let update = repeated.map_or(&heard.update, |kept| &kept.update).clone();
        let kept = Kept {
            update,
            own: Some(revision),
            heard_at: heard.heard_at,
            standing: heard.standing,
        };
        self.states.insert(source.clone(), kept);
        Ok(())
    }

    /// `ingest` has suspended the market, so the state of the source does not count until its next
    /// update. Its revision is not compared with those of the source, which has not sent it; except
    /// one with a later version: only a later update of the source may follow that.
    fn suspend(&mut self, heard: SourceUpdate) -> Result<(), DroppedRecord> {
        let source = &heard.update.source;
        let revision = heard.update.revision;
        let Some(kept) = self.states.get_mut(source) else {
            if self.states.len() >= MAX_SOURCES {
                return Err(DroppedRecord::TooManySources);
            }
            let kept = Kept {
                update: heard.update.clone(),
                own: None,
                heard_at: heard.heard_at,
                standing: Standing::Unconfirmed,
            };
            self.states.insert(source.clone(), kept);
            return Ok(());
        };
        if kept.own > Some(revision) {
            return Err(DroppedRecord::Late);
        }
        let is_own = kept.is_own_suspension(revision);
        if revision.version > kept.version() {
            kept.own = Some(revision);
        }
        if !is_own {
            self.lose(source);
        }
        Ok(())
    }

    /// A source was lost: its state does not count until its next one.
    pub fn lose(&mut self, source: &Source) {
        if let Some(kept) = self.states.get_mut(source)
            && kept.standing == Standing::Current
        {
            kept.standing = Standing::Unconfirmed;
        }
        if let Some(reread) = &mut self.reread {
            reread.lose(source);
        }
    }

    /// The source whose state is shown.
    pub fn owner(&self) -> Option<&Source> {
        self.shown.as_ref().map(|shown| &shown.update.source)
    }

    /// Whether the market is over.
    pub fn is_ended(&self) -> bool {
        self.shown.as_ref().is_some_and(Shown::is_ended)
    }

    /// Whether the owner has given up the market, and no other source offers it.
    pub fn is_handed_over(&self) -> bool {
        let owner = self.owner().and_then(|owner| self.states.get(owner));
        owner.is_some_and(|kept| kept.standing == Standing::HandedOver) && !self.is_ended()
    }

    /// Decides which state is shown now, and returns it if it is not published yet.
    pub fn decide(&mut self, basis: Basis<'_>) -> Decision {
        let mut refused = None;
        let Some(target) = self.target(basis, &mut refused) else {
            return Decision::default();
        };
        let is_new_refusal = refused.is_some() && refused != self.refused;
        self.refused = refused.clone();
        let moved = match self.owner() {
            Some(owner) if *owner != target.source => Some(self.cause(owner, basis.lives)),
            _ => None,
        };
        let was_withdrawn = self.shown.as_ref().is_some_and(|shown| shown.is_withdrawn);
        let publish = self.show(&target, basis.clock);
        let is_withdrawn = self.shown.as_ref().is_some_and(|shown| shown.is_withdrawn);
        Decision {
            publish,
            moved,
            refused: refused
                .filter(|_| is_new_refusal)
                .map(|(_, refusal)| refusal),
            is_withdrawn: is_withdrawn && !was_withdrawn,
        }
    }

    /// Shows the state of a source. Returns the update, with a revision after everything that was
    /// published, unless exactly this is shown.
    fn show(&mut self, target: &Target, clock: Timestamp) -> Option<Arc<OddsUpdate>> {
        let kept = self.states.get(&target.source)?;
        let is_withdrawn = !target.is_offered && kept.update.status == MarketStatus::Open;
        if let Some(shown) = &self.shown
            && shown.update.source == target.source
            && shown.own == kept.own
            && shown.is_withdrawn == is_withdrawn
        {
            return None;
        }
        let own = kept.own;
        let revision = self.next_revision(own.unwrap_or(kept.update.revision), clock);
        let update = if revision == kept.update.revision && !is_withdrawn {
            kept.update.clone()
        } else {
            let mut update = OddsUpdate::clone(&kept.update);
            update.revision = revision;
            if is_withdrawn {
                update.status = MarketStatus::Suspended;
            }
            Arc::new(update)
        };
        self.shown = Some(Shown {
            update: update.clone(),
            own,
            is_withdrawn,
        });
        Some(update)
    }

    /// The revision of the source itself if it is later than the published one; else the time of the
    /// decision, or the next one after the published one.
    fn next_revision(&self, own: Revision, clock: Timestamp) -> Revision {
        match &self.shown {
            Some(shown) if own <= shown.update.revision => Revision {
                updated_at: shown.update.revision.updated_at.later_by(STEP).max(clock),
                version: own.version,
            },
            _ => own,
        }
    }
}

impl Shown {
    fn is_ended(&self) -> bool {
        use MarketStatus::{Cancelled, Closed, Settled};
        matches!(self.update.status, Closed | Settled | Cancelled)
    }
}

/// Whether the source was lost after this record. One that an earlier process has handled was read
/// in time; any other may have waited.
fn was_lost_after(heard: &SourceUpdate, was_handled: bool, lives: &SourceLives) -> bool {
    let source = &heard.update.source;
    if was_handled {
        lives.was_lost_after(source, heard.heard_at)
    } else {
        lives.was_surely_lost_after(source, heard.heard_at)
    }
}
