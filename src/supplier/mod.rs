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
use crate::domain::ids::{EventId, MarketKey, Source};
use crate::domain::odds::plausible::check_time;
use crate::domain::odds::source_status::SourceState;
use crate::domain::odds::update::{OddsUpdate, Revision};
use crate::domain::settlement::record::ResultRecord;
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

    /// The sources heard and their states on this connection; bounded. Silence is for the caller to
    /// judge.
    fn sources(&self) -> Vec<(Source, SourceState)>;

    /// Called when the supplier has been silent for too long for its prices to count as live. No
    /// open market is confirmed until the supplier speaks again.
    fn record_silence(&mut self);

    /// Called when a source has been silent for too long while its connection is not. Its open
    /// markets are not confirmed until the source speaks again.
    fn record_source_silence(&mut self, source: &Source) {
        let _ = source;
    }

    /// Called when the connection ends; `missed` means that the transport dropped a message. The
    /// open markets that an incompletely received message may have changed are not confirmed until
    /// the next connection.
    fn record_loss(&mut self, missed: bool);

    /// Called when the supplier speaks after a silence. Nothing is lost on an unbroken connection:
    /// returns the openings of the markets that were suspended because of the silence.
    fn on_resumed(&mut self) -> Vec<OddsUpdate> {
        Vec::new()
    }

    /// Called when a source speaks after [`Decoder::record_source_silence`]. Returns the openings of
    /// the markets that were suspended because of that.
    fn on_source_resumed(&mut self, source: &Source) -> Vec<OddsUpdate> {
        let _ = source;
        Vec::new()
    }

    /// The open markets that the source confirms, as they were published last. A selector needs them
    /// again when the source is live again.
    fn confirmed_open(&self, source: &Source) -> Vec<OddsUpdate>;

    /// Called when the supplier has not finished a recovery in time: it is not waited for any more,
    /// and a market is not confirmed until it is sent again. Returns whether one was running.
    fn give_up_recovery(&mut self) -> bool {
        false
    }

    /// Adds markets that are open or suspended in the database. Open ones that the supplier has not
    /// sent on this connection are not confirmed until it does.
    fn add_stored(&mut self, stored: Vec<OddsUpdate>) -> AddedMarkets;

    /// Forgets the added markets that the supplier has not sent and that `is_forgotten` names: another
    /// connection sends them.
    fn forget_stored(&mut self, is_forgotten: &dyn Fn(&OddsUpdate) -> bool);

    /// Suspends the open markets that are not confirmed, except those of spared sources: another
    /// process has them live. Called again and again, because that may end.
    fn suspend_unconfirmed(&mut self, is_spared: &dyn Fn(&Source) -> bool) -> Vec<OddsUpdate>;

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
    fn suspend_after_refusals(&mut self, refusals: u64) -> Vec<OddsUpdate> {
        let _ = refusals;
        Vec::new()
    }
}

/// What follows from the markets of the database.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AddedMarkets {
    /// The number of open markets that are new, because the supplier has not sent them.
    pub unsent: usize,
    /// Changes of markets that the supplier has sent, and that readers keep in another state because
    /// an earlier process has suspended or opened them.
    pub updates: Vec<OddsUpdate>,
}

/// The source that a frame comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameSource {
    /// The source speaks for itself even when nothing changes, so its silence means that it is lost.
    Alive(Source),
    /// Any other message of it.
    Message(Source),
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
    /// The results of markets.
    pub results: Vec<ResultRecord>,
    /// Rejected results, and those that need an operator. The frame goes to their dead letters.
    pub refused_results: Vec<Refused>,
    /// The updates with which their source gives up the market, for another source to take over.
    pub handed_over: Vec<MarketRevision>,
    /// The number of updates that are older than what their source said before.
    pub late: u64,
    /// The source that sent the frame, if it names one.
    pub heard: Option<FrameSource>,
    /// The supplier has sent everything that was missed before the connection.
    pub is_recovered: bool,
    /// Nothing in the frame could be read, so it does not show that the prices are live.
    pub is_unreadable: bool,
}

/// Identifies an update of a market.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MarketRevision {
    /// The source.
    pub source: Source,
    /// The event.
    pub event_id: EventId,
    /// The market.
    pub market: MarketKey,
    /// Its revision.
    pub revision: Revision,
}

impl MarketRevision {
    /// Identifies this update.
    pub fn of(update: &OddsUpdate) -> MarketRevision {
        MarketRevision {
            source: update.source.clone(),
            event_id: update.event_id.clone(),
            market: update.market.clone(),
            revision: update.revision,
        }
    }
}

impl fmt::Debug for Decoded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Decoded")
            .field("updates", &self.updates)
            .field("send", &format_args!("[{} not shown]", self.send.len()))
            .field("refused", &self.refused)
            .field("results", &self.results)
            .field("refused_results", &self.refused_results)
            .field("handed_over", &self.handed_over)
            .field("late", &self.late)
            .field("heard", &self.heard)
            .field("is_recovered", &self.is_recovered)
            .field("is_unreadable", &self.is_unreadable)
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
            Endpoint::Native(_) => Box::new(native::NativeDecoder::new(
                settings.supplier_recovery,
                !settings.supplier_priority.is_empty(),
            )),
            Endpoint::Betfair { .. } => Box::new(betfair::BetfairDecoder::new(settings)),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Settings and shortcuts for tests.

    use clap::{Args, FromArgMatches};

    use super::*;

    /// Suspends what is not confirmed, as if no other process reads the source.
    pub(crate) trait SuspendAlone: Decoder {
        fn on_stale(&mut self) -> Vec<OddsUpdate> {
            self.record_silence();
            self.suspend_unconfirmed(&|_| false)
        }

        fn on_lost(&mut self, missed: bool) -> Vec<OddsUpdate> {
            self.record_loss(missed);
            self.suspend_unconfirmed(&|_| false)
        }
    }

    impl<D: Decoder + ?Sized> SuspendAlone for D {}

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
