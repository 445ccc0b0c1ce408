//! Settlement: the results of markets, and what each bet is owed by them.
//!
//! The state of a bet follows from the set of records of its market: not from their order, and not
//! from how often they arrive. A bet is paid the difference between what it is owed and what it has
//! had.

pub mod effective;
pub mod market_results;
pub mod operator;
pub mod payout;
pub mod plan;
pub mod postings;
pub mod record;
pub mod reductions;
pub mod shown;
pub mod trust;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
