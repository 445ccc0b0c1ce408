//! Tokens of users: JWTs (RFC 7519).
//!
//! The algorithm comes from the key: a token chooses keys by its `kid`, and is verified with the one
//! algorithm of such a key or not at all.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::Validation;
use jsonwebtoken::errors::ErrorKind;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::InvalidCredential;
use super::key_set::{TokenAlgorithm, TokenKey};
use super::key_source::KeySource;
use crate::domain::access::{Caller, Scopes};
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;

/// How far the clocks of issuer and platform may differ.
const LEEWAY: Duration = Duration::from_secs(5);
/// With how many keys a token is tried, if its `kid` does not choose one.
const MAX_CANDIDATES: usize = 8;

/// Verifies tokens.
#[derive(Debug)]
pub struct TokenVerifier {
    sources: Vec<Arc<KeySource>>,
    /// Without an algorithm: that of the key is added.
    validation: Validation,
}

/// The header of a token. Duplicate members are an error.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// The claims. Their types are checked one by one, so that an error names the claim.
#[derive(Deserialize)]
#[serde(transparent)]
struct Claims(Map<String, Value>);

impl TokenVerifier {
    /// Verifies tokens with these keys. Issuer and audience are required where they are given.
    pub fn new(
        sources: Vec<Arc<KeySource>>,
        issuer: Option<&str>,
        audience: Option<&str>,
    ) -> TokenVerifier {
        let mut validation = Validation::default();
        validation.algorithms.clear();
        // Times are checked here, against the time of the caller.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.required_spec_claims.clear();
        if let Some(issuer) = issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        if let Some(audience) = audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        TokenVerifier {
            sources,
            validation,
        }
    }

    /// The sources of its keys.
    pub(crate) fn sources(&self) -> &[Arc<KeySource>] {
        &self.sources
    }

    /// The user of a token.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Caller, InvalidCredential> {
        let header = header(token)?;
        if header.crit.is_some() {
            return Err(InvalidCredential::CriticalHeader);
        }
        let algorithm = header
            .alg
            .parse()
            .map_err(|_| InvalidCredential::Algorithm)?;
        let keys = self.candidates(header.kid.as_deref(), algorithm)?;
        let mut validation = self.validation.clone();
        validation.algorithms.push(algorithm.into());
        for key in keys {
            match jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
                Ok(verified) => return verified.claims.caller(now),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(error) => return Err(refusal(error.kind())),
            }
        }
        Err(InvalidCredential::Signature)
    }

    /// The keys of this algorithm with this id. For a token without an id all of the algorithm,
    /// first those that have no id either. There is at least one.
    fn candidates(
        &self,
        kid: Option<&str>,
        algorithm: TokenAlgorithm,
    ) -> Result<Vec<TokenKey>, InvalidCredential> {
        let mut of_other_algorithm = false;
        let mut found: Vec<TokenKey> = Vec::new();
        for source in &self.sources {
            let keys = source.keys();
            for key in keys.iter() {
                if kid.is_some() && key.kid.as_deref() != kid {
                    continue;
                }
                if key.algorithm != algorithm {
                    of_other_algorithm = true;
                } else if !found.iter().any(|known| known.is_same(key)) {
                    found.push(key.clone());
                }
            }
        }
        if found.is_empty() {
            return Err(if of_other_algorithm {
                InvalidCredential::Algorithm
            } else {
                InvalidCredential::UnknownKey
            });
        }
        found.sort_by_key(|key| key.kid.is_some());
        found.truncate(MAX_CANDIDATES);
        Ok(found)
    }
}

fn header(token: &str) -> Result<Header, InvalidCredential> {
    let mut parts = token.split('.');
    let (Some(header), Some(_), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(InvalidCredential::Unrecognised);
    };
    let json = BASE64_URL_SAFE_NO_PAD
        .decode(header)
        .map_err(|_| InvalidCredential::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| InvalidCredential::Malformed)
}

fn refusal(error: &ErrorKind) -> InvalidCredential {
    match error {
        ErrorKind::InvalidSignature => InvalidCredential::Signature,
        ErrorKind::InvalidAlgorithm => InvalidCredential::Algorithm,
        ErrorKind::InvalidIssuer => InvalidCredential::Issuer,
        ErrorKind::InvalidAudience => InvalidCredential::Audience,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            match claim.as_str() {
                "iss" => InvalidCredential::Issuer,
                "aud" => InvalidCredential::Audience,
                _ => InvalidCredential::Malformed,
            }
        }
        _ => InvalidCredential::Malformed,
    }
}

impl Claims {
    fn caller(&self, now: Timestamp) -> Result<Caller, InvalidCredential> {
        let expires_at = self.time("exp")?.ok_or(InvalidCredential::Claim("exp"))?;
        if expires_at.later_by(LEEWAY) <= now {
            return Err(InvalidCredential::Expired);
        }
        let (starts_at, issued_at) = (self.time("nbf")?, self.time("iat")?);
        // A token from the future would outlive the revocation of its user.
        let is_future = |time: Timestamp| now.later_by(LEEWAY) < time;
        if starts_at.is_some_and(is_future) || issued_at.is_some_and(is_future) {
            return Err(InvalidCredential::NotYetValid);
        }
        let user = self.0.get("sub").and_then(Value::as_str);
        let user = user.and_then(|sub| UserId::new(sub).ok());
        Ok(Caller::User {
            id: user.ok_or(InvalidCredential::Claim("sub"))?,
            scopes: self.scopes()?,
            // Without the claim: before everything.
            issued_at: issued_at.unwrap_or(now.earlier_by(Duration::MAX)),
            expires_at,
        })
    }

    /// Without the claim: no rights.
    fn scopes(&self) -> Result<Scopes, InvalidCredential> {
        match self.0.get("scope") {
            None | Some(Value::Null) => Ok(Scopes::default()),
            Some(Value::String(names)) => Ok(Scopes::of_token(names)),
            Some(_) => Err(InvalidCredential::Claim("scope")),
        }
    }

    /// A `NumericDate`: seconds since 1970, with or without a fraction.
    fn time(&self, claim: &'static str) -> Result<Option<Timestamp>, InvalidCredential> {
        let Some(value) = self.0.get(claim).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let seconds = value.as_f64().filter(|seconds| seconds.is_finite());
        // Numbers that are too large become the largest, which is not a time.
        let time = seconds.and_then(|seconds| Timestamp::from_micros((seconds * 1e6) as i64));
        time.map(Some).ok_or(InvalidCredential::Claim(claim))
    }
}
