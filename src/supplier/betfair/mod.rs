//! The Betfair Exchange Stream: decodes messages, keeps market state, and produces updates.
//!
//! One Betfair market becomes one event. The event id is the market id; its single market is named
//! after the `marketType`.

mod changes;
pub mod decoder;
pub mod definition;
mod image_requests;
pub mod ladder;
pub mod market;
mod markets;
mod requests;
mod segments;
mod status;
pub mod wire;

#[cfg(test)]
mod tests;

pub use decoder::BetfairDecoder;
