//! The actors: shells that move messages. What they do is decided in [`crate::domain`].
//!
//! One file, one actor. Edges between actors are `Recipient`s handed in when an actor is made.

pub mod applying;
pub mod bet_sweeper;
pub mod book_router;
pub mod book_source;
pub mod broadcast_listener;
pub mod bus_consumer;
pub mod bus_publisher;
pub mod cache_writer;
pub mod canceller;
pub mod client_reads;
pub mod clock;
pub mod confirmer;
pub mod decider;
pub mod distributor;
pub mod feed_state;
pub mod guarded_supplier;
pub mod heartbeat;
pub mod ledger_keeper;
pub mod messages;
pub mod odds_book;
mod outbox;
pub mod outbox_relay;
pub mod outlet;
pub mod registry;
pub mod session;
pub mod store_writer;
pub mod supplier_feed;
#[cfg(test)]
mod testing;
pub mod trouble;
