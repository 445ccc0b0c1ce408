//! The pure core: what an update, a book, a session, a ledger and a bet are, and how they change.
//!
//! Knows no actor, socket, clock or SQL. Time is passed in; effects are returned.

pub mod bets;
pub mod dead_letter;
pub mod ids;
pub mod json;
pub mod odds;
pub mod streaming;
pub mod string_enum;
pub mod timestamp;
pub mod wallet;
