//! Bets, from placement to decision: the outbox, the supplier's confirmation, and cancellation.

pub(crate) mod bet_consumer;
pub(crate) mod canceller;
pub(crate) mod confirmation;
pub(crate) mod decision;
pub(crate) mod messages;
pub(crate) mod outbox_relay;
pub(crate) mod overdue_sweeper;
pub(crate) mod supplier_client;
