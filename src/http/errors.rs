//! Errors of the REST API, each with a code and a status, mapped only here.

use std::time::Duration;

use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};
use log::{Level, log};

use super::limits::RateLimitExceeded;
use crate::actors::odds::client_reads::Busy;
use crate::actors::odds::messages::ApplyError;
use crate::domain::access::AccessDenied;
use crate::domain::bets::bet::BetRefusal;
use crate::domain::wallet::ledger::ReservationStatus;
use crate::services::bets::placement::PlacementError;
use crate::services::odds::OddsError;
use crate::services::wallet::executor::TurnError;
use crate::services::wallet::operations::MovementError;
use crate::store::StoreError;
use crate::store::money::WalletError;
use crate::telemetry::log_limit::LogLimit;

/// The error of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The event does not exist.
    #[error("event `{0}` not found")]
    EventNotFound(String),
    /// The event has no such market.
    #[error("event `{event}` has no market `{market}`")]
    MarketNotFound {
        /// The event.
        event: String,
        /// The market.
        market: String,
    },
    /// The path does not exist.
    #[error("path `{0}` not found")]
    NotFound(String),
    /// The path does not support the method.
    #[error("method `{method}` is not allowed; use {allowed}, OPTIONS")]
    MethodNotAllowed {
        /// The method.
        method: Method,
        /// The supported methods besides OPTIONS.
        allowed: &'static str,
    },
    /// A query parameter is invalid.
    #[error("{parameter}: {problem}")]
    BadQuery {
        /// Its name.
        parameter: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The query, the path or the body cannot be parsed.
    #[error("{0}")]
    BadRequest(String),
    /// The body is too large.
    #[error("the body is larger than {0} bytes")]
    PayloadTooLarge(usize),
    /// The content type is not supported.
    #[error("content type `{0}` is not supported; send application/json")]
    UnsupportedMediaType(String),
    /// The body is compressed.
    #[error("Content-Encoding `{0}` is not supported; send the body uncompressed")]
    UnsupportedEncoding(String),
    /// The request comes from a page of a foreign origin.
    #[error(
        "origin `{0}` is not allowed; ALLOWED_ORIGINS, or WS_ALLOWED_ORIGINS for WebSockets, lists the allowed ones"
    )]
    OriginNotAllowed(String),
    /// The host name is not accepted by this server.
    #[error("host `{0}` is not allowed; ALLOWED_HOSTS lists the accepted names")]
    HostNotAllowed(String),
    /// The request is not a valid WebSocket handshake.
    #[error("not a WebSocket handshake: {0}")]
    BadHandshake(String),
    /// The WebSocket version of the handshake is not 13.
    #[error("only version 13 of the WebSocket protocol is supported")]
    WebSocketVersion,
    /// The token or the API key is not accepted, or is given in the wrong form.
    #[error("invalid credential: {0}")]
    InvalidCredential(String),
    /// The caller may not do this.
    #[error("{0}")]
    AccessDenied(AccessDenied),
    /// The server was started without rules for its callers. A programming error.
    #[error("the server cannot authenticate callers")]
    AccessUnknown,
    /// The gateway requires authentication, and this service does not authenticate callers.
    #[error("this service runs with AUTH=off behind a gateway that requires authentication")]
    AuthenticationOff,
    /// The client's address has its maximum number of sessions.
    #[error("the limit of {0} open sessions for this address is reached")]
    TooManySessionsOfAddress(usize),
    /// The user or the API key has its maximum number of sessions.
    #[error("the limit of {0} open sessions for this caller is reached")]
    TooManySessionsOfCaller(usize),
    /// The client sends too many requests.
    #[error("{0}")]
    TooManyRequests(RateLimitExceeded),
    /// The server has its maximum number of sessions.
    #[error("the limit of {0} open sessions is reached")]
    TooManySessions(usize),
    /// The books do not answer, or their odds may be stale.
    #[error("the odds are currently unavailable: {0}")]
    BooksUnavailable(String),
    /// The database does not answer. The cause is only logged: it may name hosts, tables and users.
    #[error("the database is currently unavailable; retry later")]
    StoreUnavailable,
    /// Another request held the wallet for longer than the lock timeout.
    #[error("the wallet is locked by another request; retry")]
    WalletLocked,
    /// A field of the body is missing or wrong.
    #[error("{field}: {problem}")]
    BadField {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An amount that is not a positive whole number of cents.
    #[error("{field}: {problem}")]
    InvalidAmount {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A refused transfer.
    #[error("{0}")]
    Wallet(WalletError),
    /// A refused bet.
    #[error("{0}")]
    BetRefused(BetRefusal),
    /// The bet does not exist.
    #[error("bet `{0}` not found")]
    BetNotFound(String),
    /// The idempotency key belongs to another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// A request with the same key has not been answered yet.
    #[error("a request with this idempotency key is still in flight; retry")]
    RequestInFlight,
    /// The service behind the gateway cannot be reached, or its answer broke off.
    #[error("the service `{0}` is currently unavailable; retry later")]
    UpstreamUnavailable(&'static str),
    /// The service behind the gateway did not answer in time.
    #[error("the service `{0}` did not answer in time")]
    UpstreamTimeout(&'static str),
    /// Too many requests are already waiting for one wallet.
    #[error("too many requests are waiting for this wallet; retry")]
    WalletBusy,
}

impl ApiError {
    /// The codes of refused WebSocket upgrades.
    pub const UPGRADE_CODES: [&str; 8] = [
        "ORIGIN_NOT_ALLOWED",
        "BAD_HANDSHAKE",
        "UNSUPPORTED_WEBSOCKET_VERSION",
        "TOO_MANY_SESSIONS",
        "TOO_MANY_SESSIONS_OF_ADDRESS",
        "TOO_MANY_SESSIONS_OF_CALLER",
        "TOO_MANY_REQUESTS",
        "BAD_REQUEST",
    ];

    /// The codes of requests refused before routing.
    pub const GUARD_CODES: [&str; 3] = ["HOST_NOT_ALLOWED", "ORIGIN_NOT_ALLOWED", "BAD_REQUEST"];

    /// The code in the body, and the HTTP status.
    pub fn code(&self) -> (&'static str, StatusCode) {
        match self {
            ApiError::EventNotFound(_) => ("EVENT_NOT_FOUND", StatusCode::NOT_FOUND),
            ApiError::MarketNotFound { .. } => ("MARKET_NOT_FOUND", StatusCode::NOT_FOUND),
            ApiError::NotFound(_) => ("NOT_FOUND", StatusCode::NOT_FOUND),
            ApiError::MethodNotAllowed { .. } => {
                ("METHOD_NOT_ALLOWED", StatusCode::METHOD_NOT_ALLOWED)
            }
            ApiError::BadQuery { .. } => ("BAD_QUERY", StatusCode::BAD_REQUEST),
            ApiError::BadRequest(_) => ("BAD_REQUEST", StatusCode::BAD_REQUEST),
            ApiError::PayloadTooLarge(_) => ("PAYLOAD_TOO_LARGE", StatusCode::PAYLOAD_TOO_LARGE),
            ApiError::UnsupportedMediaType(_) => {
                ("UNSUPPORTED_MEDIA_TYPE", StatusCode::UNSUPPORTED_MEDIA_TYPE)
            }
            ApiError::UnsupportedEncoding(_) => {
                ("UNSUPPORTED_MEDIA_TYPE", StatusCode::UNSUPPORTED_MEDIA_TYPE)
            }
            ApiError::HostNotAllowed(_) => ("HOST_NOT_ALLOWED", StatusCode::MISDIRECTED_REQUEST),
            ApiError::OriginNotAllowed(_) => ("ORIGIN_NOT_ALLOWED", StatusCode::FORBIDDEN),
            ApiError::BadHandshake(_) => ("BAD_HANDSHAKE", StatusCode::BAD_REQUEST),
            ApiError::WebSocketVersion => (
                "UNSUPPORTED_WEBSOCKET_VERSION",
                StatusCode::UPGRADE_REQUIRED,
            ),
            ApiError::InvalidCredential(_) => ("INVALID_CREDENTIAL", StatusCode::UNAUTHORIZED),
            ApiError::AccessDenied(denied) => access_code(denied),
            ApiError::AuthenticationOff => ("AUTHENTICATION_OFF", StatusCode::SERVICE_UNAVAILABLE),
            ApiError::AccessUnknown => ("INTERNAL", StatusCode::INTERNAL_SERVER_ERROR),
            ApiError::TooManySessionsOfAddress(_) => (
                "TOO_MANY_SESSIONS_OF_ADDRESS",
                StatusCode::TOO_MANY_REQUESTS,
            ),
            ApiError::TooManySessionsOfCaller(_) => {
                ("TOO_MANY_SESSIONS_OF_CALLER", StatusCode::TOO_MANY_REQUESTS)
            }
            ApiError::TooManyRequests(_) => ("TOO_MANY_REQUESTS", StatusCode::TOO_MANY_REQUESTS),
            ApiError::TooManySessions(_) => ("TOO_MANY_SESSIONS", StatusCode::SERVICE_UNAVAILABLE),
            ApiError::BooksUnavailable(_) => ("ODDS_UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE),
            ApiError::StoreUnavailable => ("STORE_UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE),
            ApiError::BadField { .. } => ("BAD_REQUEST", StatusCode::BAD_REQUEST),
            ApiError::InvalidAmount { .. } => ("INVALID_AMOUNT", StatusCode::BAD_REQUEST),
            ApiError::Wallet(error) => wallet_code(error),
            // The market's answer to a well-formed request, with the status used by the original.
            ApiError::BetRefused(refusal) => (refusal.code(), StatusCode::CONFLICT),
            ApiError::BetNotFound(_) => ("BET_NOT_FOUND", StatusCode::NOT_FOUND),
            ApiError::KeyReused => ("IDEMPOTENCY_KEY_REUSED", StatusCode::UNPROCESSABLE_ENTITY),
            ApiError::RequestInFlight => ("REQUEST_IN_FLIGHT", StatusCode::CONFLICT),
            ApiError::UpstreamUnavailable(_) => ("UPSTREAM_UNAVAILABLE", StatusCode::BAD_GATEWAY),
            ApiError::UpstreamTimeout(_) => ("UPSTREAM_TIMEOUT", StatusCode::GATEWAY_TIMEOUT),
            ApiError::WalletBusy | ApiError::WalletLocked => {
                ("WALLET_BUSY", StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }
}

fn access_code(denied: &AccessDenied) -> (&'static str, StatusCode) {
    match denied {
        AccessDenied::Unauthenticated => ("UNAUTHENTICATED", StatusCode::UNAUTHORIZED),
        AccessDenied::MissingScope(_) | AccessDenied::ServicesOnly(_) => {
            ("SCOPE_REQUIRED", StatusCode::FORBIDDEN)
        }
        AccessDenied::OtherUser => ("OTHER_USER", StatusCode::FORBIDDEN),
    }
}

fn wallet_code(error: &WalletError) -> (&'static str, StatusCode) {
    match error {
        WalletError::WalletNotFound => ("WALLET_NOT_FOUND", StatusCode::NOT_FOUND),
        WalletError::ReservationNotFound => ("RESERVATION_NOT_FOUND", StatusCode::NOT_FOUND),
        WalletError::InsufficientFunds => ("INSUFFICIENT_FUNDS", StatusCode::CONFLICT),
        WalletError::BalanceTooHigh => ("BALANCE_TOO_HIGH", StatusCode::CONFLICT),
        WalletError::AlreadySettled(ReservationStatus::Committed) => {
            ("ALREADY_COMMITTED", StatusCode::CONFLICT)
        }
        WalletError::AlreadySettled(ReservationStatus::Refunded) => {
            ("ALREADY_REFUNDED", StatusCode::CONFLICT)
        }
        WalletError::AlreadySettled(_) => ("ALREADY_EXPIRED", StatusCode::CONFLICT),
        WalletError::HeldByBet => ("RESERVATION_HELD_BY_BET", StatusCode::CONFLICT),
        WalletError::IdempotencyConflict => ("IDEMPOTENCY_CONFLICT", StatusCode::CONFLICT),
        WalletError::KeyReused => ("IDEMPOTENCY_KEY_REUSED", StatusCode::UNPROCESSABLE_ENTITY),
        WalletError::Store(_) => ("STORE_UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE),
    }
}

impl ApiError {
    /// A request of a gateway that requires authentication cannot be served. Logged, because only
    /// an operator can mend it.
    pub(super) fn authentication_off() -> ApiError {
        log_cause("authentication", &ApiError::AuthenticationOff);
        ApiError::AuthenticationOff
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        if error.is_lock_timeout() {
            return ApiError::WalletLocked;
        }
        log_cause("database", &error);
        ApiError::StoreUnavailable
    }
}

impl From<AccessDenied> for ApiError {
    fn from(denied: AccessDenied) -> ApiError {
        ApiError::AccessDenied(denied)
    }
}

impl From<WalletError> for ApiError {
    fn from(error: WalletError) -> ApiError {
        match error {
            WalletError::Store(failure) => failure.into(),
            WalletError::KeyReused => ApiError::KeyReused,
            refused => ApiError::Wallet(refused),
        }
    }
}

impl<E: Into<ApiError>> From<TurnError<E>> for ApiError {
    fn from(error: TurnError<E>) -> ApiError {
        match error {
            TurnError::WalletBusy => ApiError::WalletBusy,
            TurnError::WalletLocked => ApiError::WalletLocked,
            TurnError::Failed(error) => error.into(),
        }
    }
}

impl From<PlacementError> for ApiError {
    fn from(error: PlacementError) -> ApiError {
        match error {
            PlacementError::Prices(error) => ApiError::BooksUnavailable(error.to_string()),
            PlacementError::Refused(refusal) => ApiError::BetRefused(refusal),
            PlacementError::KeyReused => ApiError::KeyReused,
            PlacementError::RequestInFlight => ApiError::RequestInFlight,
            PlacementError::WalletBusy => ApiError::WalletBusy,
            PlacementError::WalletLocked => ApiError::WalletLocked,
            PlacementError::Store(error) => error.into(),
        }
    }
}

impl From<OddsError> for ApiError {
    fn from(error: OddsError) -> ApiError {
        match error {
            OddsError::EventNotFound(event) => ApiError::EventNotFound(event),
            OddsError::MarketNotFound { event, market } => {
                ApiError::MarketNotFound { event, market }
            }
            OddsError::Unavailable(_) | OddsError::Busy => {
                ApiError::BooksUnavailable(error.to_string())
            }
            OddsError::Store(error) => error.into(),
        }
    }
}

impl From<MovementError> for ApiError {
    fn from(error: MovementError) -> ApiError {
        match error {
            MovementError::RequestInFlight => ApiError::RequestInFlight,
            MovementError::Turn(error) => error.into(),
        }
    }
}

impl From<Busy> for ApiError {
    fn from(_: Busy) -> ApiError {
        ApiError::BooksUnavailable(
            "too many requests are waiting for the database; retry".to_owned(),
        )
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> ApiError {
        ApiError::BooksUnavailable(error.to_string())
    }
}

/// Minimum interval between log lines of one cause.
const CAUSE_INTERVAL: Duration = Duration::from_secs(60);
static CAUSES: LogLimit = LogLimit::every(CAUSE_INTERVAL);

/// Logs why requests fail or a component is down, since no response contains the cause: at most
/// once per cause and interval. A startup step that is not done yet is not a fault, and is logged
/// at level info.
pub(crate) fn log_cause(component: &'static str, cause: &dyn std::fmt::Display) {
    let cause = cause.to_string();
    if let Some(repeated) = CAUSES.check(&format!("{component}: {cause}")) {
        let level = if cause.contains(" yet") {
            Level::Info
        } else {
            Level::Warn
        };
        log!(level, component, repeated; "{cause}");
    }
}

/// The response to an unknown path.
pub(crate) async fn not_found(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::NotFound(request.path().to_owned()))
}

/// The response to a method that a known path has no route for: to OPTIONS, those that it supports.
pub(crate) async fn method_not_allowed(
    request: HttpRequest,
    allowed: &'static str,
) -> Result<HttpResponse, ApiError> {
    if request.method() == Method::OPTIONS {
        let mut response = HttpResponse::NoContent();
        response.insert_header((header::ALLOW, format!("{allowed}, OPTIONS")));
        return Ok(response.finish());
    }
    Err(ApiError::MethodNotAllowed {
        method: request.method().clone(),
        allowed,
    })
}
