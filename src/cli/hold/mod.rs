//! `sports-bet hold`: an operator stops bets on everything, a source, an event, a market or a
//! selection, and releases them again.

mod text;

use std::io::Write;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use uuid::Uuid;

use super::operator::{self, DATABASE, future, one_line, system_user};
use super::operator_store::{self, DatabaseError};
use super::{exit, only_shown};
use crate::config::engines::StoreEngine;
use crate::config::settings::StoreSettings;
use crate::config::values::duration_above_zero;
use crate::domain::ids::{EventId, MarketKey, MarketName, SelectionId, Source};
use crate::domain::odds::hold::HoldScope;
use crate::domain::odds::price::Line;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::holds::{HoldOrder, HoldStep, HoldStore, Released};

/// Sets, lists and releases holds
///
/// A hold stops bets on everything, a source, an event, a market or a selection. What it covers is
/// shown as suspended within about a second, and bets on it are refused at once, whatever the feed
/// says. Works on the server's database, even while the server is running.
#[derive(Args, Clone, Debug)]
pub struct HoldArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// The actions on holds.
#[derive(Subcommand, Clone, Debug)]
pub enum Action {
    /// Sets a hold and prints its number
    Set(Box<SetArgs>),
    /// Prints one line per hold, oldest first
    List(ListArgs),
    /// Releases a hold
    Release(ReleaseArgs),
}

impl HoldArgs {
    /// The settings of the database.
    pub fn store(&self) -> &StoreSettings {
        match &self.action {
            Action::Set(args) => &args.store,
            Action::List(args) => &args.store,
            Action::Release(args) => &args.store,
        }
    }
}

/// Sets a hold and prints its number
///
/// Several holds may cover one market; it is held until the last of them is released or ends. The
/// event or the market need not exist yet. The output says how many open markets the hold covers
/// now: 0 may mean a misspelt id.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &DATABASE)))]
#[command(group(ArgGroup::new("scope").required(true).args(["all", "source", "event"])))]
pub struct SetArgs {
    /// Holds every market
    #[arg(long)]
    pub all: bool,
    /// Holds the markets whose current prices are from this source
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<Source>,
    /// Holds this event, or with --market one of its markets
    #[arg(long, value_name = "EVENT")]
    pub event: Option<EventId>,
    /// Holds this market of the event, for example 1x2
    #[arg(long, value_name = "MARKET", requires = "event", conflicts_with_all = ["all", "source"])]
    pub market: Option<MarketName>,
    /// The line of the market, for example 2.5; without it, the market that has no line
    #[arg(
        long,
        value_name = "LINE",
        requires = "market",
        allow_negative_numbers = true
    )]
    pub line: Option<Line>,
    /// Holds only this selection of the market, for example home
    #[arg(long, value_name = "SELECTION", requires = "market")]
    pub selection: Option<SelectionId>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = one_line)]
    pub reason: String,
    /// When the hold ends by itself, for example 2027-01-31T18:00:00Z
    #[arg(long, value_name = "TIME", value_parser = future)]
    pub until: Option<Timestamp>,
    /// How long the hold lasts, for example 15m
    #[arg(long = "for", value_name = "DURATION", value_parser = duration_above_zero, conflicts_with = "until")]
    pub lasts: Option<Duration>,
    /// Who sets it, for the audit; by default the user of the operating system
    #[arg(long, value_name = "NAME", value_parser = one_line)]
    pub by: Option<String>,
    /// The database.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// The arguments of `hold list`.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &DATABASE)))]
pub struct ListArgs {
    /// Also lists holds that were released or have ended
    #[arg(long)]
    pub all: bool,
    /// Prints a JSON array instead of text
    #[arg(long)]
    pub json: bool,
    /// The database.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// The arguments of `hold release`.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &DATABASE)))]
pub struct ReleaseArgs {
    /// The number of the hold, from the first column of the list
    #[arg(value_name = "ID")]
    pub id: i64,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = one_line)]
    pub reason: String,
    /// Who releases it, for the audit; by default the user of the operating system
    #[arg(long, value_name = "NAME", value_parser = one_line)]
    pub by: Option<String>,
    /// The database.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// No hold has this number.
    #[error("hold {0} does not exist")]
    Unknown(i64),
    /// The hold is released.
    #[error("hold {id} was already released at {at} by {by}")]
    AlreadyReleased {
        /// Its number.
        id: i64,
        /// When it was released.
        at: Timestamp,
        /// Who released it.
        by: String,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Database(DatabaseError),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
}

impl From<StoreError> for HoldError {
    fn from(error: StoreError) -> HoldError {
        HoldError::Database(DatabaseError::of(error, &["holds"]))
    }
}

impl HoldError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            HoldError::Unknown(_) | HoldError::AlreadyReleased { .. } => exit::FAILED,
            HoldError::Database(_) => exit::UNAVAILABLE,
            HoldError::Output(_) => exit::OUTPUT,
        }
    }
}

/// Runs the command on this database.
pub fn run(args: &HoldArgs, engine: &StoreEngine, out: &mut dyn Write) -> Result<(), HoldError> {
    let store = operator_store::open(engine, "sports-bet-hold")?;
    let now = Timestamp::now();
    match &args.action {
        Action::Set(args) => set(args, &*store, now, out),
        Action::List(args) => list(args, &*store, now, out),
        Action::Release(args) => release(args, &*store, now, out),
    }
}

fn set(
    args: &SetArgs,
    store: &dyn HoldStore,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), HoldError> {
    let order = HoldOrder {
        request: Uuid::now_v7(),
        scope: args.scope(),
        until: args.until.or(args.lasts.map(|lasts| now.later_by(lasts))),
        step: step(&args.reason, args.by.as_ref(), now),
    };
    let id = store.set_hold(&order)?;
    written(text::set(id, &order, out))?;
    let open_markets = store.count_open_markets(&order.scope)?;
    written(text::covered(open_markets, out))
}

fn list(
    args: &ListArgs,
    store: &dyn HoldStore,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), HoldError> {
    let holds = store.holds((!args.all).then_some(now))?;
    written(if args.json {
        text::json(&holds, now, out)
    } else {
        text::lines(&holds, now, out)
    })
}

fn release(
    args: &ReleaseArgs,
    store: &dyn HoldStore,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), HoldError> {
    let step = step(&args.reason, args.by.as_ref(), now);
    match store.release_hold(args.id, &step)? {
        Released::Now(hold) => written(text::released(&hold, out)),
        Released::Unknown => Err(HoldError::Unknown(args.id)),
        Released::Before(hold) => {
            let HoldStep { at, by, .. } = hold.released.unwrap_or(hold.set);
            Err(HoldError::AlreadyReleased {
                id: args.id,
                at,
                by,
            })
        }
    }
}

impl SetArgs {
    fn scope(&self) -> HoldScope {
        let Some(event) = self.event.clone() else {
            return self
                .source
                .clone()
                .map_or(HoldScope::All, HoldScope::Source);
        };
        let Some(name) = self.market.clone() else {
            return HoldScope::Event(event);
        };
        let line = self.line;
        let market = MarketKey { name, line };
        match self.selection.clone() {
            Some(selection) => HoldScope::Selection(event, market, selection),
            None => HoldScope::Market(event, market),
        }
    }
}

fn step(reason: &str, by: Option<&String>, at: Timestamp) -> HoldStep {
    HoldStep {
        at,
        by: by.cloned().unwrap_or_else(system_user),
        reason: reason.to_owned(),
    }
}

fn written(result: std::io::Result<()>) -> Result<(), HoldError> {
    operator::written(result).map_err(HoldError::Output)
}

#[cfg(test)]
mod tests;
