//! Ingest: from suppliers to the bus.

pub(crate) mod bus_publisher;
pub(crate) mod local_feeds;
pub(crate) mod messages;
pub(crate) mod other_reporters;
pub(crate) mod source_reporter;
pub(crate) mod supplier_feed;
