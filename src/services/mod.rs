//! Use cases that several APIs call: REST today, other protocols and tests as well. Nothing here
//! knows HTTP.

pub(crate) mod bets;
pub mod odds;
pub(crate) mod wallet;
