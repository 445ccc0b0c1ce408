//! A real-time sports-betting platform on actix actors.
pub mod bus;
pub mod cache;
pub mod config;
pub mod domain;
pub mod metrics;
pub mod replay;
pub mod store;
pub mod supplier;
