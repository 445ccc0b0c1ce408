//! The actors: shells that move messages. What they do is decided in [`crate::domain`].
//!
//! One file, one actor, in the room of what it serves. Edges between actors are `Recipient`s that
//! are passed in when an actor is created.

pub mod bets;
pub mod ingest;
pub mod odds;
pub mod streaming;
#[cfg(test)]
mod testing;
pub mod wallet;
