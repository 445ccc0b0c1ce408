//! The odds pipeline: from the bus to the odds books, the cache and the database.

pub(crate) mod book_router;
pub(crate) mod book_source;
pub(crate) mod broadcast_listener;
pub(crate) mod cache_writer;
pub mod client_reads;
pub(crate) mod consumers;
mod feed_tracker;
pub(crate) mod heartbeat;
pub(crate) mod hold_poller;
pub mod messages;
pub(crate) mod odds_book;
pub(crate) mod published_sources;
pub(crate) mod restriction_keeper;
pub(crate) mod source_monitor;
mod source_views;
pub(crate) mod store_writer;
mod update_records;
mod view_order;
mod write_rounds;
