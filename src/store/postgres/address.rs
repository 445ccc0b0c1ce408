//! The address and login of the server. A parsed address is passed to libpq as `key='value'` pairs,
//! so that libpq splits it exactly as our parser does, in particular at the end of the password.
//! Errors of libpq pass through [`Redaction`].

use diesel::pg::PgConnection;
use diesel::prelude::*;
use secrecy::{ExposeSecret, SecretString};

use super::StoreError;
use crate::config::address::AddressError;
use crate::config::address::postgres::parameters;
use crate::telemetry::redact::Redaction;

/// Parameters whose values are secret or may contain a secret.
const SECRET: [&str; 6] = [
    "password",
    "sslpassword",
    "scram_client_key",
    "scram_server_key",
    "oauth_client_secret",
    "options",
];

/// Defaults for parameters that the address omits. Without them, a vanished server is noticed only
/// after two hours.
const DEFAULTS: [(&str, &str); 5] = [
    ("connect_timeout", "3"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "15000"),
];

/// A server address, given as a URL or in libpq's `host=... user=...` format.
#[derive(Clone)]
pub(super) struct PgAddress {
    text: SecretString,
    has_options: bool,
    /// Lists several servers without saying which kind to choose.
    is_ambiguous: bool,
    redaction: Redaction,
}

impl std::fmt::Debug for PgAddress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("PgAddress")
    }
}

impl PgAddress {
    /// Parses an address and adds defaults. Errors never repeat any part of the address.
    pub(super) fn parse(
        address: &SecretString,
        application: &str,
    ) -> Result<PgAddress, StoreError> {
        let parameters = parameters(address.expose_secret()).map_err(|error| refused(&error))?;
        let secrets = parameters
            .0
            .iter()
            .filter(|(key, _)| SECRET.contains(&key.as_str()));
        let redaction = Redaction::of(secrets.map(|(_, value)| value.as_str()));
        let application: String = application
            .chars()
            .map(|one| {
                if one.is_ascii_alphanumeric() || "-_.".contains(one) {
                    one
                } else {
                    '_'
                }
            })
            .collect();
        let defaults = DEFAULTS
            .into_iter()
            .chain([("fallback_application_name", application.as_str())]);
        let own = parameters
            .0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        // libpq uses the last value of a repeated parameter.
        let pairs: Vec<_> = defaults
            .chain(own)
            .map(|(key, value)| format!("{key}={}", quoted(value)))
            .collect();
        let has = |wanted: &str| parameters.0.iter().any(|(key, _)| key == wanted);
        let hosts = parameters
            .0
            .iter()
            .filter(|(key, _)| key == "host" || key == "hostaddr");
        let is_ambiguous =
            hosts.into_iter().any(|(_, value)| value.contains(',')) && !has("target_session_attrs");
        Ok(PgAddress {
            text: pairs.join(" ").into(),
            has_options: has("options"),
            is_ambiguous,
            redaction,
        })
    }

    /// The address, restricted to a server that accepts writes if it lists several. By default
    /// libpq takes the first one that answers.
    pub(super) fn writable(self) -> PgAddress {
        if !self.is_ambiguous || std::env::var_os("PGTARGETSESSIONATTRS").is_some() {
            return self;
        }
        let text = format!(
            "{} target_session_attrs='read-write'",
            self.text.expose_secret()
        );
        PgAddress {
            text: text.into(),
            is_ambiguous: false,
            ..self
        }
    }

    /// The address with command-line options for the server. `None` if the address has options,
    /// which take precedence.
    pub(super) fn with_options(&self, options: &str) -> Option<PgAddress> {
        let text = format!("{} options={}", self.text.expose_secret(), quoted(options));
        (!self.has_options).then(|| PgAddress {
            text: text.into(),
            ..self.clone()
        })
    }

    /// Connects. The error is libpq's text without credentials.
    pub(super) fn connect(&self) -> Result<PgConnection, String> {
        PgConnection::establish(self.text.expose_secret()).map_err(|error| self.redacted(&error))
    }

    /// The text of an error without credentials.
    pub(super) fn redacted(&self, error: &dyn std::fmt::Display) -> String {
        self.redaction.apply(&error.to_string())
    }
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn refused(error: &AddressError) -> StoreError {
    StoreError::Unavailable(format!(
        "not a PostgreSQL address: {error}; expected postgres://user:password@host:5432/database, or \
         host=... port=... user=... password=... dbname=..."
    ))
}

#[cfg(test)]
mod tests;
