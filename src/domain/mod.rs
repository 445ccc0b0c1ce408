//! The pure core: what an update, a book, a session, a ledger and a bet are, and how they change.
//!
//! Knows no actor, socket, clock or SQL. Time is given in; effects are given back.

pub mod backoff;
pub mod bet;
pub mod bet_events;
pub mod book;
pub mod breaker;
pub mod dead_letter;
pub mod fanout;
pub mod ids;
pub mod json;
pub mod ledger;
pub mod money;
pub mod plausible;
pub mod price;
pub mod protocol;
pub mod session;
pub mod status;
pub mod timestamp;
pub mod unknown;
pub mod update;
pub mod validity;
pub mod words;
