//! Messages between the bet actors.

use actix::prelude::*;

use crate::store::money::OutboxRow;

/// To the outbox relay, after a commit: rows that this process publishes. If the mailbox is full,
/// the rows are published a little later, when the relay queries the outbox.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PublishOutbox(pub Vec<OutboxRow>);

/// To the canceller, after a bet timed out: there is a bet to cancel.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct CancelsWait;
