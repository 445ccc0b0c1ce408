//! The actors that store results and pay bets by them.

pub(crate) mod market_settler;
pub(crate) mod messages;
pub(crate) mod result_consumer;
pub(crate) mod settings;
pub(crate) mod settler;
#[cfg(test)]
pub(crate) mod testing;
