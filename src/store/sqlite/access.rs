//! API keys and revoked users.

use diesel::dsl::max;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::SqliteStore;
use super::schema::{api_keys, revoked_users};
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::access::{
    AccessRecords, AccessStore, ApiKeyOrder, KeyStep, RevokedKey, StoredApiKey,
};
use crate::store::failure::Failure;
use crate::store::rows::access::{ApiKeyRow, records};

impl AccessStore for SqliteStore {
    fn create_key(&self, order: &ApiKeyOrder) -> Result<i64, StoreError> {
        self.connections
            .write(|connection| create(connection, order))
    }

    fn revoke_key(&self, id: i64, step: &KeyStep) -> Result<RevokedKey, StoreError> {
        self.connections.write(|connection| {
            diesel::update(api_keys::table.find(id))
                .filter(api_keys::revoked_at.is_null())
                .set((
                    api_keys::revoked_at.eq(step.at.micros()),
                    api_keys::revoked_by.eq(&step.by),
                ))
                .execute(connection)?;
            Ok(RevokedKey::of(find(connection, id)?, step))
        })
    }

    fn revoke_user(&self, user: &UserId, step: &KeyStep) -> Result<(), StoreError> {
        self.connections.write(|connection| {
            diesel::insert_into(revoked_users::table)
                .values((
                    revoked_users::user_id.eq(user.as_str()),
                    revoked_users::issued_before.eq(step.at.micros()),
                    revoked_users::revoked_by.eq(&step.by),
                ))
                .execute(connection)?;
            Ok(())
        })
    }

    fn access_records(&self, after: i64) -> Result<AccessRecords, StoreError> {
        self.read(|connection| {
            let keys = api_keys::table
                .order(api_keys::id)
                .select(ApiKeyRow::as_select())
                .load(connection)?;
            let (until, number) = (max(revoked_users::issued_before), max(revoked_users::id));
            let users = revoked_users::table
                .filter(revoked_users::id.gt(after))
                .group_by(revoked_users::user_id)
                .select((
                    revoked_users::user_id,
                    until.assume_not_null(),
                    number.assume_not_null(),
                ))
                .load(connection)?;
            records(keys, users)
        })
    }

    fn record_key_uses(&self, uses: &[(i64, Timestamp)]) -> Result<(), StoreError> {
        self.connections.write(|connection| {
            for (id, at) in uses {
                let last = api_keys::last_used_at;
                diesel::update(api_keys::table.find(id))
                    .filter(last.is_null().or(last.lt(at.micros())))
                    .set(last.eq(at.micros()))
                    .execute(connection)?;
            }
            Ok(())
        })
    }
}

fn create(connection: &mut SqliteConnection, order: &ApiKeyOrder) -> Result<i64, Failure> {
    diesel::insert_into(api_keys::table)
        .values((
            api_keys::hash.eq(&order.hash[..]),
            api_keys::prefix.eq(&order.prefix),
            api_keys::scopes.eq(order.scopes.to_string()),
            api_keys::note.eq(&order.note),
            api_keys::expires_at.eq(order.expires_at.map(Timestamp::micros)),
            api_keys::created_by.eq(&order.created.by),
            api_keys::created_at.eq(order.created.at.micros()),
        ))
        .on_conflict(api_keys::hash)
        .do_nothing()
        .execute(connection)?;
    Ok(api_keys::table
        .filter(api_keys::hash.eq(&order.hash[..]))
        .select(api_keys::id)
        .first(connection)?)
}

fn find(connection: &mut SqliteConnection, id: i64) -> Result<Option<StoredApiKey>, Failure> {
    let row = api_keys::table
        .find(id)
        .select(ApiKeyRow::as_select())
        .first(connection)
        .optional()?;
    Ok(row.map(ApiKeyRow::read).transpose()?)
}
