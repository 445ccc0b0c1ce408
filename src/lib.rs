//! A real-time sports-betting platform on actix actors.
//!
//! Suppliers stream odds; feeds normalise them onto a bus; one book per event keeps them in order;
//! the store keeps the current state and the history; a registry delivers every change to the
//! subscribed clients. Wallets, bets and their confirmation build on top of this. `ARCHITECTURE.md`
//! gives an overview; all components are wired together in [`platform`].

#![warn(unreachable_pub)]

pub mod access;
pub mod actors;
pub mod bus;
pub mod cache;
pub mod cli;
pub mod config;
pub mod domain;
mod grpc;
pub mod http;
pub mod platform;
pub mod runtime;
pub mod services;
pub mod simulator;
pub mod store;
pub mod supplier;
pub mod telemetry;
#[cfg(test)]
mod testing;
