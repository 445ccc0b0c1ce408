//! Rows of API keys and of revoked users.

use std::collections::BTreeMap;

use diesel::{Queryable, Selectable};

use super::{Time, parsed, read_all, unreadable};
use crate::domain::access::Scopes;
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::access::{AccessRecords, KeyStep, StoredApiKey};
use crate::store::failure::Failure;
use crate::store::sqlite::schema::api_keys;

/// An API key.
#[derive(Queryable, Selectable)]
#[diesel(table_name = api_keys)]
pub(in crate::store) struct ApiKeyRow {
    id: i64,
    hash: Vec<u8>,
    prefix: String,
    scopes: String,
    note: String,
    expires_at: Option<Time>,
    created_by: String,
    created_at: Time,
    last_used_at: Option<Time>,
    revoked_by: Option<String>,
    revoked_at: Option<Time>,
}

impl ApiKeyRow {
    pub(in crate::store) fn read(self) -> Result<StoredApiKey, StoreError> {
        let hash = self.hash.try_into();
        let revoked = self.revoked_at.zip(self.revoked_by);
        Ok(StoredApiKey {
            id: self.id,
            hash: hash.map_err(|_| unreadable("hash of key", self.id))?,
            prefix: self.prefix,
            scopes: Scopes::of_token(&self.scopes),
            note: self.note,
            expires_at: self.expires_at.map(|time| time.0),
            created: KeyStep {
                at: self.created_at.0,
                by: self.created_by,
            },
            last_used_at: self.last_used_at.map(|time| time.0),
            revoked: revoked.map(|(at, by)| KeyStep { at: at.0, by }),
        })
    }
}

/// A user whose tokens are revoked.
#[derive(Queryable)]
pub(in crate::store) struct RevokedUserRow {
    user_id: String,
    issued_before: Time,
    last_revocation: i64,
}

impl RevokedUserRow {
    fn read(self) -> Result<(UserId, Timestamp), StoreError> {
        Ok((parsed("user_id", &self.user_id)?, self.issued_before.0))
    }
}

/// The records of these rows.
pub(in crate::store) fn records(
    keys: Vec<ApiKeyRow>,
    users: Vec<RevokedUserRow>,
) -> Result<AccessRecords, Failure> {
    let last_revocation = users.iter().map(|row| row.last_revocation).max();
    let users: Result<BTreeMap<_, _>, _> = users.into_iter().map(RevokedUserRow::read).collect();
    Ok(AccessRecords {
        keys: read_all::<_, _, Failure>(keys, ApiKeyRow::read)?,
        users: users?,
        last_revocation: last_revocation.unwrap_or(0),
    })
}
