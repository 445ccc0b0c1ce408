//! The HTTP side: one file a resource.

pub mod bets;
pub mod body;
pub mod connection;
pub mod desk;
pub mod errors;
pub mod frame_guard;
pub mod health;
pub mod latency;
mod money_routes;
pub mod odds;
pub mod query;
pub mod ready;
pub mod routes;
pub mod server;
pub mod state;
pub mod wallet;
pub mod ws;
