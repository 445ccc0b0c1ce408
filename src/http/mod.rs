//! The HTTP side: one file a resource.

pub mod connection;
pub mod errors;
pub mod frame_guard;
pub mod health;
pub mod odds;
pub mod query;
pub mod routes;
pub mod server;
pub mod state;
pub mod ws;
