//! Messages from suppliers to the bus.

use actix::prelude::*;

use crate::bus::BusError;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::odds::update::OddsUpdate;

/// A feed to the bus publisher: what frames held that came together. Answered when the bus has
/// taken it.
#[derive(Message, Debug, Default)]
#[rtype(result = "Result<(), BusError>")]
pub struct Publish {
    /// The updates, in their order.
    pub updates: Vec<OddsUpdate>,
    /// What could not be read.
    pub dead_letters: Vec<DeadLetter>,
}

/// To a feed: leave the supplier and answer; nothing is published afterwards.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct LeaveSupplier;
