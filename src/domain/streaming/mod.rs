//! Client sessions: their protocol, their state and the fan-out to them.

pub mod fanout;
pub mod protocol;
pub mod session;
