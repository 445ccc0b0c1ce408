//! Bets, from placement to decision: the outbox, the supplier's confirmation, and cancellation.

pub mod bet_consumer;
pub mod canceller;
pub mod confirmation;
pub mod decision;
pub mod messages;
pub mod outbox_relay;
pub mod overdue_sweeper;
pub mod supplier_client;
