//! Bets: their placement and queries.

pub mod placement;
pub mod prices;
pub mod queries;
