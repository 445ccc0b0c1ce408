//! The HTTP servers and their handlers, one module per resource.

pub mod addresses;
mod authorization;
pub mod bets;
pub(crate) mod body;
pub(crate) mod connections;
pub(crate) mod content;
mod cors;
mod error_response;
pub(crate) mod errors;
pub mod gateway;
mod headers;
pub(crate) mod health;
pub(crate) mod idempotency;
mod index;
pub(crate) mod latency;
pub mod limits;
pub mod odds;
pub(crate) mod origin;
pub mod pages;
pub(crate) mod query;
mod response;
mod routes;
pub mod server;
mod stream;
pub mod streaming;
pub mod wallet;
