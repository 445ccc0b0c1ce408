//! Messages between supplier feeds and the bus publisher.

use actix::prelude::*;

use crate::bus::BusError;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::odds::update::OddsUpdate;

/// Feed to bus publisher: the content of frames that arrived together. The reply is sent after the
/// bus has accepted it.
#[derive(Message, Debug, Default)]
#[rtype(result = "Result<(), BusError>")]
pub(crate) struct Publish {
    /// The updates, in order.
    pub updates: Vec<OddsUpdate>,
    /// Frames that could not be decoded.
    pub dead_letters: Vec<DeadLetter>,
}

/// To a feed: disconnect from the supplier and reply. Nothing is published afterwards.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct LeaveSupplier;
