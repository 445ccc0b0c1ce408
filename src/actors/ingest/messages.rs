//! Messages between supplier feeds, the bus publisher and the source reporter.

use std::sync::Arc;

use actix::prelude::*;

use crate::bus::BusError;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::ids::Source;
use crate::domain::odds::source_status::SourceState;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::settlement::record::ResultRecord;
use crate::domain::timestamp::Timestamp;
use crate::domain::trace_parent::TraceParent;
use crate::supplier::MarketRevision;

/// Feed to bus publisher: the content of frames that arrived together. The reply is sent after the
/// bus has accepted it.
#[derive(Message, Debug, Default)]
#[rtype(result = "Result<(), BusError>")]
pub(crate) struct Publish {
    /// The updates, in order.
    pub updates: Vec<OddsUpdate>,
    /// Frames that could not be decoded.
    pub dead_letters: Vec<DeadLetter>,
    /// The results of markets.
    pub results: Vec<ResultRecord>,
    /// Frames whose results could not be decoded, or need an operator.
    pub result_dead_letters: Vec<DeadLetter>,
    /// The updates with which a source gives up its market.
    pub handed_over: Vec<MarketRevision>,
    /// The updates with which the feed itself suspends a market that no source confirms.
    pub unconfirmed: Vec<MarketRevision>,
    /// The updates that are traced, with their spans.
    pub traced: Vec<(MarketRevision, TraceParent)>,
}

impl Publish {
    /// Whether there is nothing to publish.
    pub(crate) fn is_empty(&self) -> bool {
        self.updates.is_empty()
            && self.dead_letters.is_empty()
            && self.results.is_empty()
            && self.result_dead_letters.is_empty()
    }

    /// Adds the content of another message.
    pub(crate) fn extend(&mut self, other: Publish) {
        self.updates.extend(other.updates);
        self.dead_letters.extend(other.dead_letters);
        self.results.extend(other.results);
        self.result_dead_letters.extend(other.result_dead_letters);
        self.handed_over.extend(other.handed_over);
        self.unconfirmed.extend(other.unconfirmed);
        self.traced.extend(other.traced);
    }
}

/// Feed to source reporter: the state of each source that the feed hears.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub(crate) struct SourcesHeard {
    /// Identifies the feed, in this start of the process.
    pub reporter: Arc<str>,
    /// The sources.
    pub sources: Vec<HeardSource>,
}

/// The state of a source, as a feed hears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeardSource {
    /// The source.
    pub source: Source,
    /// Its state.
    pub state: SourceState,
    /// Until when its data is confirmed.
    pub at: Timestamp,
}

/// To a feed: disconnect from the supplier and reply. Nothing is published afterwards.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct LeaveSupplier;
