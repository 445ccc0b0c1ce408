//! Messages between the actors of settlement.

use actix::prelude::*;

/// Results were stored, so markets are due.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ResultsStored;
