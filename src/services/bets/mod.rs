//! Bets: their placement and queries.

pub(crate) mod placement;
pub(crate) mod prices;
pub(crate) mod queries;
