//! Use cases that several doors call: REST today, other protocols and tests as well. Nothing here
//! knows HTTP.

pub mod bets;
pub mod wallet;
