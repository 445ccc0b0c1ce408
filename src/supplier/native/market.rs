//! A market that the supplier last reported as open, and whether the supplier vouches for it.

use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::{OddsUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// How far our own revisions of a market may be ahead of the supplier's: each suspension and each
/// opening adds a microsecond.
const MAX_OWN_MICROS: i64 = 1_000;

/// Whether the supplier vouches for a market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Every change of it arrives.
    Vouched,
    /// The supplier is silent since its last message about the market; nothing is lost unless the
    /// connection ends.
    Silent,
    /// Changes may have been missed. A recovery or the supplier's next message about it ends this.
    Missed,
    /// It was open in the database when this process first heard its source. The supplier's next
    /// message about it ends this.
    Stored,
}

/// A market that the supplier last reported as open.
#[derive(Debug)]
pub(super) struct OpenMarket {
    /// The supplier's last revision of the market.
    pub supplier_revision: Revision,
    /// The last published update, with our own revision if we had to create one.
    pub shown: OddsUpdate,
    /// A later update was rejected, so repeating the earlier one does not open the market again.
    pub in_doubt: bool,
    /// The number of unnamed refusals at the time of this update.
    pub unnamed_before: u64,
    /// The connection on which the supplier last sent it.
    pub heard_on: u64,
    pub trust: Trust,
}

impl OpenMarket {
    /// A market that is open in the database.
    pub(super) fn stored(update: OddsUpdate, unnamed_before: u64) -> OpenMarket {
        OpenMarket {
            supplier_revision: update.revision,
            shown: update,
            in_doubt: false,
            unnamed_before,
            heard_on: 0,
            trust: Trust::Stored,
        }
    }

    /// Whether an update with this revision is older than what the supplier said before. The
    /// revision of a stored market may be our own, slightly later than the supplier's.
    pub(super) fn is_late(&self, revision: Revision) -> bool {
        let known = self.supplier_revision;
        let micros = known.updated_at.micros() - revision.updated_at.micros();
        let is_repeated = self.trust == Trust::Stored
            && revision.version == known.version
            && micros <= MAX_OWN_MICROS;
        revision < known && !is_repeated
    }

    /// Records that the supplier sent its last update again.
    pub(super) fn repeated(&mut self, connection: u64) {
        self.heard_on = connection;
        self.trust = Trust::Vouched;
    }

    /// Records that the supplier is silent.
    pub(super) fn silence(&mut self, connection: u64) {
        if self.trust == Trust::Vouched {
            self.trust = if self.heard_on == connection {
                Trust::Silent
            } else {
                Trust::Missed
            };
        }
    }

    /// Suspends it; `None` if it is suspended.
    pub(super) fn suspend(&mut self) -> Option<OddsUpdate> {
        self.show(MarketStatus::Open, MarketStatus::Suspended)
    }

    /// Records that its last state is valid, and opens it if it was suspended; `None` if it is open
    /// or in doubt.
    pub(super) fn vouch(&mut self, connection: u64) -> Option<OddsUpdate> {
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
        self.shown.revision = next_revision(self.shown.revision);
        Some(self.shown.clone())
    }
}

/// The revision one microsecond after another one, so that later changes of the supplier do not
/// come before it.
pub(crate) fn next_revision(revision: Revision) -> Revision {
    let updated_at =
        Timestamp::from_micros(revision.updated_at.micros() + 1).unwrap_or(revision.updated_at);
    Revision {
        updated_at,
        ..revision
    }
}
