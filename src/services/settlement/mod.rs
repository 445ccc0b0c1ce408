//! Settlement of the bets of a market.

pub(crate) mod market_settler;
