//! Authentication: from a token or an API key to a caller.
//!
//! Tokens of users are JWTs, verified with the keys of `key_source`. API keys of services and
//! everything that is revoked are kept in memory (`credentials`), so authentication waits for
//! nothing.

pub(crate) mod api_key;
pub(crate) mod credentials;
mod crypto;
pub(crate) mod key_refresh;
pub mod key_set;
pub mod key_source;
pub mod signing;
#[cfg(test)]
pub(crate) mod testing;
pub mod token;

use std::sync::Arc;

use prometheus::IntCounterVec;
use strum::{IntoStaticStr, VariantNames};

use self::credentials::KnownCredentials;
use self::token::TokenVerifier;
use crate::domain::access::{Caller, Revocations};
use crate::domain::timestamp::Timestamp;

/// The longest token, in bytes. A longer one is refused before it is read.
const MAX_CREDENTIAL: usize = 8 * 1024;

/// Why a credential is not accepted. The text is for the caller, and contains nothing of the
/// credential. The name is a label in metrics.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    thiserror::Error,
    IntoStaticStr,
    VariantNames
)]
#[strum(serialize_all = "snake_case")]
pub enum InvalidCredential {
    /// It has the form of neither.
    #[error("neither a token nor an API key")]
    Unrecognised,
    /// It exceeds `MAX_CREDENTIAL`.
    #[error("it is longer than {MAX_CREDENTIAL} bytes")]
    TooLong,
    /// A part of the token is not base64url, or not the JSON of a token.
    #[error("the token cannot be read")]
    Malformed,
    /// The token's algorithm is unknown, or not that of the key.
    #[error("the token's algorithm (`alg`) is not that of a key of this server")]
    Algorithm,
    /// No key has this id, or the token names none and there is no key of its algorithm.
    #[error("no key of this server fits the token's key id (`kid`) and algorithm")]
    UnknownKey,
    /// The token requires extensions.
    #[error("the token has the header `crit`, whose extensions are not supported")]
    CriticalHeader,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// The token is not valid yet.
    #[error("the token is not valid yet (`nbf` or `iat`)")]
    NotYetValid,
    /// The issuer is not that of the settings.
    #[error("the token's issuer (`iss`) is not accepted")]
    Issuer,
    /// The audience is not that of the settings.
    #[error("the token is for another audience (`aud`)")]
    Audience,
    /// A claim is missing or has a wrong value.
    #[error("the token's claim `{0}` is missing or invalid")]
    Claim(&'static str),
    /// The user's tokens of this time are revoked.
    #[error("the token is revoked")]
    RevokedToken,
    /// The checksum or the length of an API key is wrong.
    #[error("the API key is mistyped: its checksum is wrong")]
    MistypedKey,
    /// There is no such API key.
    #[error("there is no such API key")]
    UnknownApiKey,
    /// The API key has expired.
    #[error("the API key has expired")]
    ExpiredKey,
    /// The API key is revoked.
    #[error("the API key is revoked")]
    RevokedKey,
    /// Keys and revocations were never read, because the database is away.
    #[error("credentials cannot be checked yet; retry later")]
    NotLoaded,
}

impl InvalidCredential {
    /// The label in metrics.
    pub fn reason(&self) -> &'static str {
        self.into()
    }

    /// Whether the same credential may be accepted later.
    pub fn is_temporary(&self) -> bool {
        *self == InvalidCredential::NotLoaded
    }
}

/// Authenticates the callers of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Access {
    /// `None`: callers are not checked.
    rules: Option<Arc<AccessRules>>,
    /// Authentications of one role, by result.
    results: Option<IntCounterVec>,
}

/// What the callers of a process are checked against.
#[derive(Debug)]
pub struct AccessRules {
    /// Whether anonymous callers may read odds.
    pub odds_public: bool,
    /// Verifies the tokens of users.
    pub(crate) tokens: TokenVerifier,
    /// API keys and revocations.
    pub(crate) credentials: Arc<KnownCredentials>,
}

impl Access {
    /// Callers are not checked.
    pub fn off() -> Access {
        Access {
            rules: None,
            results: None,
        }
    }

    /// Callers are checked against these rules.
    pub fn required(rules: AccessRules) -> Access {
        Access {
            rules: Some(Arc::new(rules)),
            results: None,
        }
    }

    /// The same, counting the authentications of a role.
    pub(crate) fn counting(&self, results: IntCounterVec) -> Access {
        Access {
            rules: self.rules.clone(),
            results: Some(results),
        }
    }

    /// The caller with this token or API key; `None` is no credential. Does not wait for anything.
    pub fn authenticate(&self, credential: Option<&str>) -> Result<Caller, InvalidCredential> {
        let Some(rules) = &self.rules else {
            return Ok(Caller::Unchecked);
        };
        let caller = rules.authenticate(credential, Timestamp::now());
        if let Some(results) = &self.results {
            results.with_label_values(&[result(&caller)]).inc();
        }
        caller
    }

    /// Whether anonymous callers may read odds.
    pub fn is_odds_public(&self) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.odds_public)
    }

    /// What is revoked now. Later changes are sent as `RevocationsChanged`.
    pub fn revocations(&self) -> Arc<Revocations> {
        let rules = self.rules.as_ref();
        rules.map_or_else(Arc::default, |rules| rules.credentials.revocations())
    }

    /// The rules, if callers are checked.
    pub(crate) fn rules(&self) -> Option<&Arc<AccessRules>> {
        self.rules.as_ref()
    }

    /// The results that authentications are counted by.
    pub(crate) fn results() -> impl Iterator<Item = &'static str> {
        let accepted = ["user", "service", "anonymous"];
        accepted
            .into_iter()
            .chain(InvalidCredential::VARIANTS.iter().copied())
    }
}

fn result(caller: &Result<Caller, InvalidCredential>) -> &'static str {
    match caller {
        Ok(Caller::User { .. }) => "user",
        Ok(Caller::Service { .. }) => "service",
        Ok(Caller::Anonymous | Caller::Unchecked) => "anonymous",
        Err(invalid) => invalid.reason(),
    }
}

impl AccessRules {
    fn authenticate(
        &self,
        credential: Option<&str>,
        now: Timestamp,
    ) -> Result<Caller, InvalidCredential> {
        match credential {
            None => Ok(Caller::Anonymous),
            Some(text) if text.len() > MAX_CREDENTIAL => Err(InvalidCredential::TooLong),
            Some(key) if key.starts_with(api_key::MARK) => self.credentials.service(key, now),
            Some(token) => {
                let caller = self.tokens.verify(token, now)?;
                self.credentials.check(&caller)?;
                Ok(caller)
            }
        }
    }

    /// Why credentials cannot be checked, or may be checked against what is not true any more.
    pub(crate) fn problem(&self) -> Option<String> {
        let unread = self
            .tokens
            .sources()
            .iter()
            .any(|source| source.keys().is_empty());
        let no_token_keys =
            || unread.then(|| "the keys for tokens have not been read yet".to_owned());
        self.credentials.problem().or_else(no_token_keys)
    }
}

#[cfg(test)]
mod tests;
