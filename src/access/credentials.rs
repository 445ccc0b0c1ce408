//! API keys and revocations in memory, as they were last read from the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::InvalidCredential;
use super::api_key::{self, KeyHash};
use crate::domain::access::{Caller, Revocations};
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::runtime::health::HealthCell;
use crate::store::access::{AccessRecords, StoredApiKey};

/// Revocations of users are numbered when they are made, and visible when they are committed. So
/// many numbers before the last known one are read again, because one may have been committed late.
const LATE_REVOCATIONS: i64 = 1_000;

/// API keys and revocations. Until they were read, nothing is accepted.
#[derive(Debug)]
pub(crate) struct KnownCredentials {
    /// Replaced as a whole, so that nobody waits while it is built.
    state: RwLock<Option<Arc<State>>>,
    /// When keys were last used, since the last [`KnownCredentials::take_uses`].
    uses: Mutex<BTreeMap<i64, Timestamp>>,
    reads: HealthCell,
}

#[derive(Debug, Default)]
struct State {
    keys: HashMap<KeyHash, StoredApiKey>,
    revocations: Arc<Revocations>,
    /// The number of the last revocation of a user.
    last_revocation: i64,
}

impl Default for KnownCredentials {
    fn default() -> KnownCredentials {
        KnownCredentials {
            state: RwLock::default(),
            uses: Mutex::default(),
            reads: HealthCell::new(
                "API keys and revocations cannot be read; those last read stay in force",
            ),
        }
    }
}

impl KnownCredentials {
    /// The result of the last read from the database.
    pub(crate) fn reads(&self) -> &HealthCell {
        &self.reads
    }

    /// What is wrong.
    pub(crate) fn problem(&self) -> Option<String> {
        let is_loaded = self.state.read().is_some();
        let unknown = || "API keys and revocations have not been read yet".to_owned();
        let problem = self.reads.problem();
        problem.or_else(|| (!is_loaded).then(unknown))
    }

    /// After which number revocations of users have to be read; earlier ones are known.
    pub(crate) fn known_revocation(&self) -> i64 {
        let state = self.state.read();
        let last = state.as_ref().map_or(0, |state| state.last_revocation);
        last.saturating_sub(LATE_REVOCATIONS).max(0)
    }

    /// Replaces the keys, and adds the revocations of users that were read: none is ever withdrawn.
    pub(crate) fn update(&self, records: AccessRecords) {
        let known = self.state.read().clone().unwrap_or_default();
        let updated = Arc::new(known.updated(records));
        let _outdated = self.state.write().replace(updated);
    }

    /// What is revoked; `None` before the first read. The same allocation as before if nothing has
    /// changed.
    pub(crate) fn known_revocations(&self) -> Option<Arc<Revocations>> {
        let state = self.state.read();
        state.as_ref().map(|state| state.revocations.clone())
    }

    /// What is revoked.
    pub(crate) fn revocations(&self) -> Arc<Revocations> {
        self.known_revocations().unwrap_or_default()
    }

    /// Checks that a caller's credential is not revoked.
    pub(super) fn check(&self, caller: &Caller) -> Result<(), InvalidCredential> {
        match &*self.state.read() {
            None => Err(InvalidCredential::NotLoaded),
            Some(state) if state.revocations.concern(caller) => {
                Err(InvalidCredential::RevokedToken)
            }
            Some(_) => Ok(()),
        }
    }

    /// The service with this API key. Records the use.
    pub(super) fn service(&self, key: &str, now: Timestamp) -> Result<Caller, InvalidCredential> {
        let hash = api_key::hash_of(key).ok_or(InvalidCredential::MistypedKey)?;
        let (id, caller) = {
            let state = self.state.read();
            let state = state.as_ref().ok_or(InvalidCredential::NotLoaded)?;
            let key = state.keys.get(&hash);
            let key = key.ok_or(InvalidCredential::UnknownApiKey)?;
            (key.id, service(key, now)?)
        };
        self.uses.lock().insert(id, now);
        Ok(caller)
    }

    /// When keys were used since the last call.
    pub(crate) fn take_uses(&self) -> Vec<(i64, Timestamp)> {
        std::mem::take(&mut *self.uses.lock()).into_iter().collect()
    }
}

impl State {
    fn updated(&self, records: AccessRecords) -> State {
        let AccessRecords {
            keys,
            users,
            last_revocation,
        } = records;
        let revoked = keys.iter().filter(|key| key.revoked.is_some());
        let revoked: BTreeSet<_> = revoked.map(|key| key.id.to_string()).collect();
        let known = &self.revocations;
        let is_new = |(user, until): &(UserId, Timestamp)| {
            known.users.get(user).is_none_or(|known| known < until)
        };
        let users: Vec<_> = users.into_iter().filter(is_new).collect();
        let mut revocations = known.clone();
        if known.keys != revoked || !users.is_empty() {
            let changed = Arc::make_mut(&mut revocations);
            changed.keys = revoked;
            changed.users.extend(users);
        }
        State {
            keys: keys
                .into_iter()
                .map(|key| (KeyHash(key.hash), key))
                .collect(),
            revocations,
            last_revocation: last_revocation.max(self.last_revocation),
        }
    }
}

fn service(key: &StoredApiKey, now: Timestamp) -> Result<Caller, InvalidCredential> {
    if key.revoked.is_some() {
        return Err(InvalidCredential::RevokedKey);
    }
    if !key.is_valid(now) {
        return Err(InvalidCredential::ExpiredKey);
    }
    Ok(Caller::Service {
        key: key.id.to_string(),
        scopes: key.scopes.clone(),
        expires_at: key.expires_at,
    })
}
