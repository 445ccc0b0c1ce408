//! The pure core: updates, books, sessions, the ledger and bets, and how they change.
//!
//! It uses no actor, socket, clock or SQL: time is passed in, effects are returned.

pub mod access;
pub mod bets;
pub mod dead_letter;
pub mod ids;
pub(crate) mod json;
pub mod odds;
pub mod settlement;
pub mod streaming;
pub mod timestamp;
pub mod trace_parent;
pub(crate) mod unknown_variant;
pub(crate) mod wallet;
