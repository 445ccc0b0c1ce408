//! Keeps API keys and revocations in memory.

pub(crate) mod credential_poller;
pub(crate) mod messages;
