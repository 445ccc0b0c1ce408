//! The body of a request for a transfer.

use actix_web::HttpRequest;
use serde::Deserialize;
use uuid::Uuid;

use crate::domain::ids::{IdError, Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::ledger::HoldResolution;
use crate::http::body::{self, Field};
use crate::http::errors::ApiError;
use crate::http::idempotency;
use crate::services::wallet::operations::MoveMoney;
use crate::store::money::TransferRequest;
use crate::store::movements::Movement;

/// The kind of a requested transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MovementKind {
    Deposit,
    Withdraw,
    Reserve,
    Commit,
    Refund,
}

/// The body of a request for a transfer. `commit` and `refund` use the amount of the reservation:
/// theirs is accepted, since the original's worker sends it, and ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MovementBody {
    #[serde(rename = "userId")]
    user_id: Field,
    amount_cents: Field,
    external_ref: Field,
    #[serde(rename = "requestId")]
    request_id: Field,
}

impl MovementBody {
    fn user(&self) -> Result<UserId, ApiError> {
        body::text("userId", &self.user_id)
    }

    fn reference(&self) -> Result<Option<Reference>, ApiError> {
        body::optional("external_ref", &self.external_ref)
    }

    fn order(&self, reference: Reference) -> Result<TransferRequest, ApiError> {
        let amount = body::amount("amount_cents", &self.amount_cents)?;
        Ok(TransferRequest {
            user_id: self.user()?,
            amount,
            reference,
            at: Timestamp::now(),
        })
    }

    /// Reads the command. `request` may have the idempotency key in a header.
    pub(super) fn command(
        &self,
        kind: MovementKind,
        new_reference: Uuid,
        request: &HttpRequest,
    ) -> Result<MoveMoney, ApiError> {
        Ok(MoveMoney {
            movement: self.movement(kind, new_reference)?,
            named: self.reference()?,
            key: idempotency::key(request.headers(), &self.request_id)?,
        })
    }

    /// Reads the transfer. `new_reference` is used for a deposit or a withdrawal that names no
    /// reference: without one, and without a key, each request is a separate transfer, as in the
    /// original.
    fn movement(&self, kind: MovementKind, new_reference: Uuid) -> Result<Movement, ApiError> {
        let named = self.reference()?;
        let required_reference = || named.clone().ok_or_else(|| body::missing("external_ref"));
        let settle = |settlement| -> Result<Movement, ApiError> {
            Ok(Movement::Settle {
                user_id: self.user()?,
                reference: required_reference()?,
                settlement,
                at: Timestamp::now(),
            })
        };
        let order = || {
            let reference = named
                .clone()
                .map_or_else(|| new_reference.to_string().parse(), Ok);
            self.order(reference.map_err(|error: IdError| bad_reference(&error))?)
        };
        match kind {
            MovementKind::Deposit => order().map(Movement::Deposit),
            MovementKind::Withdraw => order().map(Movement::Withdraw),
            MovementKind::Reserve => self.order(required_reference()?).map(Movement::Reserve),
            MovementKind::Commit => settle(HoldResolution::Commit),
            MovementKind::Refund => settle(HoldResolution::Refund),
        }
    }
}

fn bad_reference(error: &IdError) -> ApiError {
    ApiError::BadField {
        field: "external_ref",
        problem: error.to_string(),
    }
}
