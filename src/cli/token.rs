//! `sports-bet token`: signs a token for development and tests.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::ExposeSecret;

use super::operator::scope;
use super::{exit, only_shown};
use crate::access::signing::{SigningError, SigningKey, TokenClaims};
use crate::config::input::{ConfigError, ConfigInput};
use crate::config::settings::{AccessSettings, MIN_TOKEN_SECRET};
use crate::config::values::duration_above_zero;
use crate::domain::access::Scope;
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;

/// Settings used by this command.
const USED: [&str; 3] = ["auth_jwt_secret", "auth_jwt_issuer", "auth_jwt_audience"];

/// Signs a token of a user, for development and tests
///
/// In production an identity provider signs tokens. Signs with AUTH_JWT_SECRET, or with the private
/// key of --key. Issuer and audience are those of the settings, so a server with the same settings
/// accepts the token.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &USED)))]
pub struct TokenArgs {
    /// The user: the claim `sub`
    #[arg(long, value_name = "USER")]
    pub user: UserId,
    /// A right of the token, for example bets:write; repeat the flag or separate several with commas
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', value_parser = scope)]
    pub scopes: Vec<Scope>,
    /// How long the token is valid
    #[arg(long = "for", value_name = "DURATION", value_parser = duration_above_zero, default_value = "1h")]
    pub lasts: Duration,
    /// PEM file with a PKCS#8 private key for P-256 (ES256) or Ed25519 (EdDSA), instead of
    /// AUTH_JWT_SECRET
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The id of that key in the JWKS document
    #[arg(long, value_name = "KID", requires = "key")]
    pub kid: Option<String>,
    /// The settings of authentication.
    #[command(flatten)]
    pub access: AccessSettings,
}

/// Why no token is printed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token cannot be signed.
    #[error("{0}")]
    Signing(String),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl From<SigningError> for TokenError {
    fn from(error: SigningError) -> TokenError {
        TokenError::Signing(error.to_string())
    }
}

impl TokenError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            TokenError::Signing(_) => exit::FAILED,
            TokenError::Output(_) => exit::OUTPUT,
        }
    }
}

impl TokenArgs {
    /// Checks that there is a key to sign with.
    pub fn check(&self, input: &ConfigInput) -> Result<(), ConfigError> {
        let secret = self.access.auth_jwt_secret.as_ref();
        let is_long_enough = |secret: &str| secret.len() >= MIN_TOKEN_SECRET;
        if self.key.is_some() || secret.is_some_and(|secret| is_long_enough(secret.expose_secret()))
        {
            return Ok(());
        }
        let want = format!("a secret of at least {MIN_TOKEN_SECRET} bytes, or --key FILE");
        Err(input.error("AUTH_JWT_SECRET", want))
    }

    fn signing_key(&self) -> Result<SigningKey, SigningError> {
        match (&self.key, &self.access.auth_jwt_secret) {
            (Some(file), _) => SigningKey::of_file(file, self.kid.as_deref()),
            (None, Some(secret)) => SigningKey::of_secret(secret),
            (None, None) => Err(SigningError::NoKey),
        }
    }
}

/// Prints a token.
pub fn run(args: &TokenArgs, out: &mut dyn Write) -> Result<(), TokenError> {
    let now = Timestamp::now();
    let token = args.signing_key()?.sign(&TokenClaims {
        user: args.user.clone(),
        scopes: args.scopes.iter().copied().collect(),
        issued_at: now,
        expires_at: now.later_by(args.lasts),
        issuer: args.access.auth_jwt_issuer.clone(),
        audience: args.access.auth_jwt_audience.clone(),
    })?;
    writeln!(out, "{token}")?;
    Ok(())
}

#[cfg(test)]
mod tests;
