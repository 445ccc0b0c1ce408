//! Redis addresses.

use redis::{ConnectionInfo, IntoConnectionInfo};
use secrecy::{ExposeSecret, SecretString};

/// Parses `redis://user:password@host:port/database`, `rediss://...` or `host:port`. Errors repeat
/// no part of it.
pub(crate) fn parse(url: &SecretString) -> Result<ConnectionInfo, String> {
    let text = url.expose_secret().trim();
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("redis://{text}")
    };
    let parsed = super::parse(&full).map_err(|error| error.to_string())?;
    if !["redis", "rediss"].contains(&parsed.scheme()) {
        return Err("it is neither redis:// nor rediss://".to_owned());
    }
    if parsed.query_pairs().any(|(name, _)| name != "protocol") {
        return Err("its query is not supported: put user and password before the host".to_owned());
    }
    let database = parsed.path().trim_start_matches('/');
    if !database.is_empty() && database.parse::<u32>().is_err() {
        return Err("its database is not a number".to_owned());
    }
    // The library's errors for an invalid address contain no part of it.
    parsed.into_connection_info().map_err(|error| {
        format!(
            "it is invalid: {}",
            error
                .detail()
                .unwrap_or("the host or the database is wrong")
        )
    })
}
