//! Which source owns a market.

use std::collections::BTreeSet;

use super::{Basis, MarketSources, Standing};
use crate::domain::ids::{SelectionId, Source};
use crate::domain::odds::failover::{FailoverCause, FailoverRefusal, SourceLives};
use crate::domain::odds::update::OddsUpdate;

/// What is to be shown.
pub(super) struct Target {
    pub(super) source: Source,
    /// Whether the source offers its state; it is suspended otherwise.
    pub(super) is_offered: bool,
}

impl MarketSources {
    /// What is to be shown, and in `refused` the first source that could not take the market over.
    pub(super) fn target(
        &self,
        basis: Basis<'_>,
        refused: &mut Option<(Source, FailoverRefusal)>,
    ) -> Option<Target> {
        let mut ranked: Vec<_> = self.states.keys().collect();
        ranked.sort_by_key(|source| basis.rules.rank(source));
        let Some(owner) = self.owner() else {
            return self.first_target(&ranked, basis.lives);
        };
        for source in ranked.into_iter().filter(|source| *source != owner) {
            if !self.may_follow(owner, source, basis) {
                continue;
            }
            let Some(refusal) = self.refusal(owner, source, basis) else {
                return Some(Target {
                    source: source.clone(),
                    is_offered: true,
                });
            };
            refused.get_or_insert((source.clone(), refusal));
        }
        Some(Target {
            source: owner.clone(),
            is_offered: self.is_kept(owner, basis.lives),
        })
    }

    /// What is shown of a market that was not published yet.
    fn first_target(&self, ranked: &[&Source], lives: &SourceLives) -> Option<Target> {
        let offered = ranked.iter().find(|source| self.is_offered(source, lives));
        let source = *offered.or(ranked.first())?;
        Some(Target {
            source: source.clone(),
            is_offered: self.is_kept(source, lives),
        })
    }

    /// Whether a source is live and offers its state.
    fn is_offered(&self, source: &Source, lives: &SourceLives) -> bool {
        self.is_current(source) && lives.is_live(source)
    }

    /// Whether the state of an owner stays as it is. If the owner is only silent, those who show
    /// prices suspend it, until it is live again or lost.
    fn is_kept(&self, owner: &Source, lives: &SourceLives) -> bool {
        self.is_current(owner) && (lives.is_live(owner) || lives.is_only_silent(owner))
    }

    fn is_current(&self, source: &Source) -> bool {
        let standing = self.states.get(source).map(|kept| kept.standing);
        standing == Some(Standing::Current)
    }

    /// Whether a source offers a market that the owner may lose to it.
    fn may_follow(&self, owner: &Source, source: &Source, basis: Basis<'_>) -> bool {
        let Basis {
            rules, lives, now, ..
        } = basis;
        if self.is_ended() || !self.is_offered(source, lives) {
            false
        } else if self.is_offered(owner, lives) {
            rules.rank(source) < rules.rank(owner) && lives.may_take_back(source, now)
        } else {
            !self.is_kept(owner, lives) || lives.may_replace_silent(source, now)
        }
    }

    /// Why a source may not follow the owner. Of an owner that still offers its state or hands the
    /// market over, the age of the next state does not matter: nothing was missed.
    fn refusal(
        &self,
        owner: &Source,
        source: &Source,
        basis: Basis<'_>,
    ) -> Option<FailoverRefusal> {
        let (held, next) = (self.states.get(owner)?, self.states.get(source)?);
        let age = basis.now.saturating_duration_since(next.heard_at);
        let is_offered = self.is_offered(owner, basis.lives);
        let needs_recent = !is_offered && held.standing != Standing::HandedOver;
        if selections(&held.update) != selections(&next.update) {
            Some(FailoverRefusal::Selections)
        } else if needs_recent && age >= basis.rules.max_age {
            Some(FailoverRefusal::TooOld)
        } else {
            None
        }
    }

    /// Why the market leaves this owner.
    pub(super) fn cause(&self, owner: &Source, lives: &SourceLives) -> FailoverCause {
        let standing = self.states.get(owner).map(|kept| kept.standing);
        match standing {
            _ if self.is_offered(owner, lives) => FailoverCause::Back,
            Some(Standing::HandedOver) => FailoverCause::HandedOver,
            _ => FailoverCause::Lost,
        }
    }
}

fn selections(update: &OddsUpdate) -> BTreeSet<&SelectionId> {
    update
        .selections
        .iter()
        .map(|selection| &selection.id)
        .collect()
}
