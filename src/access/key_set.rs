//! The keys that verify tokens: a shared secret, or the keys of a JWKS document (RFC 7517).

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use strum::{Display, EnumString};

use super::api_key::KeyHash;
use super::crypto;
use crate::config::settings::MIN_TOKEN_SECRET;

/// The shortest and the longest modulus of an RSA key, in bytes.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1_024;
/// The length of a coordinate of P-256 and of a key for Ed25519, in bytes.
const COORDINATE: usize = 32;

/// An algorithm that tokens may be signed with.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString
)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256.
    HS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PSS with SHA-256.
    PS256,
}

impl From<TokenAlgorithm> for Algorithm {
    fn from(algorithm: TokenAlgorithm) -> Algorithm {
        match algorithm {
            TokenAlgorithm::HS256 => Algorithm::HS256,
            TokenAlgorithm::ES256 => Algorithm::ES256,
            TokenAlgorithm::EdDSA => Algorithm::EdDSA,
            TokenAlgorithm::RS256 => Algorithm::RS256,
            TokenAlgorithm::PS256 => Algorithm::PS256,
        }
    }
}

/// A key that verifies tokens of one algorithm.
#[derive(Clone, Debug)]
pub(crate) struct TokenKey {
    /// Its id in the header of tokens.
    pub(super) kid: Option<String>,
    /// The only algorithm that it is used with.
    pub(super) algorithm: TokenAlgorithm,
    /// The key itself. Its `Debug` output is redacted.
    pub(super) key: DecodingKey,
    /// Of its bytes, to recognise the same key in another source.
    pub(super) hash: KeyHash,
}

impl TokenKey {
    /// Whether another source has the same key.
    pub(super) fn is_same(&self, other: &TokenKey) -> bool {
        self.algorithm == other.algorithm && self.kid == other.kid && self.hash == other.hash
    }
}

/// The keys of one source; empty before they were read.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<TokenKey>);

/// Why a document is not used. The text names no key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeySet {
    /// It is not a JWKS document.
    #[error("it is not a JWKS document: an object with the array `keys`")]
    Malformed,
    /// No key can be used.
    #[error("it has no key for {expected}{}", first_problem(.problems))]
    NoKey {
        /// The usable keys.
        expected: &'static str,
        /// What is wrong with each key.
        problems: Vec<String>,
    },
    /// The shared secret is too short.
    #[error("{0}")]
    Secret(&'static str),
    /// Two keys cannot be told apart.
    #[error("two of its {1} keys have the kid `{0}`")]
    Ambiguous(String, TokenAlgorithm),
}

const EXPECTED: &str =
    "HS256 (at least 32 bytes), ES256, EdDSA (Ed25519), RS256 or PS256 (2048 to 8192 bits)";

fn first_problem(problems: &[String]) -> String {
    problems
        .first()
        .map(|problem| format!("; the first one: {problem}"))
        .unwrap_or_default()
}

impl KeySet {
    /// A shared secret for HS256.
    pub(crate) fn of_secret(secret: &SecretString) -> Result<KeySet, BadKeySet> {
        crypto::install();
        let bytes = secret.expose_secret().as_bytes();
        let key = hmac_key(bytes).map_err(BadKeySet::Secret)?;
        Ok(KeySet(vec![TokenKey {
            kid: None,
            algorithm: TokenAlgorithm::HS256,
            key,
            hash: KeyHash::of(bytes),
        }]))
    }

    /// Reads a JWKS document. Keys for other purposes and of unknown kinds are skipped, as RFC 7517
    /// demands.
    pub fn of_jwks(document: &[u8]) -> Result<KeySet, BadKeySet> {
        crypto::install();
        let Jwks { keys } = serde_json::from_slice(document).map_err(|_| BadKeySet::Malformed)?;
        let mut usable = Vec::new();
        let mut problems = Vec::new();
        for key in keys {
            match token_key(key) {
                Ok(key) => usable.push(key),
                Err(problem) => problems.push(problem.to_owned()),
            }
        }
        // Keys of different kinds may share a `kid` (RFC 7517, 4.5).
        let mut names = BTreeSet::new();
        for key in &usable {
            let Some(kid) = &key.kid else { continue };
            if !names.insert((kid.as_str(), key.algorithm)) {
                let shown = kid.chars().take(40).collect();
                return Err(BadKeySet::Ambiguous(shown, key.algorithm));
            }
        }
        if usable.is_empty() {
            let expected = EXPECTED;
            return Err(BadKeySet::NoKey { expected, problems });
        }
        Ok(KeySet(usable))
    }

    /// Whether there is no key.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether another set has keys with the same ids and algorithms.
    pub(crate) fn has_same_names(&self, other: &KeySet) -> bool {
        let name = |key: &TokenKey| (key.kid.clone(), key.algorithm);
        self.0.iter().map(name).eq(other.0.iter().map(name))
    }

    /// Its keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = &TokenKey> {
        self.0.iter()
    }
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

/// The members of a JWK that are used.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    k: Option<String>,
}

fn token_key(value: Value) -> Result<TokenKey, &'static str> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|_| "it is not a JWK")?;
    let signs = jwk
        .purpose
        .as_deref()
        .is_none_or(|purpose| purpose == "sig");
    let is_verb = |verb: &String| verb == "verify" || verb == "sign";
    let verifies = jwk
        .key_ops
        .as_ref()
        .is_none_or(|verbs| verbs.iter().any(is_verb));
    if !signs || !verifies {
        return Err("it is not for signatures");
    }
    let algorithm = jwk.algorithm()?;
    let (key, bytes) = match algorithm {
        TokenAlgorithm::HS256 => {
            let secret = decoded(jwk.k.as_ref())?;
            (hmac_key(&secret)?, secret)
        }
        TokenAlgorithm::ES256 => {
            let point = jwk.p256()?;
            (DecodingKey::from_ec_der(&point), point)
        }
        TokenAlgorithm::EdDSA => {
            let point = coordinate(jwk.x.as_ref())?;
            (DecodingKey::from_ed_der(&point), point)
        }
        TokenAlgorithm::RS256 | TokenAlgorithm::PS256 => {
            let (n, e) = jwk.rsa()?;
            let key = DecodingKey::from_rsa_raw_components(&n, &e);
            (key, [n, e].concat())
        }
    };
    Ok(TokenKey {
        kid: jwk.kid,
        algorithm,
        key,
        hash: KeyHash::of(&bytes),
    })
}

impl Jwk {
    /// The one algorithm of the key: that of its kind, or the one that an RSA key names, RS256 by
    /// default.
    fn algorithm(&self) -> Result<TokenAlgorithm, &'static str> {
        let other = "its kind or curve is not supported";
        let of_kind = match (self.kty.as_str(), self.crv.as_deref()) {
            ("oct", _) => TokenAlgorithm::HS256,
            ("EC", Some("P-256")) => TokenAlgorithm::ES256,
            ("OKP", Some("Ed25519")) => TokenAlgorithm::EdDSA,
            ("RSA", _) if self.alg.as_deref() == Some("PS256") => TokenAlgorithm::PS256,
            ("RSA", _) => TokenAlgorithm::RS256,
            _ => return Err(other),
        };
        match self.alg.as_deref() {
            None => Ok(of_kind),
            Some("Ed25519") if of_kind == TokenAlgorithm::EdDSA => Ok(of_kind),
            Some(named) if named.parse() == Ok(of_kind) => Ok(of_kind),
            Some(_) => Err("its algorithm is not supported"),
        }
    }

    /// The uncompressed point.
    fn p256(&self) -> Result<Vec<u8>, &'static str> {
        let (x, y) = (coordinate(self.x.as_ref())?, coordinate(self.y.as_ref())?);
        Ok([&[4], &x[..], &y[..]].concat())
    }

    /// Modulus and exponent.
    fn rsa(&self) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
        let (n, e) = (number(self.n.as_ref())?, number(self.e.as_ref())?);
        if !RSA_MODULUS.contains(&n.len()) {
            return Err("its modulus does not have 2048 to 8192 bits");
        }
        Ok((n, e))
    }
}

fn hmac_key(secret: &[u8]) -> Result<DecodingKey, &'static str> {
    let short = "its secret is shorter than 32 bytes";
    if secret.len() < MIN_TOKEN_SECRET {
        return Err(short);
    }
    DecodingKey::from_secret(secret).map_err(|_| short)
}

fn decoded(text: Option<&String>) -> Result<Vec<u8>, &'static str> {
    let text = text.ok_or("a member is missing")?;
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| "a member is not base64url")
}

fn coordinate(text: Option<&String>) -> Result<Vec<u8>, &'static str> {
    let bytes = decoded(text)?;
    if bytes.len() == COORDINATE {
        Ok(bytes)
    } else {
        Err("a coordinate does not have 32 bytes")
    }
}

/// A number without leading zeros.
fn number(text: Option<&String>) -> Result<Vec<u8>, &'static str> {
    let bytes = decoded(text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(bytes[zeros..].to_vec())
}
