//! `sports-bet user`: an operator revokes the tokens of a user.

use std::io::Write;

use clap::{Args, Subcommand};

use super::access_error::AccessCommandError;
use super::only_shown;
use super::operator::{DATABASE, one_line, system_user, written};
use super::operator_store;
use crate::config::engines::StoreEngine;
use crate::config::settings::StoreSettings;
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::store::access::KeyStep;

/// Revokes the tokens of users
///
/// Works on the server's database, even while the server is running; running processes know a change
/// within a second or two.
#[derive(Args, Clone, Debug)]
pub struct UserArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// The actions on users.
#[derive(Subcommand, Clone, Debug)]
pub enum Action {
    /// Refuses the user's tokens that were issued before now; the user's sessions are closed
    Revoke(RevokeArgs),
}

/// The arguments of `user revoke`.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &DATABASE)))]
pub struct RevokeArgs {
    /// The user: the claim `sub` of the tokens
    #[arg(value_name = "USER")]
    pub user: UserId,
    /// Who revokes the tokens, for the audit; by default the user of the operating system
    #[arg(long, value_name = "NAME", value_parser = one_line)]
    pub by: Option<String>,
    /// The database.
    #[command(flatten)]
    pub store: StoreSettings,
}

impl UserArgs {
    /// The settings of the database.
    pub fn store(&self) -> &StoreSettings {
        let Action::Revoke(args) = &self.action;
        &args.store
    }
}

/// Runs the command on this database.
pub fn run(
    args: &UserArgs,
    engine: &StoreEngine,
    out: &mut dyn Write,
) -> Result<(), AccessCommandError> {
    let Action::Revoke(args) = &args.action;
    let step = KeyStep {
        at: Timestamp::now(),
        by: args.by.clone().unwrap_or_else(system_user),
    };
    operator_store::open(engine, "sports-bet-user")?.revoke_user(&args.user, &step)?;
    let line = writeln!(
        out,
        "tokens of {} that were issued before {} are revoked",
        args.user, step.at
    );
    written(line).map_err(AccessCommandError::Output)
}
