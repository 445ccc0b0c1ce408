//! The first answer to each idempotency key of a wallet request.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::{Stop, ledger, reservations};
use crate::store::failure::Failure;
use crate::store::money::{RequestKey, WalletError};
use crate::store::movements::{Moved, Movement, answer_text};
use crate::store::sqlite::schema::wallet_requests;

/// Executes a movement and stores the answer, unless its key has one.
pub(super) fn apply_once(
    connection: &mut SqliteConnection,
    movement: &Movement,
    key: &RequestKey,
) -> Result<Result<Moved, WalletError>, Failure> {
    let of = (
        movement.user_id().as_str(),
        movement.operation(),
        key.key.as_str(),
    );
    let first = wallet_requests::table
        .find(of)
        .select((wallet_requests::fingerprint, wallet_requests::answer))
        .first::<(String, String)>(connection)
        .optional()?;
    match first {
        Some((fingerprint, _)) if fingerprint != key.fingerprint => {
            return Ok(Err(WalletError::KeyReused));
        }
        Some((_, answer)) => return Ok(movement.read_answer(&answer)?),
        None => {}
    }
    let answer = match apply(connection, movement) {
        Ok(moved) => Ok(moved),
        Err(Stop::Refused(refusal)) => Err(refusal),
        Err(Stop::Failed(failure)) => return Err(failure),
    };
    let (user_id, operation, key_text) = of;
    diesel::insert_into(wallet_requests::table)
        .values((
            wallet_requests::user_id.eq(user_id),
            wallet_requests::operation.eq(operation),
            wallet_requests::key.eq(key_text),
            wallet_requests::fingerprint.eq(&key.fingerprint),
            wallet_requests::answer.eq(answer_text(&answer)?),
            wallet_requests::at.eq(movement.at().micros()),
        ))
        .execute(connection)?;
    Ok(answer)
}

fn apply(connection: &mut SqliteConnection, movement: &Movement) -> Result<Moved, Stop> {
    match movement {
        Movement::Deposit(order) => ledger::deposit(connection, order).map(Moved::Wallet),
        Movement::Withdraw(order) => ledger::withdraw(connection, order).map(Moved::Wallet),
        Movement::Reserve(order) => {
            reservations::reserve(connection, order).map(Moved::Reservation)
        }
        Movement::Settle {
            user_id,
            reference,
            settlement,
            at,
        } => {
            let settled =
                reservations::settle(connection, user_id, reference, *settlement, None, *at)?;
            Ok(Moved::Reservation(settled.0))
        }
    }
}
