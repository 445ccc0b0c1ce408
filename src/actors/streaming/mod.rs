//! Streaming: from changed books to the clients' WebSockets.

mod delivery_span;
pub mod distributor;
mod frame_queue;
pub mod messages;
pub mod registry;
pub mod session;
pub mod session_edges;
pub(crate) mod session_handle;
pub mod stream_end;
pub mod stream_session;
