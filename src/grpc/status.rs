//! Errors of the use cases as gRPC statuses: the code of REST is the reason of an `ErrorInfo`.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::actors::streaming::stream_end::EndReason;
use crate::domain::access::AccessDenied;
use crate::domain::bets::bet::BetRefusal;
use crate::domain::streaming::protocol::{CloseReason, Refusal};
use crate::http::error_response::retry_after;
use crate::http::errors::ApiError;
use crate::services::bets::placement::PlacementError;
use crate::services::bets::prices::PricesError;
use crate::store::money::WalletError;

/// The domain of every `ErrorInfo`.
const DOMAIN: &str = "sports-bet-platform";
/// The longest message of a status, in bytes: it is a header of the response.
const MAX_MESSAGE: usize = 1_024;

/// The error of a call.
#[derive(Debug)]
pub(super) struct CallError {
    error: ApiError,
    code: Code,
}

impl<E: Into<ApiError>> From<E> for CallError {
    fn from(error: E) -> CallError {
        let error = error.into();
        let code = code_of(&error);
        CallError { error, code }
    }
}

impl CallError {
    /// Why a bet was not placed. That prices may be old is the market's answer, not a failure.
    pub(super) fn of_placement(error: PlacementError) -> CallError {
        let is_stale = matches!(error, PlacementError::Prices(PricesError::Stale));
        let error = CallError::from(error);
        let code = if is_stale {
            Code::FailedPrecondition
        } else {
            error.code
        };
        CallError { code, ..error }
    }

    /// The error of the use case.
    pub(super) fn error(&self) -> &ApiError {
        &self.error
    }

    /// The status of the response.
    pub(super) fn status(&self) -> Status {
        let metadata = metadata(&self.error);
        let retry = retry_after(&self.error).map(Duration::from_secs);
        status(self.code, self.error.code().0, &self.error, metadata, retry)
    }
}

/// The status of a refused request.
pub(super) fn refused(error: ApiError) -> Status {
    CallError::from(error).status()
}

/// The status with which a stream ends.
pub(super) fn of_end(reason: &EndReason) -> Status {
    let none = HashMap::new();
    let soon = Some(Duration::from_secs(1));
    match reason {
        EndReason::Slow => {
            let text = "the client has read nothing for too long";
            status(Code::ResourceExhausted, "SLOW_CLIENT", &text, none, soon)
        }
        EndReason::Refused(refusal) => {
            let code = match refusal {
                Refusal::TooManySubscriptions(_) => Code::ResourceExhausted,
                _ => Code::InvalidArgument,
            };
            status(code, refusal.code(), refusal, none, None)
        }
        EndReason::Closed(reason) => {
            let (code, name) = closed_code(*reason);
            let retry = soon.filter(|_| code == Code::Unavailable);
            status(code, name, &reason.text(), none, retry)
        }
    }
}

fn closed_code(reason: CloseReason) -> (Code, &'static str) {
    match reason {
        CloseReason::GoingAway => (Code::Unavailable, "GOING_AWAY"),
        CloseReason::CredentialExpired => (Code::Unauthenticated, "CREDENTIAL_EXPIRED"),
        CloseReason::CredentialRevoked => (Code::Unauthenticated, "CREDENTIAL_REVOKED"),
        CloseReason::NotAuthenticated => (Code::Unauthenticated, "UNAUTHENTICATED"),
        // The others are those of sockets.
        _ => (Code::Unavailable, "STREAM_ENDED"),
    }
}

fn status(
    code: Code,
    reason: &'static str,
    message: &dyn std::fmt::Display,
    metadata: HashMap<String, String>,
    retry: Option<Duration>,
) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    let mut message = message.to_string();
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    Status::with_error_details(code, message, details)
}

/// What a client needs besides the message: the new price, a limit, or the field.
fn metadata(error: &ApiError) -> HashMap<String, String> {
    let (name, value) = match error {
        ApiError::BetRefused(BetRefusal::OddsChanged { odd_value }) => {
            ("price_thousandths", odd_value.thousandths().to_string())
        }
        ApiError::BetRefused(
            BetRefusal::StakeTooLow { limit_cents }
            | BetRefusal::StakeTooHigh { limit_cents }
            | BetRefusal::PayoutTooHigh { limit_cents },
        ) => ("limit_cents", limit_cents.cents().to_string()),
        ApiError::BadField { field, .. } | ApiError::InvalidAmount { field, .. } => {
            ("field", (*field).to_owned())
        }
        _ => return HashMap::new(),
    };
    HashMap::from([(name.to_owned(), value)])
}

fn code_of(error: &ApiError) -> Code {
    match error {
        ApiError::EventNotFound(_)
        | ApiError::MarketNotFound { .. }
        | ApiError::NotFound(_)
        | ApiError::BetNotFound(_) => Code::NotFound,
        ApiError::BadQuery { .. }
        | ApiError::BadRequest(_)
        | ApiError::BadField { .. }
        | ApiError::InvalidAmount { .. }
        | ApiError::PayloadTooLarge(_)
        | ApiError::UnsupportedMediaType(_)
        | ApiError::UnsupportedEncoding(_)
        | ApiError::BadHandshake(_)
        | ApiError::WebSocketVersion => Code::InvalidArgument,
        ApiError::MethodNotAllowed { .. } => Code::Unimplemented,
        ApiError::OriginNotAllowed(_) | ApiError::HostNotAllowed(_) => Code::PermissionDenied,
        ApiError::InvalidCredential(_) | ApiError::AccessDenied(AccessDenied::Unauthenticated) => {
            Code::Unauthenticated
        }
        ApiError::AccessDenied(_) => Code::PermissionDenied,
        ApiError::AccessUnknown => Code::Internal,
        ApiError::TooManySessionsOfAddress(_)
        | ApiError::TooManySessionsOfCaller(_)
        | ApiError::TooManyRequests(_)
        | ApiError::TooManySessions(_) => Code::ResourceExhausted,
        ApiError::AuthenticationOff
        | ApiError::BooksUnavailable(_)
        | ApiError::StoreUnavailable
        | ApiError::WalletLocked
        | ApiError::WalletBusy
        | ApiError::UpstreamUnavailable(_) => Code::Unavailable,
        ApiError::UpstreamTimeout(_) => Code::DeadlineExceeded,
        ApiError::Wallet(error) => code_of_wallet(error),
        ApiError::BetRefused(refusal) => code_of_refusal(refusal),
        ApiError::KeyReused | ApiError::RequestInFlight => Code::Aborted,
    }
}

fn code_of_wallet(error: &WalletError) -> Code {
    match error {
        WalletError::WalletNotFound | WalletError::ReservationNotFound => Code::NotFound,
        WalletError::InsufficientFunds | WalletError::BalanceTooHigh | WalletError::HeldByBet => {
            Code::FailedPrecondition
        }
        WalletError::AlreadySettled(_)
        | WalletError::IdempotencyConflict
        | WalletError::KeyReused => Code::Aborted,
        WalletError::Store(_) => Code::Unavailable,
    }
}

fn code_of_refusal(refusal: &BetRefusal) -> Code {
    match refusal {
        BetRefusal::EventNotFound { .. }
        | BetRefusal::MarketNotFound { .. }
        | BetRefusal::SelectionNotFound { .. }
        | BetRefusal::WalletNotFound => Code::NotFound,
        BetRefusal::MarketSuspended { .. }
        | BetRefusal::MarketStale
        | BetRefusal::SelectionSuspended { .. }
        | BetRefusal::OddsChanged { .. }
        | BetRefusal::StakeTooLow { .. }
        | BetRefusal::StakeTooHigh { .. }
        | BetRefusal::PayoutTooHigh { .. }
        | BetRefusal::InsufficientFunds => Code::FailedPrecondition,
    }
}
