//! Orderly shutdown of a consumer.

use actix::prelude::*;

/// To a consumer: finish work that would be lost with the process, read nothing more, leave the
/// group, and reply.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Drain;
