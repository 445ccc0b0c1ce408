//! The Betfair Exchange Stream: decodes messages, keeps market state, and produces updates.
//!
//! One Betfair market becomes one event. The event id is the market id; its single market is named
//! after the `marketType`.

mod changes;
pub(crate) mod decoder;
pub(crate) mod definition;
mod image_requests;
pub(crate) mod ladder;
pub(crate) mod market;
mod markets;
mod requests;
mod result_terms;
mod results;
mod segments;
mod status;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

pub(crate) use decoder::BetfairDecoder;
pub(crate) use results::AMBIGUOUS;

use crate::domain::ids::Source;

/// The source of all markets of the stream.
fn source() -> Option<Source> {
    Source::new("betfair").ok()
}
