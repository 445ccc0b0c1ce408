//! The output of `sports-bet report`.

use std::io::{Result, Write};

use serde_json::json;

use crate::domain::ids::EventMarket;
use crate::domain::wallet::ledger::TransferKind;
use crate::store::money::{OpenPosition, SettledTotals};

/// The open bets of a market, by selection.
pub(super) struct OpenMarket {
    market: EventMarket,
    positions: Vec<OpenPosition>,
}

impl OpenMarket {
    fn stakes(&self) -> i128 {
        let stakes = self.positions.iter().map(|one| i128::from(one.stake_cents));
        stakes.sum()
    }

    /// What the house has left of the stakes if only this selection wins.
    fn result_of(&self, position: &OpenPosition) -> i128 {
        self.stakes() - i128::from(position.payout_cents)
    }
}

/// Groups positions, which are ordered by market.
pub(super) fn by_market(positions: Vec<OpenPosition>) -> Vec<OpenMarket> {
    let mut markets: Vec<OpenMarket> = Vec::new();
    for position in positions {
        match markets.last_mut() {
            Some(last) if last.market == position.market => last.positions.push(position),
            _ => markets.push(OpenMarket {
                market: position.market.clone(),
                positions: vec![position],
            }),
        }
    }
    markets
}

/// One line per market, followed by one line per selection.
pub(super) fn liability(markets: &[OpenMarket], out: &mut dyn Write) -> Result<()> {
    if markets.is_empty() {
        return writeln!(out, "no open bets");
    }
    for market in markets {
        let bets: u64 = market.positions.iter().map(|one| one.bets).sum();
        writeln!(
            out,
            "{}  {bets} open bets, stakes {}",
            market.market,
            market.stakes()
        )?;
        for position in &market.positions {
            writeln!(
                out,
                "    {} wins: {} bets with stakes {} pay {}, result {:+}",
                position.selection,
                position.bets,
                position.stake_cents,
                position.payout_cents,
                market.result_of(position)
            )?;
        }
    }
    Ok(())
}

/// A JSON array of markets.
pub(super) fn liability_json(markets: &[OpenMarket], out: &mut dyn Write) -> Result<()> {
    let markets: Vec<_> = markets
        .iter()
        .map(|market| {
            let selections: Vec<_> = market
                .positions
                .iter()
                .map(|position| {
                    json!({
                        "selection": position.selection.as_str(),
                        "bets": position.bets,
                        "stake_cents": position.stake_cents,
                        "payout_cents": position.payout_cents,
                        "result_cents": market.result_of(position),
                    })
                })
                .collect();
            json!({
                "eventId": market.market.event_id.as_str(),
                "market": market.market.market.name.as_str(),
                "line": market.market.market.line,
                "stake_cents": market.stakes(),
                "selections": selections,
            })
        })
        .collect();
    writeln!(out, "{}", json!(markets))
}

/// The sum of the transfers of a kind, in cents.
fn sum_of(totals: &SettledTotals, kind: TransferKind) -> i128 {
    let of_kind = totals.transfers.iter().filter(|total| total.kind == kind);
    of_kind.map(|total| total.cents).sum()
}

/// What the house earned: stakes of settled bets, less payouts, plus what was taken back.
fn house_result(totals: &SettledTotals) -> i128 {
    use TransferKind::{Clawback, Owe, Payout, Settle, Unsettle};
    let sum = |kind| sum_of(totals, kind);
    sum(Settle) - sum(Unsettle) - sum(Payout) + sum(Clawback) + sum(Owe)
}

/// One line per outcome and per kind of transfer, and the result.
pub(super) fn settled(totals: &SettledTotals, out: &mut dyn Write) -> Result<()> {
    for total in &totals.outcomes {
        let outcome = total.outcome.map_or("open again", Into::into);
        writeln!(
            out,
            "{outcome}: {} settlements, {:+} cents to users",
            total.settlements, total.difference_cents
        )?;
    }
    for total in &totals.transfers {
        writeln!(
            out,
            "{}: {} transfers, {} cents",
            total.kind, total.transfers, total.cents
        )?;
    }
    writeln!(out, "result of the house: {:+} cents", house_result(totals))
}

/// A JSON object.
pub(super) fn settled_json(totals: &SettledTotals, out: &mut dyn Write) -> Result<()> {
    let outcomes: Vec<_> = totals
        .outcomes
        .iter()
        .map(|total| {
            json!({
                "outcome": total.outcome,
                "settlements": total.settlements,
                "difference_cents": total.difference_cents,
            })
        })
        .collect();
    let transfers: Vec<_> = totals
        .transfers
        .iter()
        .map(
            |total| json!({"kind": total.kind, "transfers": total.transfers, "cents": total.cents}),
        )
        .collect();
    let report = json!({
        "outcomes": outcomes,
        "transfers": transfers,
        "result_cents": house_result(totals),
    });
    writeln!(out, "{report}")
}
