//! Use cases that several APIs call: REST today, other protocols and tests as well. Nothing here
//! knows HTTP.

pub(crate) mod bets;
pub(crate) mod wallet;
