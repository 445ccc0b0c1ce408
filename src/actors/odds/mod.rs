//! The odds pipeline: from the bus to the odds books, the cache and the database.

pub mod book_router;
pub mod book_source;
pub mod broadcast_listener;
pub mod cache_writer;
pub mod client_reads;
pub mod consumers;
mod feed_tracker;
pub mod heartbeat;
pub mod messages;
pub mod odds_book;
pub mod store_writer;
mod write_rounds;
