//! The channels of a deployment and their messages.
//!
//! Redis channels are not scoped to a database number, so two deployments on one server share every
//! channel with the same name.
//! - `{channel}:{deployment}` carries our broadcasts, and `{channel}:{deployment}:alive` our
//!   heartbeats.
//! - `{channel}` and `{channel}:alive` carry them too, for the original's services and earlier
//!   versions of ours, unless `REDIS_ORIGINAL_CHANNEL` is false. Messages that those publish there
//!   have no deployment name and are accepted.
//!
//! A heartbeat is `{"deployment":…,"processor":…,"sources":{"a":{"state":"live","at":…}}}`. Those of
//! earlier versions have no `sources`.
//!
//! Each of our messages names its deployment. A message that names another deployment is rejected
//! on every channel.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::domain::ids::Source;
use crate::domain::odds::source_status::SourceStatus;

/// The payload of a heartbeat.
#[derive(Serialize)]
struct HeartbeatPayload<'a> {
    deployment: &'a str,
    processor: &'a str,
    sources: &'a BTreeMap<Source, SourceStatus>,
}

/// The channels of a deployment.
#[derive(Clone, Debug)]
pub(super) struct Channels {
    pub deployment: String,
    /// The channel of our broadcasts.
    pub own: String,
    /// The channel of our heartbeats.
    pub own_alive: String,
    /// If the original's channel is used: the channel of the original's broadcasts and copies of
    /// ours, and the channel of heartbeats from earlier versions.
    pub original: Option<(String, String)>,
    /// The suffix of each of our messages.
    pub ending: String,
}

impl Channels {
    /// The channels of `deployment`, prefixed with the configured channel name.
    pub(super) fn new(channel: &str, deployment: &str, uses_original: bool) -> Channels {
        let own = format!("{channel}:{deployment}");
        Channels {
            own_alive: format!("{own}:alive"),
            own,
            original: uses_original.then(|| (channel.to_owned(), format!("{channel}:alive"))),
            ending: format!(r#","deployment":"{deployment}"}}"#),
            deployment: deployment.to_owned(),
        }
    }

    /// All channels to subscribe to.
    pub(super) fn all(&self) -> Vec<&str> {
        let original = self
            .original
            .iter()
            .flat_map(|(changes, alive)| [changes.as_str(), alive.as_str()]);
        [self.own.as_str(), self.own_alive.as_str()]
            .into_iter()
            .chain(original)
            .collect()
    }

    /// The payload of a heartbeat of this processor. It does not end with
    /// [`ending`](Channels::ending), which marks copies of broadcasts.
    pub(super) fn heartbeat(
        &self,
        processor: &str,
        sources: &BTreeMap<Source, SourceStatus>,
    ) -> Result<String, serde_json::Error> {
        serde_json::to_string(&HeartbeatPayload {
            deployment: &self.deployment,
            processor,
            sources,
        })
    }

    /// Whether a message is a copy of one on our own channel. It is not parsed: the deployment is
    /// the last field of the object.
    pub(super) fn is_copy(&self, channel: &[u8], message: &[u8]) -> bool {
        channel != self.own.as_bytes() && message.ends_with(self.ending.as_bytes())
    }
}
