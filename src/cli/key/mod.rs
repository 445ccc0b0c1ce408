//! `sports-bet key`: an operator creates, lists and revokes the API keys of services.

mod text;

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::access_error::AccessCommandError;
use super::only_shown;
use super::operator::{self, DATABASE, future, one_line, scope, system_user};
use super::operator_store;
use crate::access::api_key::NewKey;
use crate::config::engines::StoreEngine;
use crate::config::settings::StoreSettings;
use crate::config::values::duration_above_zero;
use crate::domain::access::Scope;
use crate::domain::timestamp::Timestamp;
use crate::store::access::{AccessStore, ApiKeyOrder, KeyStep, RevokedKey};

/// Creates, lists and revokes API keys
///
/// A service sends its key as `Authorization: Bearer KEY` or `X-Api-Key: KEY`. Works on the server's
/// database, even while the server is running; running processes know a change within a second or
/// two.
#[derive(Args, Clone, Debug)]
pub struct KeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// The actions on API keys.
#[derive(Subcommand, Clone, Debug)]
pub enum Action {
    /// Creates a key and prints it; it is shown only this once
    Create(Box<CreateArgs>),
    /// Prints one line per key, oldest first
    List(ListArgs),
    /// Revokes a key; its sessions are closed
    Revoke(RevokeArgs),
}

impl KeyArgs {
    /// The settings of the database.
    pub fn store(&self) -> &StoreSettings {
        match &self.action {
            Action::Create(args) => &args.store,
            Action::List(args) => &args.store,
            Action::Revoke(args) => &args.store,
        }
    }
}

/// Creates a key and prints it; it is shown only this once
///
/// Standard output is the key and nothing else; the number of the key is written to standard error.
/// The database stores only a hash, so a lost key cannot be recovered.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &DATABASE)))]
pub struct CreateArgs {
    /// A right of the key, for example wallet:read; repeat the flag or separate several with commas
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',', value_parser = scope)]
    pub scopes: Vec<Scope>,
    /// What the key is for
    #[arg(long, value_name = "TEXT", value_parser = one_line)]
    pub note: String,
    /// When the key expires, for example 2027-01-31T18:00:00Z; never if unset
    #[arg(long, value_name = "TIME", value_parser = future)]
    pub expires: Option<Timestamp>,
    /// How long the key is valid, for example 90days
    #[arg(long = "for", value_name = "DURATION", value_parser = duration_above_zero, conflicts_with = "expires")]
    pub lasts: Option<Duration>,
    /// Who creates it, for the audit; by default the user of the operating system
    #[arg(long, value_name = "NAME", value_parser = one_line)]
    pub by: Option<String>,
    /// The database.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// The arguments of `key list`.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &DATABASE)))]
pub struct ListArgs {
    /// Also lists revoked and expired keys
    #[arg(long)]
    pub all: bool,
    /// Prints a JSON array instead of text
    #[arg(long)]
    pub json: bool,
    /// The database.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// The arguments of `key revoke`.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &DATABASE)))]
pub struct RevokeArgs {
    /// The number of the key, from the first column of the list
    #[arg(value_name = "ID")]
    pub id: i64,
    /// Who revokes it, for the audit; by default the user of the operating system
    #[arg(long, value_name = "NAME", value_parser = one_line)]
    pub by: Option<String>,
    /// The database.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// Runs the command on this database. `notes` takes what is not the result.
pub fn run(
    args: &KeyArgs,
    engine: &StoreEngine,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> Result<(), AccessCommandError> {
    let store = operator_store::open(engine, "sports-bet-key")?;
    let now = Timestamp::now();
    match &args.action {
        Action::Create(args) => create(args, &*store, now, out, notes),
        Action::List(args) => list(args, &*store, now, out),
        Action::Revoke(args) => revoke(args, &*store, now, out),
    }
}

fn create(
    args: &CreateArgs,
    store: &dyn AccessStore,
    now: Timestamp,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> Result<(), AccessCommandError> {
    let key = NewKey::generate().map_err(|_| AccessCommandError::NoRandomNumbers)?;
    let order = ApiKeyOrder {
        hash: key.hash.0,
        prefix: key.prefix.clone(),
        scopes: args.scopes.iter().copied().collect(),
        note: args.note.clone(),
        expires_at: args.expires.or(args.lasts.map(|lasts| now.later_by(lasts))),
        created: step(args.by.as_ref(), now),
    };
    let id = store.create_key(&order)?;
    // A key that nobody has seen must not stay valid.
    if let Err(unwritten) = text::secret(&key.secret, out) {
        store.revoke_key(id, &order.created)?;
        return Err(AccessCommandError::Output(unwritten));
    }
    // The key was shown, so a failure to write more is no failure.
    let _ = text::created(id, &order, notes);
    Ok(())
}

fn list(
    args: &ListArgs,
    store: &dyn AccessStore,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), AccessCommandError> {
    let mut keys = store.access_records(0)?.keys;
    keys.retain(|key| args.all || key.is_valid(now));
    written(if args.json {
        text::json(&keys, now, out)
    } else {
        text::lines(&keys, now, out)
    })
}

fn revoke(
    args: &RevokeArgs,
    store: &dyn AccessStore,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), AccessCommandError> {
    match store.revoke_key(args.id, &step(args.by.as_ref(), now))? {
        RevokedKey::Now(key) => written(text::revoked(&key, out)),
        RevokedKey::Unknown => Err(AccessCommandError::UnknownKey(args.id)),
        RevokedKey::Before(key) => {
            let KeyStep { at, by } = key.revoked.unwrap_or(key.created);
            let id = args.id;
            Err(AccessCommandError::AlreadyRevoked { id, at, by })
        }
    }
}

fn step(by: Option<&String>, at: Timestamp) -> KeyStep {
    KeyStep {
        at,
        by: by.cloned().unwrap_or_else(system_user),
    }
}

fn written(result: std::io::Result<()>) -> Result<(), AccessCommandError> {
    operator::written(result).map_err(AccessCommandError::Output)
}

#[cfg(test)]
mod tests;
