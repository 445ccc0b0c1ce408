//! Client sessions: their protocol, their state and the fan-out of changes.

pub mod fanout;
pub mod protocol;
pub mod session;
