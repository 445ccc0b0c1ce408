//! `sports-bet report`: what open bets may cost, and what settled bets did.

mod text;

use std::io::Write;

use clap::{Args, Subcommand};

use super::operator::{self, DATABASE};
use super::operator_store::{self, DatabaseError};
use super::{exit, only_shown};
use crate::config::engines::StoreEngine;
use crate::config::settings::StoreSettings;
use crate::domain::ids::EventId;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::money::PositionScope;

/// The tables that this command needs.
const TABLES: [&str; 1] = ["bet_settlements"];

/// Prints what open bets may cost, and what settled bets did
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// The report.
    #[command(subcommand)]
    pub report: Report,
}

/// The reports.
#[derive(Subcommand, Clone, Debug)]
pub enum Report {
    /// Prints the open stakes of each market, and what each outcome would cost
    Liability(LiabilityArgs),
    /// Prints the totals of the settlements within some time
    Settled(SettledArgs),
}

impl ReportArgs {
    /// The settings of the database.
    pub fn store(&self) -> &StoreSettings {
        match &self.report {
            Report::Liability(args) => &args.store,
            Report::Settled(args) => &args.store,
        }
    }
}

/// Prints the open stakes of each market, and what each outcome would cost
///
/// Counts confirmed bets that are not settled. The result of an outcome is what the house has left of
/// the market's open stakes if only that selection wins: below 0, it loses.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &DATABASE)))]
pub struct LiabilityArgs {
    /// Only this event
    #[arg(long, value_name = "EVENT")]
    pub event: Option<EventId>,
    /// Prints a JSON array instead of text
    #[arg(long)]
    pub json: bool,
    /// The database.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// Prints the totals of the settlements within some time
///
/// Corrections count when they are made, so the reports of two days add up to the report of both.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &DATABASE)))]
pub struct SettledArgs {
    /// From this time, for example 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub from: Timestamp,
    /// Until before this time
    #[arg(long, value_name = "TIME")]
    pub to: Timestamp,
    /// Prints a JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// The database.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// Why a report is not printed.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The time is empty.
    #[error("--from {from} is not before --to {to}")]
    Empty {
        /// The start.
        from: Timestamp,
        /// The end.
        to: Timestamp,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Database(DatabaseError),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
}

impl From<StoreError> for ReportError {
    fn from(error: StoreError) -> ReportError {
        ReportError::Database(DatabaseError::of(error, &TABLES))
    }
}

impl ReportError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            ReportError::Empty { .. } => exit::USAGE,
            ReportError::Database(_) => exit::UNAVAILABLE,
            ReportError::Output(_) => exit::OUTPUT,
        }
    }
}

/// Runs the command on this database.
pub fn run(
    args: &ReportArgs,
    engine: &StoreEngine,
    out: &mut dyn Write,
) -> Result<(), ReportError> {
    let store = operator_store::open(engine, "sports-bet-report")?;
    let printed = match &args.report {
        Report::Liability(args) => {
            let scope = args
                .event
                .as_ref()
                .map_or(PositionScope::All, PositionScope::Event);
            let markets = text::by_market(store.open_positions(scope)?);
            if args.json {
                text::liability_json(&markets, out)
            } else {
                text::liability(&markets, out)
            }
        }
        Report::Settled(args) => {
            let (from, to) = (args.from, args.to);
            if from >= to {
                return Err(ReportError::Empty { from, to });
            }
            let totals = store.settled_totals(from, to)?;
            if args.json {
                text::settled_json(&totals, out)
            } else {
                text::settled(&totals, out)
            }
        }
    };
    operator::written(printed).map_err(ReportError::Output)
}

#[cfg(test)]
mod tests;
