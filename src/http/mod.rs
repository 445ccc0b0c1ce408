//! The HTTP servers and their handlers, one module per resource.

pub mod addresses;
mod authorization;
pub mod bets;
pub(crate) mod body;
pub(crate) mod connections;
pub(crate) mod content;
pub mod documents;
pub(crate) mod errors;
pub(crate) mod health;
pub(crate) mod idempotency;
pub(crate) mod latency;
pub mod odds;
pub(crate) mod origin;
pub(crate) mod query;
mod revalidation;
mod routes;
pub mod server;
mod stream;
pub mod streaming;
pub mod wallet;
