//! The sources of one market, and which of their states is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    DroppedRecord, FailoverCause, FailoverRefusal, FailoverRules, MAX_SOURCES, SourceLives,
};
use crate::domain::ids::{SelectionId, Source};
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
    /// When it was published.
    pub heard_at: Instant,
    /// Whether the source offers this state.
    pub standing: Standing,
}

/// Whether a source offers its state of a market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the source's own word.
    Current,
    /// The source gives up the market.
    HandedOver,
    /// The source was lost since its last word, so nobody vouches for the state.
    Unvouched,
}

/// The latest state of a source.
#[derive(Clone, Debug)]
struct Kept {
    update: Arc<OddsUpdate>,
    /// The revision that the source itself gave it; `None` for a state that was loaded, which may
    /// have been published with a later one.
    own: Option<Revision>,
    heard_at: Instant,
    standing: Standing,
}

/// What was published last.
#[derive(Clone, Debug)]
struct Shown {
    update: Arc<OddsUpdate>,
    /// The own revision of the source's state.
    own: Option<Revision>,
    /// Whether the state is open and published as suspended, because nobody offers it.
    is_withdrawn: bool,
}

/// The states of a market, one per source, and the state that is shown.
#[derive(Clone, Debug, Default)]
pub struct MarketSources {
    states: BTreeMap<Source, Kept>,
    shown: Option<Shown>,
    /// The last refusal, so that each one is counted once.
    refused: Option<(Source, FailoverRefusal)>,
    /// A new revision that replaces a published one is not before this time. After a restart more
    /// may have been published than was loaded.
    earliest: Option<Timestamp>,
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

/// What is to be shown.
struct Target {
    source: Source,
    /// Whether the source offers its state; it is suspended otherwise.
    is_offered: bool,
}

impl MarketSources {
    /// A market whose published state was loaded at `clock`; `is_live` is whether its source is.
    pub fn restored(
        update: Arc<OddsUpdate>,
        is_live: bool,
        now: Instant,
        clock: Timestamp,
    ) -> MarketSources {
        let standing = if is_live {
            Standing::Current
        } else {
            Standing::Unvouched
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
            earliest: Some(clock),
        }
    }

    /// Keeps a new update as the state of its source.
    pub fn receive(&mut self, heard: SourceUpdate) -> Result<(), DroppedRecord> {
        let source = &heard.update.source;
        let revision = heard.update.revision;
        let earlier = self.states.get(source);
        if earlier.and_then(|kept| kept.own) > Some(revision) {
            return Err(DroppedRecord::Late);
        }
        if earlier.is_none() && self.states.len() >= MAX_SOURCES {
            return Err(DroppedRecord::TooManySources);
        }
        let is_repeated = earlier.is_some_and(|kept| kept.own == Some(revision));
        let update = match earlier {
            Some(kept) if is_repeated => kept.update.clone(),
            _ => heard.update.clone(),
        };
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
    /// update. The source has not sent this one, so its revision is not compared with later ones.
    pub fn suspend(&mut self, heard: SourceUpdate) -> Result<(), DroppedRecord> {
        let source = &heard.update.source;
        let Some(kept) = self.states.get(source) else {
            if self.states.len() >= MAX_SOURCES {
                return Err(DroppedRecord::TooManySources);
            }
            let kept = Kept {
                update: heard.update.clone(),
                own: None,
                heard_at: heard.heard_at,
                standing: Standing::Unvouched,
            };
            self.states.insert(source.clone(), kept);
            return Ok(());
        };
        if kept.own > Some(heard.update.revision) {
            return Err(DroppedRecord::Late);
        }
        self.lose(source);
        Ok(())
    }

    /// Keeps an update that an earlier process has handled. What it published of it was loaded, or
    /// will be published again.
    pub fn replay(&mut self, heard: SourceUpdate) {
        let revision = heard.update.revision;
        let published = self.shown.as_mut().filter(|shown| {
            shown.update.source == heard.update.source && revision <= shown.update.revision
        });
        let Some(shown) = published else {
            // Late records and further sources were counted when they were first read.
            let _ = self.receive(heard);
            return;
        };
        if let Some(kept) = self.states.get_mut(&heard.update.source)
            && kept.own <= Some(revision)
        {
            kept.own = Some(revision);
            kept.heard_at = heard.heard_at;
            kept.standing = heard.standing;
            shown.own = Some(revision);
        }
    }

    /// A source was lost: nobody vouches for its state until its next word.
    pub fn lose(&mut self, source: &Source) {
        if let Some(kept) = self.states.get_mut(source)
            && kept.standing == Standing::Current
        {
            kept.standing = Standing::Unvouched;
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

    /// Decides which state is shown now, and returns it if it is not published yet.
    pub fn decide(&mut self, rules: &FailoverRules, lives: &SourceLives, now: Instant) -> Decision {
        let mut refused = None;
        let Some(target) = self.target(rules, lives, now, &mut refused) else {
            return Decision::default();
        };
        let is_new_refusal = refused.is_some() && refused != self.refused;
        self.refused = refused.clone();
        let moved = match self.owner() {
            Some(owner) if *owner != target.source => Some(self.cause(owner, lives)),
            _ => None,
        };
        let was_withdrawn = self.shown.as_ref().is_some_and(|shown| shown.is_withdrawn);
        let publish = self.show(&target);
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

    fn target(
        &self,
        rules: &FailoverRules,
        lives: &SourceLives,
        now: Instant,
        refused: &mut Option<(Source, FailoverRefusal)>,
    ) -> Option<Target> {
        let mut ranked: Vec<_> = self.states.keys().collect();
        ranked.sort_by_key(|source| rules.rank(source));
        let Some(owner) = self.owner() else {
            let offered = ranked.iter().find(|source| self.is_offered(source, lives));
            let source = (*offered.or(ranked.first())?).clone();
            let is_offered = offered.is_some();
            return Some(Target { source, is_offered });
        };
        let is_offered = self.is_offered(owner, lives);
        let others = ranked.into_iter().filter(|source| *source != owner);
        let candidates = others
            .filter(|_| !self.is_ended())
            .filter(|source| self.is_offered(source, lives))
            .filter(|source| {
                !is_offered
                    || rules.rank(source) < rules.rank(owner) && lives.may_take_back(source, now)
            });
        for source in candidates {
            match self.refusal(owner, source, is_offered, rules, now) {
                None => {
                    return Some(Target {
                        source: source.clone(),
                        is_offered: true,
                    });
                }
                Some(refusal) => {
                    refused.get_or_insert((source.clone(), refusal));
                }
            }
        }
        Some(Target {
            source: owner.clone(),
            is_offered,
        })
    }

    /// Whether a source is live and offers its state.
    fn is_offered(&self, source: &Source, lives: &SourceLives) -> bool {
        let standing = self.states.get(source).map(|kept| kept.standing);
        standing == Some(Standing::Current) && lives.is_live(source)
    }

    /// Why a source may not follow the owner. Of an owner that still offers its state or hands the
    /// market over, the age of the next state does not matter: nothing was missed.
    fn refusal(
        &self,
        owner: &Source,
        source: &Source,
        is_offered: bool,
        rules: &FailoverRules,
        now: Instant,
    ) -> Option<FailoverRefusal> {
        let (held, next) = (self.states.get(owner)?, self.states.get(source)?);
        let age = now.saturating_duration_since(next.heard_at);
        let needs_recent = !is_offered && held.standing != Standing::HandedOver;
        if selections(&held.update) != selections(&next.update) {
            Some(FailoverRefusal::Selections)
        } else if needs_recent && age >= rules.max_age {
            Some(FailoverRefusal::TooOld)
        } else {
            None
        }
    }

    /// Why the market leaves this owner.
    fn cause(&self, owner: &Source, lives: &SourceLives) -> FailoverCause {
        let standing = self.states.get(owner).map(|kept| kept.standing);
        match standing {
            _ if self.is_offered(owner, lives) => FailoverCause::Back,
            Some(Standing::HandedOver) => FailoverCause::HandedOver,
            _ => FailoverCause::Lost,
        }
    }

    /// Shows the state of a source. Returns the update, with a revision after everything that was
    /// published, unless exactly this is shown.
    fn show(&mut self, target: &Target) -> Option<Arc<OddsUpdate>> {
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
        let revision = self.next_revision(own.unwrap_or(kept.update.revision));
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

    /// The revision of the source itself if it is later than the published one, else the next one.
    fn next_revision(&self, own: Revision) -> Revision {
        match &self.shown {
            Some(shown) if own <= shown.update.revision => {
                let next = shown.update.revision.updated_at.later_by(STEP);
                Revision {
                    updated_at: self.earliest.map_or(next, |earliest| earliest.max(next)),
                    version: own.version,
                }
            }
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

fn selections(update: &OddsUpdate) -> BTreeSet<&SelectionId> {
    update
        .selections
        .iter()
        .map(|selection| &selection.id)
        .collect()
}
