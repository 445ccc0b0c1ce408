//! Messages between the actors of bets.

use actix::prelude::*;

use crate::store::money::OutboxRow;

/// Whoever committed a change to the outbox relay: rows that are this process's to publish. Where
/// they find no room they are published all the same, a little later: the relay looks into the
/// outbox.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PublishOutbox(pub Vec<OutboxRow>);

/// Whoever decided a bet for lack of an answer to the canceller: there is something to cancel.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct CancelsWait;
