//! Ordered end of a consumer.

use actix::prelude::*;

/// To a consumer: finish what would be lost with the process, read nothing more, leave the group,
/// and answer.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Drain;
