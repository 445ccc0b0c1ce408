//! `sports-bet ledger verify`: holds the ledger, the reservations and the bets against each other,
//! while they are in use.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{exit, only_shown};
use crate::config::engines::StoreEngine;
use crate::config::settings::StoreSettings;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::money::{MoneyStore, Verification};
use crate::store::postgres::{PgOptions, PgStore};
use crate::store::sqlite::SqliteStore;

/// One look may take its time: it reads every transfer there is.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// What is done with the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Proves that debits are credits, that balances are what their transfers sum up to, and that
    /// bets, reservations and transfers match
    Verify,
}

/// Proves that no money was lost or made
///
/// Reads the database of the server, also while it is in use, in one snapshot. Prints what was
/// checked, a line each, and every violation; exits with 1 where there is one, and with another
/// code where it could not look.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &["database_url", "postgres_dsn"])))]
pub struct LedgerArgs {
    /// What to do
    #[arg(value_enum)]
    pub action: Action,
    /// A bet may be undecided for so long beyond its deadline before it counts as forgotten
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    pub grace: Duration,
    /// Prints one JSON object instead
    #[arg(long)]
    pub json: bool,
    /// The database.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// Why the ledger was not proved to be right.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It is wrong.
    #[error("the ledger is wrong: {0} violations")]
    Violated(u64),
    /// The database.
    #[error("DATABASE_URL: {0}")]
    Store(#[from] StoreError),
    /// Standard output takes no more.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl LedgerError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            LedgerError::Violated(_) => exit::FAILED,
            LedgerError::Store(_) => exit::UNAVAILABLE,
            LedgerError::Output(_) => exit::OUTPUT,
        }
    }
}

/// Carries the command out on this database.
pub fn run(
    args: &LedgerArgs,
    engine: &StoreEngine,
    out: &mut dyn Write,
) -> Result<(), LedgerError> {
    let Action::Verify = args.action;
    let verification = open(engine)?.verify(Timestamp::now(), args.grace)?;
    let written = if args.json {
        write_json(&verification, out)
    } else {
        write_text(&verification, out)
    };
    match written {
        // Whoever closed the pipe has read enough; the verdict is the exit code's all the same.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written?,
    }
    match verification.violations() {
        0 => Ok(()),
        violations => Err(LedgerError::Violated(violations)),
    }
}

fn open(engine: &StoreEngine) -> Result<Arc<dyn MoneyStore>, StoreError> {
    Ok(match engine {
        StoreEngine::Sqlite(path) => Arc::new(SqliteStore::open_existing(&path.to_string_lossy())?),
        // A replica would do; the address that is written is the one that is right.
        StoreEngine::Postgres { url, .. } => {
            let options = PgOptions {
                readers: 1,
                statement_timeout: STATEMENT_TIMEOUT,
                application_name: "sports-bet-ledger".to_owned(),
                ..PgOptions::default()
            };
            Arc::new(PgStore::reader(url, &options)?)
        }
    })
}

fn write_text(verification: &Verification, out: &mut dyn Write) -> std::io::Result<()> {
    for check in &verification.checks {
        let verdict = if check.violations == 0 {
            "ok   "
        } else {
            "WRONG"
        };
        write!(out, "{verdict} {}: {} checked", check.rule, check.checked)?;
        if check.violations > 0 {
            write!(out, ", {} violations", check.violations)?;
        }
        writeln!(out)?;
        for example in &check.examples {
            writeln!(out, "        {example}")?;
        }
        let more = check.violations.saturating_sub(check.examples.len() as u64);
        if more > 0 {
            writeln!(out, "        and {more} more")?;
        }
    }
    match verification.violations() {
        0 => writeln!(
            out,
            "the ledger is right: {} rules hold",
            verification.checks.len()
        ),
        violations => writeln!(out, "the ledger is WRONG: {violations} violations"),
    }
}

fn write_json(verification: &Verification, out: &mut dyn Write) -> std::io::Result<()> {
    let check = |check: &crate::store::money::Check| {
        serde_json::json!({
            "rule": check.rule,
            "checked": check.checked,
            "violations": check.violations,
            "examples": check.examples,
        })
    };
    let checks: Vec<_> = verification.checks.iter().map(check).collect();
    writeln!(
        out,
        "{}",
        serde_json::json!({ "violations": verification.violations(), "checks": checks })
    )
}
