//! Suppliers: their endpoints, their wire formats, and the conversion to updates.
//!
//! A [`Decoder`] implements one supplier's wire format without sockets or clocks; `transport`
//! carries its frames.

pub(crate) mod betfair;
/// Shared by the tests of the decoder and of the replay server.
#[cfg(test)]
#[path = "../../tests/support/betfair_fold.rs"]
pub(crate) mod betfair_fold;
pub(crate) mod confirm;
pub(crate) mod frame_batch;
pub mod native;
pub(crate) mod transport;

use std::fmt;

use crate::config::endpoint::Endpoint;
use crate::config::settings::SupplierSettings;
use crate::domain::odds::plausible::check_time;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;

/// The wire format of one supplier: frames in, updates out. Pure: no socket, no clock.
///
/// A decoder lives as long as its supplier is configured and sees all of its connections.
pub trait Decoder: Send {
    /// Returns the frames to send after connecting; empty if the supplier speaks first. Called on
    /// every connect; resets state that belongs to one connection.
    fn on_connected(&mut self) -> Vec<String>;

    /// Decodes one frame.
    fn on_frame(&mut self, frame: &[u8]) -> Result<Decoded, FrameFault>;

    /// Rejects updates with a later time from now on, as from a wrong clock: such an update would
    /// shut out every genuine change after it.
    fn refuse_after(&mut self, latest: Timestamp);

    /// Called when the supplier has been silent for too long for its prices to count as live.
    /// Returns the suspension of every open market. The supplier's next message about a market, or
    /// about all of them, opens it again.
    fn on_stale(&mut self) -> Vec<OddsUpdate>;

    /// Called when the connection ends. Returns the suspension of every open market that an
    /// incompletely received message may have changed; `missed` means that the transport dropped a
    /// message. The supplier's messages on the next connection open the markets again.
    fn on_lost(&mut self, missed: bool) -> Vec<OddsUpdate>;

    /// Called when the bus did not accept a batch of decoded updates. Returns the updates to
    /// publish as soon as possible: the suspension of the markets that may have been in the batch.
    /// A decoder whose next connection starts with a full image returns none and discards its
    /// state.
    fn on_unpublished(&mut self) -> Vec<OddsUpdate>;

    /// The number of rejected updates that may concern any market, because no market could be read
    /// from them.
    fn unnamed_refusals(&self) -> u64 {
        0
    }

    /// Suspends the open markets without a readable update since [`Decoder::unnamed_refusals`]
    /// returned `refusals`.
    fn suspend_unconfirmed(&mut self, refusals: u64) -> Vec<OddsUpdate> {
        let _ = refusals;
        Vec::new()
    }
}

/// The content of a frame.
#[derive(Default)]
pub struct Decoded {
    /// Changes, in order.
    pub updates: Vec<OddsUpdate>,
    /// Replies to the supplier. May contain credentials, so they are never shown.
    pub send: Vec<String>,
    /// Rejected parts. The frame goes to the dead letters; its valid parts are kept.
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

/// Describes why [`Decoder::refuse_after`] rejects a time, if it does.
fn future_time_detail(time: Timestamp, latest: Option<Timestamp>) -> Option<String> {
    check_time(time, latest?).err().map(|why| why.to_string())
}

/// A rejected part of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// A fixed code for metrics.
    pub reason: &'static str,
    /// A description of the fault for operators.
    pub detail: String,
}

/// Why a frame gave no updates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// The frame cannot be decoded. It goes to the dead letters; the connection stays open.
    #[error("unreadable frame: {detail}")]
    Unreadable {
        /// A fixed code for metrics.
        reason: &'static str,
        /// A description of the fault for operators.
        detail: String,
    },
    /// The supplier ends or refuses the connection; reconnect.
    #[error("the supplier refuses: {detail}")]
    Refused {
        /// A fixed code for metrics.
        reason: &'static str,
        /// The supplier's message, for operators.
        detail: String,
    },
}

impl Endpoint {
    /// Creates a decoder for the endpoint's wire format.
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

    /// The default settings, with `arguments` applied, as `["--supplier-max-frame", "1KiB"]`.
    pub(crate) fn settings(arguments: &[&str]) -> SupplierSettings {
        let command =
            SupplierSettings::augment_args(clap::Command::new("test").no_binary_name(true));
        SupplierSettings::from_arg_matches(&command.get_matches_from(arguments)).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_sent_frames() {
        let decoded = Decoded {
            send: vec!["secret".to_owned()],
            ..Decoded::default()
        };
        assert!(!format!("{decoded:?}").contains("secret"), "{decoded:?}");
    }
}
