//! Settings of authentication.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use secrecy::SecretString;

use crate::config::address::SecretUrl;
use crate::config::values::{duration_above_a_second, key_set_url, secret};

/// The shortest shared secret of tokens, in bytes: that of the hash (RFC 7518).
pub(crate) const MIN_TOKEN_SECRET: usize = 32;

/// Whether callers are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthMode {
    /// Callers are not checked: everybody may do everything.
    Off,
    /// Callers need a token or an API key.
    Required,
}

/// Settings of authentication.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Access")]
pub struct AccessSettings {
    /// Whether callers of odds, wallet and bets are checked: required (they need a token or an API
    /// key) or off (everybody may do everything). Off by default while BIND_ADDRESS is a loopback
    /// address; for any other address it must be set
    #[arg(long, env, value_enum)]
    pub auth: Option<AuthMode>,
    /// Whether odds may be read without a token or an API key
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub odds_public: bool,
    /// Shared secret of tokens that are signed with HS256, at least 32 bytes
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub auth_jwt_secret: Option<SecretString>,
    /// JWKS file with the keys of tokens (HS256, ES256, EdDSA, RS256, PS256); it is read again when
    /// it changes
    #[arg(long, env)]
    pub auth_jwt_keys: Option<PathBuf>,
    /// URL of a JWKS document with the keys of tokens; https, or http on a loopback address
    #[arg(long, env, value_parser = key_set_url)]
    pub auth_jwks_url: Option<SecretUrl>,
    /// How often AUTH_JWKS_URL is read again
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "5m")]
    pub auth_jwks_refresh: Duration,
    /// Required issuer of tokens (iss); any if unset
    #[arg(long, env)]
    pub auth_jwt_issuer: Option<String>,
    /// Required audience of tokens (aud); if unset, tokens for an audience are refused
    #[arg(long, env)]
    pub auth_jwt_audience: Option<String>,
}

impl AccessSettings {
    /// Whether callers are checked. The settings were checked before, so unset means off.
    pub fn is_required(&self) -> bool {
        self.auth == Some(AuthMode::Required)
    }
}
