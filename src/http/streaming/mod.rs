//! Odds over WebSocket.

pub mod frame_limit;
pub(crate) mod handshake;
pub(crate) mod websocket;
