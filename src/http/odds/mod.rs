//! Odds over REST.

pub(crate) mod events;
pub(crate) mod response_cache;
pub(crate) mod results;
pub mod routes;
pub mod state;
