//! The first answer to each idempotency key of a bet request.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use crate::domain::bets::bet::{BetId, BetRefusal};
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::store::failure::Failure;
use crate::store::money::{BetAnswer, RequestKey, read_refusal, refusal_text};
use crate::store::rows::{parsed, price, unreadable};
use crate::store::sqlite::schema::{bet_requests, bets};

/// The answer to a key, if it has one.
pub(super) fn first_answer(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    key: &RequestKey,
) -> Result<Option<BetAnswer>, Failure> {
    type Row = (
        String,
        Option<String>,
        Option<i64>,
        Option<String>,
        Option<i32>,
    );
    let row = bet_requests::table
        .left_join(bets::table.on(bet_requests::bet_id.eq(bets::id.nullable())))
        .filter(bet_requests::user_id.eq(user_id.as_str()))
        .filter(bet_requests::key.eq(&key.key))
        .select((
            bet_requests::fingerprint,
            bet_requests::bet_id,
            bet_requests::new_balance,
            bet_requests::refusal,
            bets::price_thousandths.nullable(),
        ))
        .first::<Row>(connection)
        .optional()?;
    let Some((fingerprint, bet_id, new_balance, refusal, thousandths)) = row else {
        return Ok(None);
    };
    Ok(Some(match (bet_id, new_balance, thousandths, refusal) {
        _ if fingerprint != key.fingerprint => BetAnswer::KeyReused,
        (Some(bet_id), Some(new_balance), Some(thousandths), None) => BetAnswer::Placed {
            bet_id: parsed("bet_id", &bet_id)?,
            price: price(thousandths)?,
            new_balance,
            outbox: None,
        },
        (None, None, None, Some(refusal)) => BetAnswer::Refused(read_refusal(&refusal)?),
        _ => return Err(unreadable("answer to key", &key.key).into()),
    }))
}

/// Stores a placed bet as the answer to a key.
pub(super) fn store_bet(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    key: &RequestKey,
    (bet_id, new_balance): (BetId, i64),
    at: Timestamp,
) -> Result<(), Failure> {
    diesel::insert_into(bet_requests::table)
        .values((
            bet_requests::user_id.eq(user_id.as_str()),
            bet_requests::key.eq(&key.key),
            bet_requests::fingerprint.eq(&key.fingerprint),
            bet_requests::bet_id.eq(bet_id.to_string()),
            bet_requests::new_balance.eq(new_balance),
            bet_requests::at.eq(at.micros()),
        ))
        .execute(connection)?;
    Ok(())
}

/// Stores a rejection, unless the key already has an answer; returns the first answer.
pub(super) fn refuse(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    key: &RequestKey,
    refusal: &BetRefusal,
    at: Timestamp,
) -> Result<BetAnswer, Failure> {
    if let Some(first) = first_answer(connection, user_id, key)? {
        return Ok(first);
    }
    diesel::insert_into(bet_requests::table)
        .values((
            bet_requests::user_id.eq(user_id.as_str()),
            bet_requests::key.eq(&key.key),
            bet_requests::fingerprint.eq(&key.fingerprint),
            bet_requests::refusal.eq(refusal_text(refusal)?),
            bet_requests::at.eq(at.micros()),
        ))
        .execute(connection)?;
    Ok(BetAnswer::Refused(refusal.clone()))
}
