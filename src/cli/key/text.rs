//! The output of `sports-bet key`.

use std::io::{Result, Write};

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::domain::timestamp::Timestamp;
use crate::store::access::{ApiKeyOrder, StoredApiKey};

/// The key itself: the only place that ever shows it.
pub(super) fn secret(key: &SecretString, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "{}", key.expose_secret())?;
    out.flush()
}

/// A key was created.
pub(super) fn created(id: i64, order: &ApiKeyOrder, out: &mut dyn Write) -> Result<()> {
    write!(out, "key {id} created: {}", order.scopes)?;
    if let Some(end) = order.expires_at {
        write!(out, ", expires {end}")?;
    }
    writeln!(out, "; it is not shown again")
}

/// A key was revoked.
pub(super) fn revoked(key: &StoredApiKey, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "key {} revoked: {}", key.id, key.note)
}

/// One line per key.
pub(super) fn lines(keys: &[StoredApiKey], now: Timestamp, out: &mut dyn Write) -> Result<()> {
    if keys.is_empty() {
        return writeln!(out, "no keys");
    }
    for key in keys {
        let StoredApiKey {
            id,
            prefix,
            scopes,
            note,
            created,
            ..
        } = key;
        let state = state(key, now);
        write!(
            out,
            "{id}  {state}  {prefix}…  {scopes}  created {} by {}: {note}",
            created.at, created.by
        )?;
        if let Some(end) = key.expires_at {
            write!(out, "  expires {end}")?;
        }
        match key.last_used_at {
            Some(last) => write!(out, "  last used {last}")?,
            None => write!(out, "  never used")?,
        }
        if let Some(step) = &key.revoked {
            write!(out, "  revoked {} by {}", step.at, step.by)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A JSON array. The fields have the names of the columns.
pub(super) fn json(keys: &[StoredApiKey], now: Timestamp, out: &mut dyn Write) -> Result<()> {
    let keys = keys.iter().map(|key| object(key, now)).collect();
    writeln!(out, "{}", Value::Array(keys))
}

fn object(key: &StoredApiKey, now: Timestamp) -> Value {
    let revoked = key.revoked.as_ref();
    json!({
        "id": key.id,
        "state": state(key, now),
        "prefix": key.prefix,
        "scopes": key.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>(),
        "note": key.note,
        "expires_at": key.expires_at,
        "created_by": key.created.by,
        "created_at": key.created.at,
        "last_used_at": key.last_used_at,
        "revoked_by": revoked.map(|step| &step.by),
        "revoked_at": revoked.map(|step| step.at),
    })
}

fn state(key: &StoredApiKey, now: Timestamp) -> &'static str {
    match key.revoked {
        Some(_) => "revoked",
        None if key.is_valid(now) => "valid",
        None => "expired",
    }
}
