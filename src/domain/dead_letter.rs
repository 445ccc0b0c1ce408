//! What could not be read, kept as it came.

use bytes::Bytes;

use super::timestamp::Timestamp;

/// Bytes that could not be read as an update, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// When they came.
    pub received_at: Timestamp,
    /// Where they came from: a supplier's address without credentials, or `topic/partition/offset`.
    pub origin: String,
    /// A word for the kind of fault, as `malformed`.
    pub reason: String,
    /// What was wrong, for people.
    pub detail: String,
    /// The bytes.
    pub raw: Bytes,
}
