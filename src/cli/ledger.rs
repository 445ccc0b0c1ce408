//! `sports-bet ledger verify`: checks the ledger, the reservations and the bets against each other,
//! while they are in use.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::operator::{DATABASE, written};
use super::{exit, only_shown};
use crate::config::engines::StoreEngine;
use crate::config::settings::StoreSettings;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::money::{LedgerAudit, Verification};
use crate::store::postgres::{PgOptions, PgStore};
use crate::store::sqlite::SqliteStore;

/// A verification may take long: it reads every transfer.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// The actions on the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Verifies that debits equal credits, that balances equal the sum of their transfers, and that
    /// bets, reservations and transfers match
    Verify,
}

/// Verifies that no money was lost or created
///
/// Reads the server's database in one snapshot, even while it is in use. Prints one line per check
/// and every violation. Exits with 1 if there is a violation, and with another code if the ledger
/// could not be read.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &DATABASE)))]
pub struct LedgerArgs {
    /// What to do
    #[arg(value_enum)]
    pub action: Action,
    /// How long a bet may stay undecided after its deadline before it is reported
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    pub grace: Duration,
    /// Prints one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// The database to verify.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// Why the ledger is not verified.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The ledger is wrong.
    #[error("the ledger is wrong: {0} violations")]
    Violated(u64),
    /// The database failed.
    #[error("DATABASE_URL: {0}")]
    Store(#[from] StoreError),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
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

/// Runs the command on this database.
pub fn run(
    args: &LedgerArgs,
    engine: &StoreEngine,
    out: &mut dyn Write,
) -> Result<(), LedgerError> {
    let Action::Verify = args.action;
    let verification = open(engine)?.verify(Timestamp::now(), args.grace)?;
    // If the reader closed the pipe, the exit code still gives the result.
    written(if args.json {
        write_json(&verification, out)
    } else {
        write_text(&verification, out)
    })?;
    match verification.violations() {
        0 => Ok(()),
        violations => Err(LedgerError::Violated(violations)),
    }
}

fn open(engine: &StoreEngine) -> Result<Arc<dyn LedgerAudit>, StoreError> {
    Ok(match engine {
        StoreEngine::Sqlite(path) => Arc::new(SqliteStore::open_existing(&path.to_string_lossy())?),
        // Reads the primary. A replica would also work, but the primary is authoritative.
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
            "the ledger is correct: {} rules hold",
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
