//! Reading again what an earlier process has handled.
//!
//! A process that takes over a market knows the state that was published last, but not the revision
//! that its source gave it: a published revision may be later. It finds that state among the records
//! that it reads again: those that were committed shortly before, and those that were handled and
//! not committed. Nothing is published for the latter a second time.

use std::time::Duration;

use super::{MarketSources, Shown, SourceUpdate, Standing};
use crate::domain::ids::Source;
use crate::domain::odds::failover::{DroppedRecord, MAX_CLOCK_DIFFERENCE, SourceLives};
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;

/// The records of a market that are read again.
#[derive(Clone, Debug)]
pub(super) struct Reread {
    /// The time of the last record that an earlier process may have handled.
    until: Timestamp,
    /// The latest record of the owner that is not the loaded state. If that is not found, this one
    /// follows it.
    set_aside: Option<SourceUpdate>,
}

impl Reread {
    /// The market was taken over at `clock`, so an earlier process has handled no later record.
    pub(super) fn until(clock: Timestamp) -> Reread {
        Reread {
            until: clock.later_by(MAX_CLOCK_DIFFERENCE),
            set_aside: None,
        }
    }

    /// Whether an earlier process may have handled this record.
    pub(super) fn covers(&self, heard: &SourceUpdate) -> bool {
        heard.published_at <= self.until
    }

    /// Sets a record of the owner aside.
    pub(super) fn set_aside(&mut self, heard: SourceUpdate) {
        let earlier = self.set_aside.as_ref();
        if earlier.is_none_or(|earlier| earlier.update.revision <= heard.update.revision) {
            self.set_aside = Some(heard);
        }
    }

    /// A source was lost: a record of it that was set aside does not count.
    pub(super) fn lose(&mut self, source: &Source) {
        if let Some(heard) = &mut self.set_aside
            && heard.update.source == *source
            && heard.standing == Standing::Current
        {
            heard.standing = Standing::Unconfirmed;
        }
    }

    /// The record that was set aside.
    pub(super) fn into_set_aside(self) -> Option<SourceUpdate> {
        self.set_aside
    }
}

impl MarketSources {
    /// Whether an earlier process may have handled this record.
    pub(super) fn may_have_handled(&self, heard: &SourceUpdate) -> bool {
        let reread = self.reread.as_ref();
        reread.is_some_and(|reread| reread.covers(heard))
    }

    /// Whether the published state does not follow from this record of its source yet. The records
    /// after it are new, too.
    pub(super) fn is_new(&self, heard: &SourceUpdate) -> bool {
        let Some(shown) = self.shown_of(&heard.update.source) else {
            return false;
        };
        let revision = heard.update.revision;
        let is_later = shown.own.is_some_and(|own| own < revision);
        revision > shown.update.revision
            || is_later && is_state_of(&shown.update, &heard.update).is_none()
    }

    /// What is shown, if it is a state of this source.
    fn shown_of(&self, source: &Source) -> Option<&Shown> {
        let shown = self.shown.as_ref();
        shown.filter(|shown| shown.update.source == *source)
    }

    /// Reads a record again that an earlier process may have handled.
    pub(super) fn read_again(
        &mut self,
        heard: SourceUpdate,
        lives: &SourceLives,
    ) -> Result<(), DroppedRecord> {
        let source = &heard.update.source;
        let Some(shown) = self.shown_of(source) else {
            return self.keep(heard);
        };
        let is_unknown = shown.own.is_none();
        let shown_at = shown.update.revision.updated_at;
        if let Some(is_withdrawn) = self.identify(&heard) {
            // A loss that this process does not know has withdrawn it. A record that was published
            // after that is the source's next one: no process has handled it.
            let is_unexplained = is_withdrawn
                && heard.standing == Standing::Current
                && !lives.is_lost(source)
                && heard.published_at <= shown_at;
            if let Some(kept) = self.states.get_mut(source) {
                kept.standing = if is_unexplained {
                    Standing::Unconfirmed
                } else {
                    heard.standing
                };
            }
        } else if is_unknown && let Some(reread) = &mut self.reread {
            reread.set_aside(heard);
        }
        Ok(())
    }

    /// If this is the record of the published state, gives that the own revision of its source.
    /// Returns whether the state was published as suspended although it is open.
    pub(super) fn identify(&mut self, heard: &SourceUpdate) -> Option<bool> {
        let revision = heard.update.revision;
        let shown = self.shown.as_mut()?;
        let kept = self.states.get_mut(&heard.update.source)?;
        let may_be_it = shown.update.source == heard.update.source
            && revision <= shown.update.revision
            && kept.own <= Some(revision);
        let is_withdrawn = is_state_of(&shown.update, &heard.update).filter(|_| may_be_it)?;
        kept.update = heard.update.clone();
        kept.own = Some(revision);
        kept.heard_at = heard.heard_at;
        shown.own = Some(revision);
        shown.is_withdrawn = is_withdrawn;
        Some(is_withdrawn)
    }

    /// Everything that an earlier process may have handled has been read again. If the record of the
    /// loaded state was not found, what was set aside follows it, unless that would open a market.
    /// Returns whether the reading ends with this: a decision is due then.
    pub(super) fn finish_reading(&mut self) -> bool {
        let Some(reread) = self.reread.take() else {
            return false;
        };
        if let (Some(heard), Some(shown)) = (reread.into_set_aside(), &self.shown) {
            let opens = heard.update.status == MarketStatus::Open;
            let was_open = shown.update.status == MarketStatus::Open;
            if shown.own.is_none() && !shown.is_ended() && (was_open || !opens) {
                // The market has room for it: it is a state of the owner.
                let _ = self.keep(heard);
            }
        }
        true
    }

    /// The same, if a later record has been read, or the last one was published longer than `wait`
    /// ago. `read` is the time of the last record of the partition.
    pub fn finish_reading_after(
        &mut self,
        read: Option<Timestamp>,
        wait: Duration,
        clock: Timestamp,
    ) -> bool {
        let Some(until) = self.reread.as_ref().map(|reread| reread.until) else {
            return false;
        };
        let is_over = clock > until.later_by(wait) || read.is_some_and(|read| read > until);
        is_over && self.finish_reading()
    }

    /// Whether there may be records of the market that are read again. It is not decided about before.
    pub fn is_reading_again(&self) -> bool {
        self.reread.is_some()
    }
}

/// Whether `published` is the state of `heard`, by version and content: its revision may be later,
/// and an open state may have been published as suspended. Then it was withdrawn, and the result is
/// `Some(true)`. `None` if it is another state.
fn is_state_of(published: &OddsUpdate, heard: &OddsUpdate) -> Option<bool> {
    let content = |update: &OddsUpdate| (update.revision.version, update.in_play);
    let is_same = content(published) == content(heard) && published.selections == heard.selections;
    let statuses = (published.status, heard.status);
    let is_withdrawn = statuses == (MarketStatus::Suspended, MarketStatus::Open);
    (is_same && (is_withdrawn || published.status == heard.status)).then_some(is_withdrawn)
}
