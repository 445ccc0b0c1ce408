//! Reads the messages of the channels.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::channels::Channels;
use super::wire::Envelope;
use crate::cache::{Broadcast, SourceView};
use crate::domain::ids::{EventId, Source};
use crate::domain::json::{self, Object};
use crate::domain::odds::plausible::{Implausible, Plausibility};
use crate::domain::odds::source_status::{MAX_SOURCES, SourceStatus};
use crate::domain::timestamp::Timestamp;

/// The maximum logged length of a foreign deployment name.
const MAX_NAME: usize = 80;
/// The maximum length of the part of a heartbeat that has the sources. A thousand with names of
/// usual length fit.
const MAX_SOURCES_BYTES: usize = 256 * 1024;
/// The maximum length of a processor's name.
const MAX_PROCESSOR: usize = 64;

/// A message of one of the channels.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// A change.
    Change(Box<Broadcast>),
    /// A processor follows the bus; it belongs to our deployment or names no deployment.
    Alive {
        /// Whether it belongs to our deployment.
        is_own: bool,
        /// What it says about the sources, if it belongs to our deployment; or why that
        /// cannot be parsed.
        view: Result<Option<SourceView>, String>,
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

/// The parts of a heartbeat. Those of earlier versions have none, or only the deployment.
#[derive(Default, Deserialize)]
struct Heartbeat<'a> {
    #[serde(default, borrow)]
    deployment: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    processor: Option<&'a RawValue>,
    #[serde(default, borrow)]
    sources: Option<&'a RawValue>,
}

impl Heartbeat<'_> {
    /// What it says about the sources; `None` if it says nothing about them.
    fn view(&self) -> Result<Option<SourceView>, String> {
        let (Some(processor), Some(sources)) = (self.processor, self.sources) else {
            return Ok(None);
        };
        if sources.get().len() > MAX_SOURCES_BYTES {
            return Err("a heartbeat with too many sources".to_owned());
        }
        let wrong = |error: serde_json::Error| format!("a heartbeat: {error}");
        let processor: String = serde_json::from_str(processor.get()).map_err(wrong)?;
        let sources: BTreeMap<Source, Object<SourceStatus>> =
            json::from_str(sources.get()).map_err(wrong)?;
        if processor.len() > MAX_PROCESSOR || sources.len() > MAX_SOURCES {
            return Err("a heartbeat with too many sources or a long name".to_owned());
        }
        let statuses = sources.into_iter();
        Ok(Some(SourceView {
            processor,
            sources: statuses
                .map(|(source, Object(status))| (source, status))
                .collect(),
        }))
    }
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
            let heartbeat = serde_json::from_slice::<Heartbeat<'_>>(message).unwrap_or_default();
            let refused = self.classify_sender(heartbeat.deployment.as_deref(), is_own);
            return refused.unwrap_or_else(|| Incoming::Alive {
                is_own,
                view: if is_own { heartbeat.view() } else { Ok(None) },
            });
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
