//! A market that its source last reported as open, and whether that is confirmed.

use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::{OddsUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// How far our own revisions of a market may be ahead of the source's: each suspension and each
/// opening adds a microsecond.
const MAX_OWN_MICROS: i64 = 1_000;

/// Whether the state of a market is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Every change of it arrives.
    Confirmed,
    /// The source is silent since its last message about the market; nothing is lost unless the
    /// connection ends.
    Silent,
    /// Changes may have been missed. A recovery or the source's next message about it ends this.
    Missed,
    /// It was open in the database when this process first heard its source. The source's next
    /// message about it ends this.
    Stored,
}

/// The revisions of our own suspensions and openings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OwnRevisions {
    /// Readers keep the latest revision of a market, so each of ours is after the last one.
    #[default]
    Later,
    /// A selector compares a source only with itself. Ours repeat the source's last revision, so
    /// that the source's own next message never counts as late.
    Repeated,
}

impl OwnRevisions {
    fn after(self, shown: Revision) -> Revision {
        match self {
            OwnRevisions::Later => next_revision(shown),
            OwnRevisions::Repeated => shown,
        }
    }
}

/// What an update of the source means for a market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// It is older than what the source sent before.
    Late,
    /// It repeats the last one, and opens nothing.
    Repeated,
    /// It repeats the last one, which is in doubt. A selector would take it for a new one.
    Doubted,
    /// It is a new state, or opens the market again.
    Changed,
}

/// A market that its source last reported as open.
#[derive(Debug)]
pub(super) struct OpenMarket {
    /// The source's last revision of the market. `None` if only a revision of the selector is known,
    /// which may be later.
    pub source_revision: Option<Revision>,
    /// The last published update, with our own revision if we had to create one.
    pub shown: OddsUpdate,
    /// A later update was rejected, so repeating the earlier one does not open the market again.
    pub in_doubt: bool,
    /// The number of unnamed refusals at the time of this update.
    pub unnamed_before: u64,
    /// The connection on which the source last sent it.
    pub heard_on: u64,
    pub trust: Trust,
    own_revisions: OwnRevisions,
}

impl OpenMarket {
    /// A market that its source has just sent, with this revision, and that is published as `shown`.
    pub(super) fn sent(
        source_revision: Revision,
        shown: OddsUpdate,
        unnamed_before: u64,
        connection: u64,
        own_revisions: OwnRevisions,
    ) -> OpenMarket {
        OpenMarket {
            source_revision: Some(source_revision),
            shown,
            in_doubt: false,
            unnamed_before,
            heard_on: connection,
            trust: Trust::Confirmed,
            own_revisions,
        }
    }

    /// A market that is open in the database.
    pub(super) fn stored(
        shown: OddsUpdate,
        unnamed_before: u64,
        own_revisions: OwnRevisions,
    ) -> OpenMarket {
        OpenMarket {
            source_revision: (own_revisions == OwnRevisions::Later).then_some(shown.revision),
            shown,
            in_doubt: false,
            unnamed_before,
            heard_on: 0,
            trust: Trust::Stored,
            own_revisions,
        }
    }

    /// Receives an update of the source, and gives it the revision to publish. An update that is
    /// sent after we suspended the market opens it, even if it repeats the last one. It then needs a
    /// revision after the suspension's, or it would count as old.
    pub(super) fn receive(&mut self, update: &mut OddsUpdate, connection: u64) -> Received {
        let revision = update.revision;
        let Some(known) = self.source_revision else {
            return Received::Changed;
        };
        if self.is_late(known, revision) {
            return Received::Late;
        }
        if revision == known {
            let is_selected = self.own_revisions == OwnRevisions::Repeated;
            if self.in_doubt && is_selected && update.status == MarketStatus::Open {
                return Received::Doubted;
            }
            if self.in_doubt {
                return Received::Repeated;
            }
            self.repeated(connection);
            if self.shown.status != MarketStatus::Suspended {
                if is_selected {
                    update.revision = self.shown.revision;
                }
                return Received::Repeated;
            }
            update.revision = self.own_revisions.after(self.shown.revision);
        } else if revision <= self.shown.revision {
            update.revision = revision_after(self.shown.revision, revision.version);
        }
        Received::Changed
    }

    /// Whether an update with this revision is older than what the source sent before.
    fn is_late(&self, known: Revision, revision: Revision) -> bool {
        let may_be_current = self.trust == Trust::Stored && may_follow(known, revision);
        revision < known && !may_be_current
    }

    /// Adopts the stored state of the market, which differs from ours only by what an earlier
    /// process did. Returns the update that makes up for that.
    pub(super) fn adopt(&mut self, stored: &OddsUpdate) -> Option<OddsUpdate> {
        self.shown.status = stored.status;
        self.shown.revision = stored.revision;
        if self.in_doubt {
            self.suspend()
        } else if self.trust == Trust::Confirmed {
            self.show(MarketStatus::Suspended, MarketStatus::Open)
        } else {
            None
        }
    }

    /// Records that the source sent its last update again.
    fn repeated(&mut self, connection: u64) {
        self.heard_on = connection;
        self.trust = Trust::Confirmed;
    }

    /// Records that nothing about it was missed, while its source is silent.
    pub(super) fn missed_nothing(&mut self, connection: u64) {
        self.heard_on = connection;
        self.trust = Trust::Silent;
    }

    /// Records that the source is silent.
    pub(super) fn silence(&mut self, connection: u64) {
        if self.trust == Trust::Confirmed {
            self.trust = if self.heard_on == connection {
                Trust::Silent
            } else {
                Trust::Missed
            };
        }
    }

    /// Suspends it; `None` if it is suspended. The source's last update, sent again, opens it.
    pub(super) fn suspend(&mut self) -> Option<OddsUpdate> {
        self.show(MarketStatus::Open, MarketStatus::Suspended)
    }

    /// Suspends it because a later update of it was rejected; `None` if it is suspended for that.
    /// Only a later update opens it, also after a restart: the version is a new one. The rejected
    /// update may have been a suspension, so this counts as one by the source.
    pub(super) fn doubt(&mut self) -> Option<OddsUpdate> {
        let was_in_doubt = std::mem::replace(&mut self.in_doubt, true);
        // A market with an unknown revision is not confirmed, and suspended for that.
        self.source_revision?;
        if was_in_doubt && self.shown.status == MarketStatus::Suspended {
            return None;
        }
        let version = self.shown.revision.version.saturating_add(1);
        self.shown.status = MarketStatus::Suspended;
        self.shown.revision = revision_after(self.shown.revision, version);
        Some(self.shown.clone())
    }

    /// The suspension of the market by a bet stop with this revision. If it looked like a suspension
    /// of ours, which the source's last update may end after a restart, it gets a version of its own.
    pub(super) fn stopped(&self, revision: Revision) -> OddsUpdate {
        let mut stopped = revision;
        if let Some(known) = self.source_revision {
            stopped = revision.max(next_revision(self.shown.revision));
            if may_follow(stopped, known) {
                stopped.version = self.shown.revision.version.saturating_add(1);
            }
        }
        OddsUpdate {
            status: MarketStatus::Suspended,
            revision: stopped,
            ..self.shown.clone()
        }
    }

    /// Records that its last state is valid, and opens it if it was suspended; `None` if it is open
    /// or in doubt.
    pub(super) fn confirm(&mut self, connection: u64) -> Option<OddsUpdate> {
        if self.in_doubt {
            return None;
        }
        self.repeated(connection);
        self.show(MarketStatus::Suspended, MarketStatus::Open)
    }

    fn show(&mut self, from: MarketStatus, to: MarketStatus) -> Option<OddsUpdate> {
        if self.shown.status != from {
            return None;
        }
        self.shown.status = to;
        self.shown.revision = self.own_revisions.after(self.shown.revision);
        Some(self.shown.clone())
    }
}

/// Whether an update of the source with this revision may be as current as a stored state: the
/// stored revision may be our own, slightly later than the source's and with the same version. A
/// source that suspends a market itself gives that a version of its own.
pub(super) fn may_follow(stored: Revision, revision: Revision) -> bool {
    let micros = stored.updated_at.micros() - revision.updated_at.micros();
    revision.version >= stored.version && micros <= MAX_OWN_MICROS
}

/// The revision with this version that follows another one by a microsecond, so that later changes
/// of the source do not come before it.
pub(super) fn revision_after(revision: Revision, version: i64) -> Revision {
    let next = Timestamp::from_micros(revision.updated_at.micros() + 1);
    Revision {
        updated_at: next.unwrap_or(revision.updated_at),
        version,
    }
}

/// The revision that follows another one by a microsecond.
pub(crate) fn next_revision(revision: Revision) -> Revision {
    revision_after(revision, revision.version)
}
