//! API keys and revocations in memory, as they were last read from the database.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::InvalidCredential;
use super::api_key::{self, KeyHash};
use crate::domain::access::{Caller, Revocations};
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::runtime::health::HealthCell;
use crate::store::access::{AccessRecords, StoredApiKey};

/// API keys and revocations. Until they were read, nothing is accepted.
#[derive(Debug)]
pub(crate) struct KnownCredentials {
    state: RwLock<Option<State>>,
    /// When keys were last used, since the last [`KnownCredentials::take_uses`].
    uses: Mutex<BTreeMap<i64, Timestamp>>,
    reads: HealthCell,
}

#[derive(Debug)]
struct State {
    keys: HashMap<KeyHash, StoredApiKey>,
    users: BTreeMap<UserId, Timestamp>,
    revocations: Arc<Revocations>,
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

    /// Replaces everything with what was read.
    pub(crate) fn replace(&self, records: AccessRecords, now: Timestamp) {
        let AccessRecords { keys, users } = records;
        let keys = keys
            .into_iter()
            .map(|key| (KeyHash(key.hash), key))
            .collect();
        let mut state = self.state.write();
        let revocations = state.take().map(|old| old.revocations).unwrap_or_default();
        let mut new = State {
            keys,
            users,
            revocations,
        };
        new.refresh(now);
        *state = Some(new);
    }

    /// What is revoked at this time: keys also expire while nothing can be read. `None` before the
    /// first read. The same allocation as before if nothing has changed.
    pub(crate) fn refresh(&self, now: Timestamp) -> Option<Arc<Revocations>> {
        let mut state = self.state.write();
        let state = state.as_mut()?;
        state.refresh(now);
        Some(state.revocations.clone())
    }

    /// What is revoked.
    pub(crate) fn revocations(&self) -> Arc<Revocations> {
        let state = self.state.read();
        let known = state.as_ref().map(|state| state.revocations.clone());
        known.unwrap_or_default()
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
    fn refresh(&mut self, now: Timestamp) {
        let invalid = self.keys.values().filter(|key| !key.is_valid(now));
        let current = Revocations {
            users: self.users.clone(),
            keys: invalid.map(|key| key.id.to_string()).collect(),
        };
        if *self.revocations != current {
            self.revocations = Arc::new(current);
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
