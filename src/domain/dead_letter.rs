//! Messages that could not be read, kept unchanged.

use bytes::Bytes;

use super::timestamp::Timestamp;

/// Bytes that could not be read as an update, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// When they arrived.
    pub received_at: Timestamp,
    /// Where they came from: a supplier's address without credentials, or `topic/partition/offset`.
    pub origin: String,
    /// The kind of error, as a label such as `malformed`.
    pub reason: String,
    /// A readable description of the error.
    pub detail: String,
    /// The bytes.
    pub raw: Bytes,
}
