//! A real-time sports-betting platform on actix actors.
//!
//! Suppliers stream odds; feeds normalise them onto a bus; one book per event keeps them in order; the store keeps the
//! current state and the history; a registry fans every change out to the clients that subscribed. Wallets, bets and their
//! confirmation stand on top. `ARCHITECTURE.md` is the map; [`platform`] is the one place that wires.

pub mod actors;
pub mod address;
pub mod bus;
pub mod cache;
pub mod cli;
pub mod config;
pub mod dlq;
pub mod domain;
pub mod http;
pub mod ledger;
pub mod limited_logger;
pub mod log_limit;
pub mod logging;
pub mod metrics;
pub mod migrate;
pub mod platform;
pub mod redact;
pub mod replay;
pub mod serve;
pub mod simulator;
pub mod store;
pub mod supplier;
pub mod watch;
