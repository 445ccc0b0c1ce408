//! Ingest: from suppliers to the bus.

pub(crate) mod bus_publisher;
pub(crate) mod messages;
pub(crate) mod supplier_feed;
