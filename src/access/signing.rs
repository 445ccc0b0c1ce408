//! Signs tokens, for development and tests: in production an identity provider does.

use std::path::{Path, PathBuf};

use jsonwebtoken::{EncodingKey, Header};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::crypto;
use super::key_set::TokenAlgorithm;
use crate::domain::access::Scopes;
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;

/// A key that signs tokens.
#[derive(Debug)]
pub struct SigningKey {
    algorithm: TokenAlgorithm,
    key: EncodingKey,
    kid: Option<String>,
}

/// What a token says.
#[derive(Clone, Debug)]
pub struct TokenClaims {
    /// The user: `sub`.
    pub user: UserId,
    /// The rights: `scope`.
    pub scopes: Scopes,
    /// When it is issued: `iat`.
    pub issued_at: Timestamp,
    /// When it expires: `exp`.
    pub expires_at: Timestamp,
    /// `iss`.
    pub issuer: Option<String>,
    /// `aud`.
    pub audience: Option<String>,
}

/// Why a token is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The file cannot be used.
    #[error("{}: {cause}; want a PEM file with a PKCS#8 private key for P-256 or Ed25519", file.display())]
    KeyFile {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// There is nothing to sign with.
    #[error("AUTH_JWT_SECRET is not set")]
    NoKey,
    /// The library failed.
    #[error("cannot sign the token: {0}")]
    Failed(String),
}

#[derive(Serialize)]
struct ClaimsJson<'a> {
    sub: &'a UserId,
    scope: String,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

impl SigningKey {
    /// A shared secret, as in `AUTH_JWT_SECRET`.
    pub fn of_secret(secret: &SecretString) -> Result<SigningKey, SigningError> {
        crypto::install();
        let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
        Ok(SigningKey {
            algorithm: TokenAlgorithm::HS256,
            key: key.map_err(|error| SigningError::Failed(error.to_string()))?,
            kid: None,
        })
    }

    /// The private key in a PEM file, whose public key has the id `kid`.
    pub(crate) fn of_file(file: &Path, kid: Option<&str>) -> Result<SigningKey, SigningError> {
        let failed = |cause: &dyn std::fmt::Display| SigningError::KeyFile {
            file: file.to_owned(),
            cause: cause.to_string(),
        };
        let key = PrivateKeyDer::from_pem_file(file).map_err(|error| failed(&error))?;
        let PrivateKeyDer::Pkcs8(key) = &key else {
            return Err(failed(&"it is not PKCS#8"));
        };
        SigningKey::of_pkcs8(key.secret_pkcs8_der(), kid)
            .ok_or_else(|| failed(&"its kind or curve is not supported"))
    }

    /// A private key in PKCS#8.
    pub fn of_pkcs8(key: &[u8], kid: Option<&str>) -> Option<SigningKey> {
        crypto::install();
        let (algorithm, key) = if crypto::p256(key).is_ok() {
            (TokenAlgorithm::ES256, EncodingKey::from_ec_der(key))
        } else if crypto::ed25519(key).is_ok() {
            (TokenAlgorithm::EdDSA, EncodingKey::from_ed_der(key))
        } else {
            return None;
        };
        let kid = kid.map(str::to_owned);
        Some(SigningKey {
            algorithm,
            key,
            kid,
        })
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &TokenClaims) -> Result<String, SigningError> {
        let seconds = |time: Timestamp| time.micros().div_euclid(1_000_000);
        self.sign_json(&ClaimsJson {
            sub: &claims.user,
            scope: claims.scopes.to_string(),
            iat: seconds(claims.issued_at),
            exp: seconds(claims.expires_at),
            iss: claims.issuer.as_deref(),
            aud: claims.audience.as_deref(),
        })
    }

    /// A token with any claims.
    pub(crate) fn sign_json(&self, claims: &impl Serialize) -> Result<String, SigningError> {
        let mut header = Header::new(self.algorithm.into());
        header.kid.clone_from(&self.kid);
        jsonwebtoken::encode(&header, claims, &self.key)
            .map_err(|error| SigningError::Failed(error.to_string()))
    }
}
