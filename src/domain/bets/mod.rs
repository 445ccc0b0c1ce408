//! Bets and the events about them.

pub mod bet;
pub mod bet_events;
pub mod held;
