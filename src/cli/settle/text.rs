//! The output of `sports-bet settle`.

use std::io::{Result, Write};

use super::preview::Preview;
use crate::domain::settlement::payout::SettledAs;
use crate::domain::settlement::plan::Plan;
use crate::domain::settlement::postings::BetPosition;
use crate::domain::settlement::record::ResultRecord;
use crate::store::money::DueBet;

/// One bet: what it has had, and what it gets. Without a dry run only the totals are printed.
pub(super) fn bet(bet: &DueBet, plan: &Plan, is_dry_run: bool, out: &mut dyn Write) -> Result<()> {
    if !is_dry_run {
        return Ok(());
    }
    let paid = match bet.position {
        BetPosition::Open => 0,
        BetPosition::Settled { paid } => paid,
    };
    write!(
        out,
        "{}  {}  {}  {} at {}  {}",
        bet.id,
        bet.user_id,
        bet.selection,
        bet.stake.cents(),
        bet.price,
        state(bet.outcome, paid),
    )?;
    match plan {
        Plan::Nothing { .. } => writeln!(out, "  unchanged"),
        Plan::Hold(reason) => writeln!(out, "  held: {}", <&str>::from(*reason)),
        Plan::Settle(change) => {
            let (outcome, payout) = match change.becomes {
                Some((outcome, payout)) => (Some(outcome), payout),
                None => (None, 0),
            };
            writeln!(
                out,
                "  becomes {}  {:+}",
                state(outcome, payout),
                change.difference
            )
        }
    }
}

fn state(outcome: Option<SettledAs>, paid: i64) -> String {
    match outcome {
        Some(outcome) => format!("{outcome} {paid}"),
        None => "open".to_owned(),
    }
}

/// The totals, and what was stored.
pub(super) fn summary(
    record: &ResultRecord,
    preview: &Preview,
    is_dry_run: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let Preview {
        changed,
        unchanged,
        held,
        paid_cents,
        taken_back_cents,
    } = preview;
    writeln!(
        out,
        "bets: {changed} change, {unchanged} stay, {held} held; paid {paid_cents}, taken back {taken_back_cents} cents"
    )?;
    if is_dry_run {
        writeln!(out, "dry run, nothing is stored: {}", record.to_json())
    } else {
        writeln!(out, "stored: {}", record.to_json())
    }
}
