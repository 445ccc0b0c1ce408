//! The actors: thin shells that move messages. The decisions are made in [`crate::domain`].
//!
//! One actor per file, grouped by the part of the system it serves. Actors reach each other through
//! `Recipient`s that are passed in when an actor is created.

pub(crate) mod access;
pub(crate) mod bets;
pub(crate) mod consumers;
pub(crate) mod ingest;
pub mod odds;
pub(crate) mod settlement;
pub mod streaming;
#[cfg(test)]
mod testing;
pub(crate) mod wallet;
