//! The HTTP side: one file a resource.

pub mod addresses;
pub mod bets;
pub mod body;
pub mod connection;
pub mod connections;
pub mod content;
pub mod desk;
pub mod errors;
pub mod frame_guard;
pub mod handshake;
pub mod health;
pub mod idempotency;
pub mod latency;
mod money_routes;
pub mod odds;
pub mod origin;
pub mod query;
pub mod ready;
pub mod routes;
pub mod server;
pub mod state;
mod stream;
pub mod wallet;
pub mod ws;
