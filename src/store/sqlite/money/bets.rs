//! Placing and reading bets.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::{Stop, bet_keys, contradiction, ledger, outbox, reservations};
use crate::domain::bets::bet::{Bet, BetId, BetRefusal, BetStatus, BetStep};
use crate::domain::bets::held;
use crate::domain::ids::{Reference, UserId};
use crate::domain::odds::hold::Hold;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::{
    BetAnswer, BetFilter, BetPlacement, BetReader, BetStore, OutboxMessage, OutboxTopic, Page,
    RequestKey, TransferRequest, WalletError,
};
use crate::store::rows::money::{BetRow, BetStepRow};
use crate::store::rows::{line_text, parsed, read_all, row_limit};
use crate::store::sqlite::schema::{bet_history, bets};
use crate::store::sqlite::{SqliteStore, holds};

impl BetReader for SqliteStore {
    fn bet(&self, bet_id: BetId) -> Result<Option<Bet>, StoreError> {
        self.read(|connection| find(connection, bet_id))
    }

    fn bets_by_id(&self, bet_ids: &[BetId]) -> Result<Vec<Option<Bet>>, StoreError> {
        self.read(|connection| {
            bet_ids
                .iter()
                .map(|bet_id| find(connection, *bet_id))
                .collect()
        })
    }
}

impl BetStore for SqliteStore {
    fn place_bet(&self, placement: &BetPlacement) -> Result<BetAnswer, StoreError> {
        self.connections.write(|connection| {
            let holds = holds::in_force(connection, placement.bet.placed_at)?;
            place(connection, placement, &holds)
        })
    }

    fn place_bets(
        &self,
        placements: &[BetPlacement],
    ) -> Result<Vec<Option<BetAnswer>>, StoreError> {
        let placed_at = placements.iter().map(|placement| placement.bet.placed_at);
        let Some(first) = placed_at.min() else {
            return Ok(Vec::new());
        };
        self.connections.write(|connection| {
            let holds = holds::in_force(connection, first)?;
            let place = |placement| place(connection, placement, &holds).map(Some);
            placements.iter().map(place).collect()
        })
    }

    fn refuse_bet(
        &self,
        user_id: &UserId,
        key: &RequestKey,
        refusal: &BetRefusal,
        at: Timestamp,
    ) -> Result<BetAnswer, StoreError> {
        self.connections
            .write(|connection| bet_keys::refuse(connection, user_id, key, refusal, at))
    }

    fn first_answer(
        &self,
        user_id: &UserId,
        key: &RequestKey,
    ) -> Result<Option<BetAnswer>, StoreError> {
        self.read(|connection| bet_keys::first_answer(connection, user_id, key))
    }

    fn bet_history(&self, bet_id: BetId) -> Result<Vec<BetStep>, StoreError> {
        self.read(|connection| {
            let rows = bet_history::table
                .filter(bet_history::bet_id.eq(bet_id.to_string()))
                .order(bet_history::id)
                .select((
                    bet_history::old_status,
                    bet_history::new_status,
                    bet_history::reason,
                    bet_history::at,
                ))
                .load(connection)?;
            read_all(rows, BetStepRow::read)
        })
    }

    fn bets(
        &self,
        user_id: &UserId,
        filter: BetFilter,
        page: Page<BetId>,
    ) -> Result<Vec<Bet>, StoreError> {
        let mut rows = bets::table
            .filter(bets::user_id.eq(user_id.as_str()))
            .order(bets::id.desc())
            .limit(row_limit(page.limit))
            .select(bet_columns())
            .into_boxed();
        if let Some(status) = filter.status {
            rows = rows.filter(bets::status.eq(status.as_str()));
        }
        if let Some(outcome) = filter.outcome {
            rows = rows.filter(bets::outcome.eq(<&str>::from(outcome)));
        }
        if let Some(before) = page.before {
            rows = rows.filter(bets::id.lt(before.to_string()));
        }
        self.read(|connection| read_all(rows.load(connection)?, BetRow::read))
    }
}

/// The columns of a [`BetRow`].
#[diesel::dsl::auto_type(no_type_alias)]
pub(super) fn bet_columns() -> _ {
    (
        bets::id,
        bets::user_id,
        bets::event_id,
        bets::market,
        bets::line,
        bets::selection,
        bets::stake_cents,
        bets::price_thousandths,
        bets::status,
        bets::reason,
        bets::provider_ref,
        bets::placed_at,
        bets::decide_by,
        bets::decided_at,
        bets::outcome,
        bets::payout_cents,
        bets::settled_at,
    )
}

fn find(connection: &mut SqliteConnection, bet_id: BetId) -> Result<Option<Bet>, Failure> {
    let row = bets::table
        .find(bet_id.to_string())
        .select(bet_columns())
        .first(connection)
        .optional()?;
    Ok(row.map(BetRow::read).transpose()?)
}

/// Places a bet, unless its key already has an answer or a hold covers it.
fn place(
    connection: &mut SqliteConnection,
    placement: &BetPlacement,
    holds: &[Hold],
) -> Result<BetAnswer, Failure> {
    let BetPlacement {
        bet,
        source,
        key,
        notice,
    } = placement;
    let key = key.as_ref();
    if let Some(key) = key
        && let Some(first) = bet_keys::first_answer(connection, &bet.user_id, key)?
    {
        return Ok(first);
    }
    if let Some(reservation) = reservations::find(connection, &bet.user_id, &reference_of(bet.id)?)?
    {
        return repeated(connection, bet, &reservation, key);
    }
    if let Some(refusal) = held::refusal(bet, source, holds) {
        return refuse(connection, bet, key, refusal);
    }
    let refusal = match stake(connection, bet) {
        Ok(new_balance) => return insert(connection, bet, new_balance, key, notice),
        Err(Stop::Refused(WalletError::WalletNotFound)) => BetRefusal::WalletNotFound,
        Err(Stop::Refused(WalletError::InsufficientFunds)) => BetRefusal::InsufficientFunds,
        Err(Stop::Refused(other)) => {
            return Err(contradiction(format_args!("bet {}: {other}", bet.id)).into());
        }
        Err(Stop::Failed(failure)) => return Err(failure),
    };
    refuse(connection, bet, key, refusal)
}

/// Refuses a bet, and stores the refusal as the answer to its key.
fn refuse(
    connection: &mut SqliteConnection,
    bet: &Bet,
    key: Option<&RequestKey>,
    refusal: BetRefusal,
) -> Result<BetAnswer, Failure> {
    match key {
        Some(key) => bet_keys::refuse(connection, &bet.user_id, key, &refusal, bet.placed_at),
        None => Ok(BetAnswer::Refused(refusal)),
    }
}

/// A bet that already exists. A request without a key may be repeated because its first answer was
/// lost.
fn repeated(
    connection: &mut SqliteConnection,
    bet: &Bet,
    held: &reservations::Held,
    key: Option<&RequestKey>,
) -> Result<BetAnswer, Failure> {
    match find(connection, bet.id)? {
        Some(first) if key.is_none() && held.bet_id == Some(bet.id) && first.stake == bet.stake => {
            let new_balance = reservations::available_after_reserve(
                connection,
                &bet.user_id,
                &held.reservation.reference,
            )?;
            Ok(BetAnswer::Placed {
                bet_id: first.id,
                price: first.price,
                new_balance,
                outbox: None,
            })
        }
        _ => Err(contradiction(format_args!(
            "bet {} or its reservation already exists",
            bet.id
        ))
        .into()),
    }
}

/// Reserves the stake and returns the available balance afterwards.
fn stake(connection: &mut SqliteConnection, bet: &Bet) -> Result<i64, Stop> {
    let wallet = ledger::known(connection, &bet.user_id)?;
    let order = TransferRequest {
        user_id: bet.user_id.clone(),
        amount: bet.stake,
        reference: reference_of(bet.id)?,
        at: bet.placed_at,
    };
    let (_, after) = reservations::hold(connection, wallet.balance, &order, Some(bet.id))?;
    Ok(after.available)
}

/// The reference of a bet's reservation.
pub(super) fn reference_of(bet_id: BetId) -> Result<Reference, StoreError> {
    parsed("bet", &bet_id.to_string())
}

fn insert(
    connection: &mut SqliteConnection,
    bet: &Bet,
    new_balance: i64,
    key: Option<&RequestKey>,
    notice: &OutboxMessage,
) -> Result<BetAnswer, Failure> {
    diesel::insert_into(bets::table)
        .values((
            bets::id.eq(bet.id.to_string()),
            bets::user_id.eq(bet.user_id.as_str()),
            bets::event_id.eq(bet.event_id.as_str()),
            bets::market.eq(bet.market.name.as_str()),
            bets::line.eq(line_text(bet.market.line)),
            bets::selection.eq(bet.selection.as_str()),
            bets::stake_cents.eq(bet.stake.cents()),
            bets::price_thousandths.eq(bet.price.thousandths() as i32),
            bets::status.eq(BetStatus::Pending.as_str()),
            bets::placed_at.eq(bet.placed_at.micros()),
            bets::decide_by.eq(bet.decide_by.micros()),
        ))
        .execute(connection)?;
    add_step(
        connection,
        bet.id,
        None,
        (BetStatus::Pending, None),
        bet.placed_at,
    )?;
    if let Some(key) = key {
        bet_keys::store_bet(
            connection,
            &bet.user_id,
            key,
            (bet.id, new_balance),
            bet.placed_at,
        )?;
    }
    let outbox = outbox::add(
        connection,
        OutboxTopic::Placed,
        bet.id,
        notice,
        bet.placed_at,
    )?;
    Ok(BetAnswer::Placed {
        bet_id: bet.id,
        price: bet.price,
        new_balance,
        outbox: Some(outbox),
    })
}

/// Adds a step to the history of a bet.
pub(super) fn add_step(
    connection: &mut SqliteConnection,
    bet_id: BetId,
    from: Option<BetStatus>,
    (to, reason): (BetStatus, Option<&str>),
    at: Timestamp,
) -> Result<(), Failure> {
    diesel::insert_into(bet_history::table)
        .values((
            bet_history::bet_id.eq(bet_id.to_string()),
            bet_history::old_status.eq(from.map(BetStatus::as_str)),
            bet_history::new_status.eq(to.as_str()),
            bet_history::reason.eq(reason),
            bet_history::at.eq(at.micros()),
        ))
        .execute(connection)?;
    Ok(())
}
