//! Client sessions: their protocol, their state and the fan-out of changes.

mod by_event;
pub mod conflation_step;
pub mod credential_watch;
pub mod drain_plan;
pub mod epoch;
pub mod fanout;
pub mod heartbeats;
pub mod protocol;
pub mod session;
pub mod shown_at;

#[cfg(test)]
mod tests;
