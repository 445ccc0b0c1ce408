//! Orders what clients are shown of an event.

use crate::domain::odds::restrictions::Restrictions;

/// Which changes of an event, and which restrictions, a message shows. Later messages of a process
/// show later ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShownAt {
    seq: u64,
    restrictions: u64,
}

impl ShownAt {
    /// The event up to the change `seq`, under these restrictions.
    pub fn new(seq: u64, restrictions: &Restrictions) -> ShownAt {
        ShownAt {
            seq,
            restrictions: restrictions.version,
        }
    }

    /// The sequence number of the last change that is shown.
    pub fn seq(self) -> u64 {
        self.seq
    }
}
