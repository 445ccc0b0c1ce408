//! The Betfair Exchange Stream: messages in, markets kept, updates out.
//!
//! One Betfair market becomes one event whose id is the market id, with one market named after its
//! `marketType`.

mod changes;
pub mod decoder;
pub mod definition;
pub mod ladder;
pub mod market;
mod segments;
pub mod wire;

#[cfg(test)]
mod tests;

pub use decoder::BetfairDecoder;
