//! Odds over REST.

pub mod events;
pub mod response_cache;
pub mod routes;
pub mod state;
