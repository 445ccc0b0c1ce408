//! A real-time sports-betting platform on actix actors.
pub mod bus;
pub mod cache;
pub mod cli;
pub mod config;
pub mod domain;
pub mod logging;
pub mod metrics;
pub mod store;
