//! `sports-bet settle`: an operator decides a market by hand.

mod preview;
mod text;

use std::collections::BTreeSet;
use std::io::Write;

use clap::{ArgGroup, Args};

use self::preview::Preview;
use super::operator::{self, DATABASE, one_line, system_user};
use super::operator_store::{self, DatabaseError, OperatorStore};
use super::{exit, only_shown};
use crate::config::engines::StoreEngine;
use crate::config::settings::{SettlementSettings, StoreSettings};
use crate::domain::ids::{EventId, EventMarket, MarketKey, MarketName, SelectionId, Source};
use crate::domain::odds::price::Line;
use crate::domain::odds::update::Revision;
use crate::domain::settlement::effective::SettlementRules;
use crate::domain::settlement::market_results::MarketResults;
use crate::domain::settlement::operator::{BadDecision, NamedResults, OperatorDecision};
use crate::domain::settlement::postings::BetPosition;
use crate::domain::settlement::record::{
    DeadHeat, Note, RecordContent, RecordError, ResultRecord, Window,
};
use crate::domain::settlement::trust::OPERATOR_PREFIX;
use crate::domain::timestamp::Timestamp;
use crate::simulator::market_maker::source as simulator_source;
use crate::store::StoreError;
use crate::store::money::{PositionScope, StoredResults};

/// The settings that this command uses.
const USED: [&str; 5] = [
    DATABASE[0],
    DATABASE[1],
    "settlement_sources",
    "settle_on",
    "reductions",
];
/// The tables that this command needs.
const TABLES: [&str; 2] = ["market_results", "market_settlements"];

/// Decides a market by hand
///
/// Stores a record with the source `operator:NAME`, which counts like that of a trusted source and
/// ends what other sources have said so far. The role `settlement` pays by it within about a second,
/// whatever the market's payout. A later decision replaces an earlier one. Selections that are not
/// named have lost. Works on the server's database, even while the server is running.
#[derive(Args, Clone, Debug)]
#[command(mut_args(|arg| only_shown(arg, &USED)))]
#[command(group(ArgGroup::new("decision").required(true).multiple(true)
    .args(["winner", "dead_heat", "void_selection", "void", "rollback", "cancel", "rollback_cancel"])))]
pub struct SettleArgs {
    /// The event
    #[arg(value_name = "EVENT")]
    pub event: EventId,
    /// The market, for example 1x2
    #[arg(value_name = "MARKET")]
    pub market: MarketName,
    /// The line of the market, for example 2.5; without it, the market that has no line
    #[arg(long, value_name = "LINE", allow_negative_numbers = true)]
    pub line: Option<Line>,
    /// A selection that has won; may be repeated
    #[arg(long, value_name = "SELECTION", conflicts_with_all = WHOLE_MARKET)]
    pub winner: Vec<SelectionId>,
    /// A selection that shares its place, and its share of the stake: the places left, divided by the
    /// selections that share them, for example `--dead-heat home 1/2`; may be repeated
    #[arg(long, value_names = ["SELECTION", "SHARE"], num_args = 2, conflicts_with_all = WHOLE_MARKET)]
    pub dead_heat: Vec<String>,
    /// A selection whose bets are void; may be repeated
    #[arg(long, value_name = "SELECTION", conflicts_with_all = WHOLE_MARKET)]
    pub void_selection: Vec<SelectionId>,
    /// The start of the round of bets that the result concerns, if the market has rounds; by default the
    /// round of its open bets
    #[arg(long, value_name = "TIME", conflicts_with_all = ["cancel", "rollback_cancel"])]
    pub bets_from: Option<Timestamp>,
    /// When the result could be known: bets placed then or later are void
    #[arg(long, value_name = "TIME", conflicts_with_all = WHOLE_MARKET)]
    pub bets_until: Option<Timestamp>,
    /// All selections are void
    #[arg(long, conflicts_with_all = ["rollback", "cancel", "rollback_cancel"])]
    pub void: bool,
    /// Takes the results back: bets are open again
    #[arg(long, conflicts_with_all = ["cancel", "rollback_cancel"])]
    pub rollback: bool,
    /// Bets are void, whatever the result: all, or those placed between --from and --until
    #[arg(long, conflicts_with = "rollback_cancel")]
    pub cancel: bool,
    /// Takes a cancellation back, for bets placed between --from and --until
    #[arg(long)]
    pub rollback_cancel: bool,
    /// Bets placed at this time or later
    #[arg(long, value_name = "TIME", conflicts_with_all = SELECTIONS)]
    pub from: Option<Timestamp>,
    /// Bets placed before this time
    #[arg(long, value_name = "TIME", conflicts_with_all = SELECTIONS)]
    pub until: Option<Timestamp>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = one_line)]
    pub reason: String,
    /// Who decides, for the record; by default the user of the operating system
    #[arg(long, value_name = "NAME", value_parser = one_line)]
    pub by: Option<String>,
    /// Prints what every bet would get, and stores nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Which results are paid, as set for the server: they decide what the bets get.
    #[command(flatten)]
    pub settlement: SettlementSettings,
    /// The database.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// Options that decide the whole market.
const WHOLE_MARKET: [&str; 4] = ["void", "rollback", "cancel", "rollback_cancel"];
/// Options that have no window.
const SELECTIONS: [&str; 5] = ["winner", "dead_heat", "void_selection", "void", "rollback"];

/// Why a market is not decided.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The decision does not fit the market.
    #[error(transparent)]
    Decision(#[from] BadDecision),
    /// The market has open bets of several rounds.
    #[error(
        "the market has open bets of several rounds: name one with --bets-from, of {}",
        .0.iter().map(Timestamp::to_string).collect::<Vec<_>>().join(", ")
    )]
    Rounds(Vec<Timestamp>),
    /// A value cannot be part of a record.
    #[error("{0}")]
    Value(String),
    /// The database cannot be used.
    #[error(transparent)]
    Database(DatabaseError),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
}

impl From<StoreError> for SettleError {
    fn from(error: StoreError) -> SettleError {
        SettleError::Database(DatabaseError::of(error, &TABLES))
    }
}

impl From<RecordError> for SettleError {
    fn from(error: RecordError) -> SettleError {
        SettleError::Value(error.to_string())
    }
}

impl SettleError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            SettleError::Decision(_) | SettleError::Rounds(_) | SettleError::Value(_) => {
                exit::FAILED
            }
            SettleError::Database(_) => exit::UNAVAILABLE,
            SettleError::Output(_) => exit::OUTPUT,
        }
    }
}

/// Runs the command on this database.
pub fn run(
    args: &SettleArgs,
    engine: &StoreEngine,
    out: &mut dyn Write,
) -> Result<(), SettleError> {
    let store = operator_store::open(engine, "sports-bet-settle")?;
    let decision = args.decision()?;
    let market = args.market();
    let stored = store.market_results(&market)?;
    let known = known_selections(&*store, &market, &stored)?;
    let now = Timestamp::now();
    let rules = rules(args, engine);
    let round = match args.bets_from {
        Some(named) => Some(named),
        None => round(&*store, &market, &stored.results, &rules)?,
    };
    let record = args.record(decision.content(&known, round)?, now)?;
    let mut results = stored.results;
    results.insert(record.clone());
    let mut preview = Preview::default();
    preview::read(&*store, &market, |bet| {
        let change = preview.add(bet, &market, &results, &rules);
        written(text::bet(bet, &change, args.dry_run, out))
    })?;
    if !args.dry_run {
        store.store_results(std::slice::from_ref(&record), now)?;
    }
    written(text::summary(&record, &preview, args.dry_run, out))
}

/// The selections of a market: those with prices, results or open bets.
fn known_selections(
    store: &dyn OperatorStore,
    market: &EventMarket,
    stored: &StoredResults,
) -> Result<BTreeSet<SelectionId>, StoreError> {
    let mut known = BTreeSet::new();
    for state in store.load_event(&market.event_id)? {
        if state.update.market == market.market {
            known.extend(state.update.selections.iter().map(|one| one.id.clone()));
        }
    }
    let open = store.open_positions(PositionScope::Market(market))?;
    known.extend(open.into_iter().map(|position| position.selection));
    known.extend(stored.results.selections().cloned());
    Ok(known)
}

/// The round of a market's open bets; of its latest bets if none is open.
fn round(
    store: &dyn OperatorStore,
    market: &EventMarket,
    results: &MarketResults,
    rules: &SettlementRules,
) -> Result<Option<Timestamp>, SettleError> {
    let mut open = BTreeSet::new();
    let mut settled = BTreeSet::new();
    preview::read(store, market, |bet| {
        let round = results.round_of(bet.placed_at, rules);
        match bet.position {
            BetPosition::Open => open.insert(round),
            BetPosition::Settled { .. } => settled.insert(round),
        };
        Ok(())
    })?;
    if open.len() > 1 {
        return Err(SettleError::Rounds(open.into_iter().flatten().collect()));
    }
    let round = open.pop_first().or_else(|| settled.pop_last());
    Ok(round.flatten())
}

/// The rules of a server with these settings. One on SQLite runs all roles, so it trusts its
/// simulator unless it is told otherwise.
fn rules(args: &SettleArgs, engine: &StoreEngine) -> SettlementRules {
    let is_sqlite = matches!(engine, StoreEngine::Sqlite(_));
    let simulator = is_sqlite.then(simulator_source).flatten();
    args.settlement.rules(simulator)
}

impl SettleArgs {
    fn market(&self) -> EventMarket {
        EventMarket {
            event_id: self.event.clone(),
            market: MarketKey {
                name: self.market.clone(),
                line: self.line,
            },
        }
    }

    fn decision(&self) -> Result<OperatorDecision, SettleError> {
        let window = || Window::new(self.from, self.until);
        Ok(if self.void {
            OperatorDecision::Void
        } else if self.rollback {
            OperatorDecision::Rollback
        } else if self.cancel {
            OperatorDecision::Cancel(window()?)
        } else if self.rollback_cancel {
            OperatorDecision::RollbackCancel(window()?)
        } else {
            OperatorDecision::Result(NamedResults {
                winners: self.winner.clone(),
                dead_heats: self.dead_heats()?,
                voids: self.void_selection.clone(),
                bets_until: self.bets_until,
            })
        })
    }

    fn dead_heats(&self) -> Result<Vec<(SelectionId, DeadHeat)>, SettleError> {
        let pairs = self.dead_heat.chunks(2).map(|pair| match pair {
            [selection, share] => {
                let selection = SelectionId::new(selection)
                    .map_err(|error| SettleError::Value(error.to_string()))?;
                Ok((selection, read_share(share)?))
            }
            _ => Err(SettleError::Value(
                "--dead-heat takes two values".to_owned(),
            )),
        });
        pairs.collect()
    }

    fn record(&self, content: RecordContent, now: Timestamp) -> Result<ResultRecord, SettleError> {
        let name = self.by.clone().unwrap_or_else(system_user);
        let source = Source::new(&format!("{OPERATOR_PREFIX}{name}"))
            .map_err(|error| SettleError::Value(format!("--by: {error}")))?;
        let EventMarket { event_id, market } = self.market();
        Ok(ResultRecord {
            event_id,
            market,
            revision: Revision {
                updated_at: now,
                version: 1,
            },
            source,
            content,
            note: Some(Note::new(&self.reason)?),
        })
    }
}

/// Reads `1/2`.
fn read_share(text: &str) -> Result<DeadHeat, SettleError> {
    let share = text
        .split_once('/')
        .and_then(|(places, tied)| DeadHeat::new(places.parse().ok()?, tied.parse().ok()?));
    share.ok_or_else(|| {
        SettleError::Value(format!(
            "--dead-heat: got \"{text}\", want the places left, divided by the selections that share them, like 1/2"
        ))
    })
}

fn written(result: std::io::Result<()>) -> Result<(), SettleError> {
    operator::written(result).map_err(SettleError::Output)
}

#[cfg(test)]
mod tests;
