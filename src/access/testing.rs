//! Callers for the tests of this crate: an [`Access`] with a shared secret, its tokens and API keys.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::api_key::NewKey;
use super::credentials::KnownCredentials;
use super::key_set::KeySet;
use super::key_source::KeySource;
use super::signing::{SigningKey, TokenClaims};
use super::token::TokenVerifier;
use super::{Access, AccessRules};
use crate::domain::access::Scope;
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::store::access::{AccessRecords, KeyStep, StoredApiKey};

/// The shared secret of the tokens.
pub(crate) const SECRET: &str = "the shared secret of the tests, of 32 bytes or more";

/// Rules with the shared secret, and with these API keys and revocations.
pub(crate) fn rules(records: AccessRecords) -> AccessRules {
    let keys = KeySet::of_secret(&SECRET.into()).unwrap();
    let credentials = KnownCredentials::default();
    credentials.update(records);
    AccessRules {
        odds_public: true,
        tokens: TokenVerifier::new(vec![KeySource::new(KeySource::SECRET, keys)], None, None),
        credentials: Arc::new(credentials),
    }
}

/// An access with the shared secret. Anonymous callers may read odds.
pub(crate) fn access() -> Access {
    Access::required(rules(AccessRecords::default()))
}

/// An API key, and how it is stored.
pub(crate) fn api_key(id: i64, scopes: &[Scope]) -> (String, StoredApiKey) {
    let key = NewKey::generate().unwrap();
    let stored = StoredApiKey {
        id,
        hash: key.hash.0,
        prefix: key.prefix,
        scopes: scopes.iter().copied().collect(),
        note: "test".to_owned(),
        expires_at: None,
        created: KeyStep {
            at: Timestamp::now(),
            by: "test".to_owned(),
        },
        last_used_at: None,
        revoked: None,
    };
    (key.secret.expose_secret().to_owned(), stored)
}

/// A token of a user with these rights, valid for an hour.
pub(crate) fn token(user: &str, scopes: &[Scope]) -> String {
    let now = Timestamp::now();
    let claims = TokenClaims {
        user: UserId::new(user).unwrap(),
        scopes: scopes.iter().copied().collect(),
        issued_at: now,
        expires_at: now.later_by(Duration::from_secs(3_600)),
        issuer: None,
        audience: None,
    };
    SigningKey::of_secret(&SecretString::from(SECRET))
        .unwrap()
        .sign(&claims)
        .unwrap()
}
