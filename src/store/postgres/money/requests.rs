//! The first answer to each idempotency key of a wallet request.

use diesel::pg::PgConnection;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

use crate::domain::wallet::amount::Amount;
use crate::store::money::{RequestKey, WalletError};
use crate::store::movements::{Moved, Movement};
use crate::store::postgres::error::Failure;
use crate::store::postgres::stamp;
use crate::store::postgres::statement::statement;

statement! {
    /// Executes a movement, unless its key has an answer.
    ApplyOnce<'a> returns (Text):
    "SELECT answer FROM wallet_apply_once(" { user: &'a str as Text } ", " { operation: &'a str as Text } ", "
        { key: &'a str as Text } ", " { fingerprint: &'a str as Text } ", "
        { amount: Option<i64> as Nullable<BigInt> } ", " { reference: &'a str as Text } ", "
        { id: Uuid as SqlUuid } ", " { now: PgTimestamp as Timestamptz } ")"
}

pub(super) fn apply_once(
    connection: &mut PgConnection,
    movement: &Movement,
    key: &RequestKey,
    id: Uuid,
) -> Result<Result<Moved, WalletError>, Failure> {
    let statement = ApplyOnce {
        user: movement.user_id().as_str(),
        operation: movement.operation(),
        key: &key.key,
        fingerprint: &key.fingerprint,
        amount: movement.amount().map(Amount::cents),
        reference: movement.reference().as_str(),
        id,
        now: stamp(movement.at()),
    };
    let (answer,) = statement.get_result::<(String,)>(connection)?;
    Ok(movement.read_answer(&answer)?)
}
