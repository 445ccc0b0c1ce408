//! Reads the messages of the channels.

use serde::Deserialize;

use super::channels::Channels;
use super::wire::Envelope;
use crate::cache::Broadcast;
use crate::domain::ids::EventId;
use crate::domain::odds::plausible::{Implausible, Plausibility};
use crate::domain::timestamp::Timestamp;

/// The maximum logged length of a foreign deployment name.
const MAX_NAME: usize = 80;

/// A message of one of the channels.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// A change.
    Change(Box<Broadcast>),
    /// A processor follows the bus; it belongs to our deployment or names no deployment.
    Alive {
        /// Whether it belongs to our deployment.
        is_own: bool,
    },
    /// A copy of a message on our own channel.
    Copy,
    /// A message that cannot be parsed.
    Unreadable(String),
    /// A message with an implausible time or number.
    Implausible(EventId, Implausible),
    /// A message of another deployment, or without a name on a channel of ours.
    Stranger(String),
}

/// The deployment name of a message, if it has one.
#[derive(Default, Deserialize)]
struct Named<'a> {
    #[serde(default, borrow)]
    deployment: Option<std::borrow::Cow<'a, str>>,
}

impl Channels {
    /// Reads a message from `channel`.
    pub(super) fn read(
        &self,
        channel: &str,
        message: &[u8],
        limits: Plausibility,
        now: Timestamp,
    ) -> Incoming {
        let is_own = channel == self.own || channel == self.own_alive;
        let is_alive = channel == self.own_alive
            || self
                .original
                .as_ref()
                .is_some_and(|(_, alive)| channel == alive);
        if is_alive {
            // Earlier versions send arbitrary payloads.
            let named = serde_json::from_slice::<Named<'_>>(message)
                .unwrap_or_default()
                .deployment;
            return self
                .classify_sender(named.as_deref(), is_own)
                .unwrap_or(Incoming::Alive { is_own });
        }
        let broadcast = match Envelope::open(message) {
            Ok(envelope) => match self.classify_sender(envelope.deployment.as_deref(), is_own) {
                Some(refused) => return refused,
                None => envelope.read(),
            },
            Err(problem) => Err(problem),
        };
        match broadcast {
            Ok(broadcast) => {
                match limits.check(broadcast.update.revision.updated_at, broadcast.seq, now) {
                    Ok(()) => Incoming::Change(Box::new(broadcast)),
                    Err(why) => Incoming::Implausible(broadcast.update.event_id, why),
                }
            }
            Err(problem) => Incoming::Unreadable(problem),
        }
    }

    /// How to treat a message with this deployment name; `None` if its content counts.
    fn classify_sender(&self, named: Option<&str>, is_own: bool) -> Option<Incoming> {
        match named {
            Some(name) if name == self.deployment && is_own => None,
            Some(name) if name == self.deployment => Some(Incoming::Copy),
            None if !is_own => None,
            named => Some(Incoming::Stranger(
                named.unwrap_or_default().chars().take(MAX_NAME).collect(),
            )),
        }
    }
}

#[cfg(test)]
mod tests;
