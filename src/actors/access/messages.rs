//! Messages about credentials.

use std::sync::Arc;

use actix::prelude::*;

use crate::domain::access::Revocations;

/// What is revoked has changed. This is all that is revoked now, not the difference.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct RevocationsChanged(pub Arc<Revocations>);
