//! The suppliers: where they are, what they send, and how that becomes updates.
//!
//! A [`Decoder`] is the wire form of one supplier, free of sockets and clocks; [`transport`]
//! carries its frames.

pub mod betfair;
/// In one place, for the tests of the decoder and of the replay server.
#[cfg(test)]
#[path = "../../tests/support/betfair_fold.rs"]
pub(crate) mod betfair_fold;
pub mod confirm;
pub mod frame_batch;
pub mod native;
pub mod tls;
pub mod transport;

use std::fmt;

use crate::config::endpoint::Endpoint;
use crate::config::settings::SupplierSettings;
use crate::domain::odds::plausible::check_time;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;

/// The wire form of one supplier: frames in, updates out. Pure: no socket, no clock.
///
/// A decoder lives as long as its supplier is configured and sees every connection to it.
pub trait Decoder: Send {
    /// What to send as soon as a connection stands; empty where the supplier speaks first. Called
    /// at every connect; forgets what belongs to a connection only.
    fn on_connected(&mut self) -> Vec<String>;

    /// Reads one frame.
    fn on_frame(&mut self, frame: &[u8]) -> Result<Decoded, FrameFault>;

    /// From now on what is later than this moment is refused, as from a clock that is wrong: it
    /// would shut out every true change that comes after it.
    fn refuse_after(&mut self, latest: Timestamp);

    /// Nothing has come for so long that the prices are not to be taken for live: the suspension of
    /// every market that is open. What the supplier says next about a market, or of all of them,
    /// opens it again.
    fn on_stale(&mut self) -> Vec<OddsUpdate>;

    /// The connection ended. The suspension of every open market that a message may have changed
    /// which was not taken as a whole; `missed`: the transport dropped one. What the supplier says
    /// on its next connection opens them again.
    fn on_lost(&mut self, missed: bool) -> Vec<OddsUpdate>;

    /// The bus did not take a batch of updates that were read. Gives what must be published when it
    /// can be: the suspension of the markets that may have been among them. A decoder whose next
    /// connection begins with a whole image gives none, and forgets what it has read.
    fn on_unpublished(&mut self) -> Vec<OddsUpdate>;

    /// Counts the refused updates that may have been about any market, since no market could be
    /// read of them.
    fn unnamed_refusals(&self) -> u64 {
        0
    }

    /// Suspends the open markets about which nothing that can be read has come since there were
    /// `refusals` of [`Decoder::unnamed_refusals`].
    fn suspend_unconfirmed(&mut self, refusals: u64) -> Vec<OddsUpdate> {
        let _ = refusals;
        Vec::new()
    }
}

/// What a frame held.
#[derive(Default)]
pub struct Decoded {
    /// Changes, in their order.
    pub updates: Vec<OddsUpdate>,
    /// What to answer the supplier. May hold credentials, so it is never shown.
    pub send: Vec<String>,
    /// Parts that could not be taken. The frame goes to the dead letters, its good parts are kept.
    pub refused: Vec<Refused>,
}

impl fmt::Debug for Decoded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Decoded")
            .field("updates", &self.updates)
            .field("send", &format_args!("[{} not shown]", self.send.len()))
            .field("refused", &self.refused)
            .finish()
    }
}

/// Says what is wrong with a time that [`Decoder::refuse_after`] refuses.
fn from_the_future(time: Timestamp, latest: Option<Timestamp>) -> Option<String> {
    check_time(time, latest?).err().map(|why| why.to_string())
}

/// A part of a frame that could not be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// A small fixed word, for metrics.
    pub reason: &'static str,
    /// What was wrong, for people.
    pub detail: String,
}

/// Why a frame gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// The frame cannot be read. It goes to the dead letters, the connection stays.
    #[error("unreadable frame: {detail}")]
    Unreadable {
        /// A small fixed word, for metrics.
        reason: &'static str,
        /// What was wrong, for people.
        detail: String,
    },
    /// The supplier ends or refuses the connection: connect anew.
    #[error("the supplier refuses: {detail}")]
    Refused {
        /// A small fixed word, for metrics.
        reason: &'static str,
        /// What the supplier said, for people.
        detail: String,
    },
}

impl Endpoint {
    /// A new decoder of the endpoint's wire form.
    pub fn decoder(&self, settings: &SupplierSettings) -> Box<dyn Decoder> {
        match self {
            Endpoint::Native(_) => Box::new(native::NativeDecoder::default()),
            Endpoint::Betfair { .. } => Box::new(betfair::BetfairDecoder::new(settings)),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Settings for tests.

    use clap::{Args, FromArgMatches};

    use super::*;

    /// The default settings, but for `arguments`, as `["--supplier-max-frame", "1KiB"]`.
    pub fn settings(arguments: &[&str]) -> SupplierSettings {
        let command =
            SupplierSettings::augment_args(clap::Command::new("test").no_binary_name(true));
        SupplierSettings::from_arg_matches(&command.get_matches_from(arguments)).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_to_a_supplier_is_never_shown() {
        let decoded = Decoded {
            send: vec!["secret".to_owned()],
            ..Decoded::default()
        };
        assert!(!format!("{decoded:?}").contains("secret"), "{decoded:?}");
    }
}
