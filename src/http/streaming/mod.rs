//! Odds over WebSocket.

pub mod frame_limit;
pub mod handshake;
pub mod websocket;
