//! A real-time sports-betting platform on actix actors.
pub mod actors;
pub mod bus;
pub mod cache;
pub mod config;
pub mod domain;
pub mod http;
pub mod metrics;
pub mod simulator;
pub mod store;
pub mod watch;
