//! Ingest: from suppliers to the bus.

pub mod bus_publisher;
pub mod messages;
pub mod supplier_feed;
