//! API keys, and users whose tokens are revoked. Commands write them, and processes with a public
//! port read them all.

use std::collections::BTreeMap;

use super::StoreError;
use crate::domain::access::Scopes;
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;

/// Who did something to a key, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyStep {
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub by: String,
}

/// A request to create an API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiKeyOrder {
    /// The SHA-256 of the key. A repeated request creates one key.
    pub hash: [u8; 32],
    /// The beginning of the key, for display.
    pub prefix: String,
    /// Its rights.
    pub scopes: Scopes,
    /// What it is for.
    pub note: String,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// Who creates it, and when.
    pub created: KeyStep,
}

/// A stored API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredApiKey {
    /// Its number.
    pub id: i64,
    /// The SHA-256 of the key.
    pub hash: [u8; 32],
    /// The beginning of the key, for display.
    pub prefix: String,
    /// Its rights. Those that this version does not know are left out.
    pub scopes: Scopes,
    /// What it is for.
    pub note: String,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// Who created it, and when.
    pub created: KeyStep,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// Who revoked it, and when.
    pub revoked: Option<KeyStep>,
}

/// The result of revoking a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RevokedKey {
    /// It was revoked by this request.
    Now(StoredApiKey),
    /// It was revoked before.
    Before(StoredApiKey),
    /// There is no such key.
    Unknown,
}

/// What processes check credentials against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AccessRecords {
    /// All keys, also revoked and expired ones, in the order of their numbers.
    pub keys: Vec<StoredApiKey>,
    /// The users whose tokens are revoked if they were issued before this time, as far as they were
    /// asked for.
    pub users: BTreeMap<UserId, Timestamp>,
    /// The largest number of these revocations; 0 if there is none.
    pub last_revocation: i64,
}

/// Stores API keys and revocations. Each key that is created or revoked is recorded in an audit that
/// the database never changes.
pub(crate) trait AccessStore: Send + Sync {
    /// Creates a key and returns its number. Safe to repeat.
    fn create_key(&self, order: &ApiKeyOrder) -> Result<i64, StoreError>;

    /// Revokes a key. Safe to repeat.
    fn revoke_key(&self, id: i64, step: &KeyStep) -> Result<RevokedKey, StoreError>;

    /// Revokes the tokens of a user that were issued before `step.at`. Safe to repeat.
    fn revoke_user(&self, user: &UserId, step: &KeyStep) -> Result<(), StoreError>;

    /// All keys, and the revocations of users with a number above `after`. They are numbered from 1
    /// in the order in which they are made, but may become visible in another.
    fn access_records(&self, after: i64) -> Result<AccessRecords, StoreError>;

    /// Records when keys were last used. A time that is older than the stored one changes nothing.
    fn record_key_uses(&self, uses: &[(i64, Timestamp)]) -> Result<(), StoreError>;
}

impl StoredApiKey {
    /// Whether the key is neither revoked nor expired.
    pub(crate) fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

impl RevokedKey {
    /// The result for a stored key, after an attempt to revoke it in this step.
    pub(super) fn of(stored: Option<StoredApiKey>, step: &KeyStep) -> RevokedKey {
        match stored {
            None => RevokedKey::Unknown,
            Some(key) if key.revoked.as_ref() == Some(step) => RevokedKey::Now(key),
            Some(key) => RevokedKey::Before(key),
        }
    }
}
