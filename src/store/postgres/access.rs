//! API keys and revoked users.

use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Nullable, Text, Timestamptz};

use super::PgStore;
use super::statement::statement;
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::access::{AccessRecords, AccessStore, ApiKeyOrder, KeyStep, RevokedKey};
use crate::store::rows::access::{ApiKeyRow, records};
use crate::store::rows::pg_time;

statement! {
    /// Creates a key, unless this request has created it.
    Create<'a>:
    "INSERT INTO api_keys (hash, prefix, scopes, note, expires_at, created_by, created_at)
    VALUES (" { hash: &'a [u8] as Binary } ", " { prefix: &'a str as Text } ", " { scopes: &'a str as Text } ", "
        { note: &'a str as Text } ", " { expires_at: Option<PgTimestamp> as Nullable<Timestamptz> } ", "
        { by: &'a str as Text } ", " { at: PgTimestamp as Timestamptz } ")
    ON CONFLICT (hash) DO NOTHING"
}

statement! {
    /// The number of the key with a hash.
    IdOf<'a> returns (BigInt):
    "SELECT id FROM api_keys WHERE hash = " { hash: &'a [u8] as Binary } ""
}

statement! {
    /// Revokes a key, unless it is revoked.
    Revoke<'a>:
    "UPDATE api_keys SET revoked_at = " { at: PgTimestamp as Timestamptz } ", revoked_by = " { by: &'a str as Text }
    " WHERE revoked_at IS NULL AND id = " { id: i64 as BigInt } ""
}

statement! {
    /// A key.
    Find returns (BigInt, Binary, Text, Text, Text, Nullable<Timestamptz>, Text, Timestamptz, Nullable<Timestamptz>,
        Nullable<Text>, Nullable<Timestamptz>):
    "SELECT id, hash, prefix, scopes, note, expires_at, created_by, created_at, last_used_at, revoked_by, revoked_at
    FROM api_keys WHERE id = " { id: i64 as BigInt } ""
}

statement! {
    /// All keys.
    AllKeys returns (BigInt, Binary, Text, Text, Text, Nullable<Timestamptz>, Text, Timestamptz, Nullable<Timestamptz>,
        Nullable<Text>, Nullable<Timestamptz>):
    "SELECT id, hash, prefix, scopes, note, expires_at, created_by, created_at, last_used_at, revoked_by, revoked_at
    FROM api_keys ORDER BY id"
}

statement! {
    /// Revokes the tokens of a user.
    RevokeUser<'a>:
    "INSERT INTO revoked_users (user_id, issued_before, revoked_by)
    VALUES (" { user_id: &'a str as Text } ", " { at: PgTimestamp as Timestamptz } ", " { by: &'a str as Text } ")"
}

statement! {
    /// The users with revocations above a number: the latest time, and the last number.
    RevokedUsers returns (Text, Timestamptz, BigInt):
    "SELECT user_id, max(issued_before), max(id) FROM revoked_users WHERE id > " { after: i64 as BigInt } " GROUP BY user_id"
}

statement! {
    /// Records the use of a key.
    RecordUse:
    "UPDATE api_keys SET last_used_at = " { at: PgTimestamp as Timestamptz } "
    WHERE id = " { id: i64 as BigInt } " AND (last_used_at IS NULL OR last_used_at < " { than: PgTimestamp as Timestamptz } ")"
}

impl AccessStore for PgStore {
    fn create_key(&self, order: &ApiKeyOrder) -> Result<i64, StoreError> {
        let scopes = order.scopes.to_string();
        let create = Create {
            hash: &order.hash,
            prefix: &order.prefix,
            scopes: &scopes,
            note: &order.note,
            expires_at: order.expires_at.map(pg_time),
            by: &order.created.by,
            at: pg_time(order.created.at),
        };
        self.writers()?.transaction(|connection| {
            create.execute(connection)?;
            let hash = &order.hash;
            let (id,) = IdOf { hash }.get_result::<(i64,)>(connection)?;
            Ok(id)
        })
    }

    fn revoke_key(&self, id: i64, step: &KeyStep) -> Result<RevokedKey, StoreError> {
        self.writers()?.transaction(|connection| {
            let revoke = Revoke {
                at: pg_time(step.at),
                by: &step.by,
                id,
            };
            revoke.execute(connection)?;
            let row = Find { id }.get_result::<ApiKeyRow>(connection).optional()?;
            Ok(RevokedKey::of(row.map(ApiKeyRow::read).transpose()?, step))
        })
    }

    fn revoke_user(&self, user: &UserId, step: &KeyStep) -> Result<(), StoreError> {
        let revoke = RevokeUser {
            user_id: user.as_str(),
            at: pg_time(step.at),
            by: &step.by,
        };
        self.writers()?.transaction(|connection| {
            revoke.execute(connection)?;
            Ok(())
        })
    }

    fn access_records(&self, after: i64) -> Result<AccessRecords, StoreError> {
        self.readers()?.run(|connection| {
            let keys = AllKeys {}.load(connection)?;
            let users = RevokedUsers { after }.load(connection)?;
            records(keys, users)
        })
    }

    fn record_key_uses(&self, uses: &[(i64, Timestamp)]) -> Result<(), StoreError> {
        self.writers()?.transaction(|connection| {
            for (id, at) in uses {
                let at = pg_time(*at);
                let record = RecordUse {
                    at,
                    id: *id,
                    than: at,
                };
                record.execute(connection)?;
            }
            Ok(())
        })
    }
}
