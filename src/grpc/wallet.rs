//! `WalletService`.

use std::sync::Arc;

use uuid::Uuid;

use super::admission::{Admission, Call, Rule};
use super::convert;
use super::method::service;
use super::proto::v1;
use super::read;
use super::status::CallError;
use crate::domain::access::Scope;
use crate::domain::ids::{Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::ledger::HoldResolution;
use crate::http::errors::ApiError;
use crate::services::wallet::operations::{MoveMoney, WalletOperations};
use crate::store::money::{Page, TransferRequest, WalletError};
use crate::store::movements::{Moved, Movement};

/// Default number of rows of a page.
const DEFAULT_ROWS: usize = 100;

/// Serves `WalletService`.
#[derive(Clone)]
pub(crate) struct WalletApi {
    pub(super) admission: Admission,
    pub(super) operations: Arc<WalletOperations>,
}

service! {
    v1::wallet_service_server::WalletService, for WalletApi, named "WalletService";
    "GetWallet" get_wallet(v1::GetWalletRequest) -> v1::Wallet: Rule::read(Scope::WalletRead);
    "ListTransfers" list_transfers(v1::ListTransfersRequest) -> v1::ListTransfersResponse: Rule::read(Scope::WalletRead);
    "ListReservations" list_reservations(v1::ListReservationsRequest) -> v1::ListReservationsResponse: Rule::read(Scope::WalletRead);
    "Deposit" deposit(v1::DepositRequest) -> v1::Wallet: Rule::write(Scope::WalletMove);
    "Withdraw" withdraw(v1::WithdrawRequest) -> v1::Wallet: Rule::write(Scope::WalletMove);
    "Reserve" reserve(v1::ReserveRequest) -> v1::Reservation: Rule::write(Scope::WalletMove);
    "CommitReservation" commit_reservation(v1::CommitReservationRequest) -> v1::Reservation: Rule::write(Scope::WalletMove);
    "RefundReservation" refund_reservation(v1::RefundReservationRequest) -> v1::Reservation: Rule::write(Scope::WalletMove);
}

impl WalletApi {
    /// Serves wallets through `operations` to callers that `admission` admits.
    pub(crate) fn new(admission: Admission, operations: Arc<WalletOperations>) -> WalletApi {
        WalletApi {
            admission,
            operations,
        }
    }

    /// The methods, as in metrics.
    pub(crate) const METHODS: &'static [&'static str] = METHODS;

    async fn get_wallet(
        &self,
        call: Call,
        request: v1::GetWalletRequest,
    ) -> Result<v1::Wallet, CallError> {
        let user_id = call.user_to_read(&request.user_id)?;
        let found = self.operations.wallet(user_id.clone()).await?;
        let (wallet, owed) = found.ok_or(ApiError::Wallet(WalletError::WalletNotFound))?;
        let currency = &self.operations.currency;
        Ok(convert::wallet(&user_id, &wallet, Some(owed), currency))
    }

    async fn list_transfers(
        &self,
        call: Call,
        request: v1::ListTransfersRequest,
    ) -> Result<v1::ListTransfersResponse, CallError> {
        let user_id = call.user_to_read(&request.user_id)?;
        let limit = read::page_size(request.page_size, DEFAULT_ROWS)?;
        let before = read::optional("page_token", &request.page_token)?;
        let page = Page { before, limit };
        let rows = self.operations.transfers(user_id, page).await?;
        let last = rows.last().filter(|_| rows.len() == limit);
        Ok(v1::ListTransfersResponse {
            next_page_token: last.map(|last| last.id.to_string()).unwrap_or_default(),
            transfers: rows.iter().map(convert::transfer).collect(),
        })
    }

    async fn list_reservations(
        &self,
        call: Call,
        request: v1::ListReservationsRequest,
    ) -> Result<v1::ListReservationsResponse, CallError> {
        let user_id = call.user_to_read(&request.user_id)?;
        let status = read::known("status", request.status, convert::status_of_reservation)?;
        let limit = read::page_size(request.page_size, DEFAULT_ROWS)?;
        let before = read::optional("page_token", &request.page_token)?;
        let page = Page { before, limit };
        let rows = self.operations.reservations(user_id, status, page).await?;
        let last = rows.last().filter(|_| rows.len() == limit);
        Ok(v1::ListReservationsResponse {
            next_page_token: last.map(|last| last.id.to_string()).unwrap_or_default(),
            reservations: rows.iter().map(convert::reservation).collect(),
        })
    }

    async fn deposit(
        &self,
        call: Call,
        request: v1::DepositRequest,
    ) -> Result<v1::Wallet, CallError> {
        let transfer = Transfer::read(&call, &request.user_id, request.amount_cents)?;
        let named = read::optional("external_ref", &request.external_ref)?;
        let movement = Movement::Deposit(transfer.with_reference(named.clone())?);
        self.move_wallet(&call, movement, named).await
    }

    async fn withdraw(
        &self,
        call: Call,
        request: v1::WithdrawRequest,
    ) -> Result<v1::Wallet, CallError> {
        let transfer = Transfer::read(&call, &request.user_id, request.amount_cents)?;
        let named = read::optional("external_ref", &request.external_ref)?;
        let movement = Movement::Withdraw(transfer.with_reference(named.clone())?);
        self.move_wallet(&call, movement, named).await
    }

    async fn reserve(
        &self,
        call: Call,
        request: v1::ReserveRequest,
    ) -> Result<v1::Reservation, CallError> {
        let transfer = Transfer::read(&call, &request.user_id, request.amount_cents)?;
        let named: Reference = read::id("external_ref", &request.external_ref)?;
        let movement = Movement::Reserve(transfer.with_reference(Some(named.clone()))?);
        self.move_reservation(&call, movement, named).await
    }

    async fn commit_reservation(
        &self,
        call: Call,
        request: v1::CommitReservationRequest,
    ) -> Result<v1::Reservation, CallError> {
        let user_id = call.user_to_act_for(&request.user_id)?;
        let reference = read::id("external_ref", &request.external_ref)?;
        self.resolve(&call, user_id, reference, HoldResolution::Commit)
            .await
    }

    async fn refund_reservation(
        &self,
        call: Call,
        request: v1::RefundReservationRequest,
    ) -> Result<v1::Reservation, CallError> {
        let user_id = call.user_to_act_for(&request.user_id)?;
        let reference = read::id("external_ref", &request.external_ref)?;
        self.resolve(&call, user_id, reference, HoldResolution::Refund)
            .await
    }

    async fn resolve(
        &self,
        call: &Call,
        user_id: UserId,
        reference: Reference,
        settlement: HoldResolution,
    ) -> Result<v1::Reservation, CallError> {
        let movement = Movement::Settle {
            user_id,
            reference: reference.clone(),
            settlement,
            at: Timestamp::now(),
        };
        self.move_reservation(call, movement, reference).await
    }

    async fn move_wallet(
        &self,
        call: &Call,
        movement: Movement,
        named: Option<Reference>,
    ) -> Result<v1::Wallet, CallError> {
        let user_id = movement.user_id().clone();
        match self.apply(call, movement, named).await? {
            Moved::Wallet(wallet) => {
                let currency = &self.operations.currency;
                Ok(convert::wallet(&user_id, &wallet, None, currency))
            }
            Moved::Reservation(_) => Err(ApiError::StoreUnavailable.into()),
        }
    }

    async fn move_reservation(
        &self,
        call: &Call,
        movement: Movement,
        named: Reference,
    ) -> Result<v1::Reservation, CallError> {
        match self.apply(call, movement, Some(named)).await? {
            Moved::Reservation(reservation) => Ok(convert::reservation(&reservation)),
            Moved::Wallet(_) => Err(ApiError::StoreUnavailable.into()),
        }
    }

    async fn apply(
        &self,
        call: &Call,
        movement: Movement,
        named: Option<Reference>,
    ) -> Result<Moved, CallError> {
        let key = call.key()?;
        let command = MoveMoney {
            movement,
            named,
            key,
        };
        Ok(self.operations.apply(command).await?)
    }
}

/// A transfer of money without its reference.
struct Transfer {
    user_id: UserId,
    amount: crate::domain::wallet::amount::Amount,
}

impl Transfer {
    fn read(call: &Call, user_id: &str, amount_cents: i64) -> Result<Transfer, ApiError> {
        Ok(Transfer {
            user_id: call.user_to_act_for(user_id)?,
            amount: read::amount("amount_cents", amount_cents)?,
        })
    }

    /// With the reference that was sent, or else a new one.
    fn with_reference(self, named: Option<Reference>) -> Result<TransferRequest, ApiError> {
        let new = || read::id("external_ref", &Uuid::now_v7().to_string());
        Ok(TransferRequest {
            user_id: self.user_id,
            amount: self.amount,
            reference: named.map_or_else(new, Ok)?,
            at: Timestamp::now(),
        })
    }
}
