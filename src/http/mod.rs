//! The HTTP servers and their handlers, one module per resource.

pub mod addresses;
pub mod bets;
pub mod body;
pub mod connections;
pub mod content;
pub mod errors;
pub mod health;
pub mod idempotency;
pub mod latency;
pub mod odds;
pub mod origin;
pub mod query;
mod routes;
pub mod server;
mod stream;
pub mod streaming;
pub mod wallet;
