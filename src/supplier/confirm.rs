//! The supplier's HTTP interface for bets: `POST /supplier/confirm` and `POST /supplier/cancel`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};
use url::Url;

use crate::config::address::{self, Login};
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, SUPPLIER_TIMEOUT};
use crate::domain::ids::{EventId, MarketName, SelectionId, UserId};
use crate::domain::json;
use crate::domain::odds::price::{Line, Price};
use crate::domain::trace_parent::TRACEPARENT;
use crate::domain::wallet::amount::Amount;
use crate::runtime::error_text::with_sources;
use crate::runtime::tls::{self, TlsSetupError};
use crate::telemetry::redact::Redaction;
use crate::telemetry::trace;

/// The maximum size of an answer, in bytes.
const MAX_ANSWER: usize = 16 * 1024;
/// The maximum stored length of a supplier's text, in characters.
const MAX_TEXT: usize = 255;
/// The rejection reason if the supplier gives none.
pub(crate) const NO_REASON: &str = "SUPPLIER_REJECTED";

/// A supplier's answer about a bet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The supplier accepts the bet.
    Confirmed {
        /// The supplier's reference for the bet.
        provider_ref: String,
    },
    /// The supplier rejects the bet.
    Rejected {
        /// The rejection reason.
        reason: String,
        /// The supplier's reference for the bet.
        provider_ref: String,
    },
}

impl From<Answer> for BetOutcome {
    fn from(answer: Answer) -> BetOutcome {
        match answer {
            Answer::Confirmed { provider_ref } => BetOutcome::Confirmed { provider_ref },
            // This code is reserved for bets that we time out ourselves and ask the supplier to
            // cancel.
            Answer::Rejected {
                reason,
                provider_ref,
            } if reason == SUPPLIER_TIMEOUT => BetOutcome::Rejected {
                reason: format!("supplier: {reason}"),
                provider_ref,
            },
            Answer::Rejected {
                reason,
                provider_ref,
            } => BetOutcome::Rejected {
                reason,
                provider_ref,
            },
        }
    }
}

/// Why a request to the supplier failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[derive(IntoStaticStr, VariantNames, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum SupplierError {
    /// The supplier did not answer in time.
    #[error("the supplier did not answer in time")]
    Timeout,
    /// The supplier cannot be reached, or the connection broke.
    #[error("the supplier cannot be reached: {0}")]
    Unreachable(String),
    /// The status code is not a success.
    #[error("the supplier answered with status {0}")]
    Status(u16),
    /// The answer exceeds the size limit.
    #[error("the supplier's answer is larger than {MAX_ANSWER} bytes")]
    TooLarge,
    /// The answer cannot be parsed.
    #[error("cannot parse the supplier's answer: {0}")]
    Unreadable(String),
    /// The answer contains an unknown status.
    #[error("the supplier answered with the unknown status `{0}`")]
    #[strum(to_string = "unknown_word")]
    UnknownVariant(String),
}

impl SupplierError {
    /// A fixed code for metrics.
    pub fn kind(&self) -> &'static str {
        self.into()
    }

    /// What failed, without text from a library or the supplier.
    pub fn summary(&self) -> String {
        match self {
            SupplierError::Unreachable(_) => "the supplier cannot be reached".to_owned(),
            SupplierError::Unreadable(_) => "cannot parse the supplier's answer".to_owned(),
            SupplierError::UnknownVariant(_) => {
                "the supplier answered with an unknown status".to_owned()
            }
            other => other.to_string(),
        }
    }

    /// Whether the supplier may reject only this one request while it answers others.
    pub fn is_about_the_question(&self) -> bool {
        matches!(self, SupplierError::Status(400 | 409 | 413 | 422))
    }
}

/// A supplier that confirms bets. Requests can be retried: the bet id is the idempotency key.
pub(crate) trait BetSupplier: Send + Sync {
    /// Asks whether the supplier accepts the bet.
    fn confirm(&self, bet: &Bet) -> BoxFuture<'static, Result<Answer, SupplierError>>;

    /// Asks the supplier to cancel a bet, in any state.
    fn cancel(
        &self,
        bet_id: BetId,
        user_id: &UserId,
    ) -> BoxFuture<'static, Result<(), SupplierError>>;
}

/// Why the client cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// TLS cannot be configured.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The address or the client is invalid.
    #[error("invalid supplier address: {0}")]
    Address(String),
}

/// A supplier over HTTP.
pub(crate) struct HttpSupplier {
    http: reqwest::Client,
    confirm: Url,
    cancel: Url,
    /// Removes the credentials in the address from the client's messages.
    redaction: Redaction,
}

impl HttpSupplier {
    /// Creates a client for the supplier whose paths are below `base`, as `http://127.0.0.1:8081`.
    /// `timeout` applies to each request. Reads files if `base` is https, so do not call it on an
    /// async thread.
    pub(crate) fn new(
        base: &Url,
        timeout: Duration,
        ca_file: Option<&Path>,
    ) -> Result<HttpSupplier, SetupError> {
        let is_encrypted = base.scheme() == "https";
        let tls = if is_encrypted {
            tls::client_config("SUPPLIER_CA_FILE", ca_file)?
        } else {
            tls::trusting_nobody()?
        };
        let address = |error: &dyn std::error::Error| SetupError::Address(with_sources(error));
        let mut headers = HeaderMap::new();
        if let Some(login) = Login::of(base) {
            headers.insert(
                AUTHORIZATION,
                login.authorization().map_err(|error| address(&error))?,
            );
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(Arc::unwrap_or_clone(tls))
            .default_headers(headers)
            .timeout(timeout)
            .connect_timeout(timeout)
            // Only the configured supplier may answer for bets.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build();
        let path_url = |path: &str| {
            let mut url = address::without_login(base);
            let mut segments = url
                .path_segments_mut()
                .map_err(|()| SetupError::Address("it cannot have a path".to_owned()))?;
            segments.pop_if_empty().extend(["supplier", path]);
            drop(segments);
            Ok::<_, SetupError>(url)
        };
        Ok(HttpSupplier {
            http: http.map_err(|error| address(&error))?,
            confirm: path_url("confirm")?,
            cancel: path_url("cancel")?,
            redaction: address::redaction(base),
        })
    }
}

impl BetSupplier for HttpSupplier {
    fn confirm(&self, bet: &Bet) -> BoxFuture<'static, Result<Answer, SupplierError>> {
        let request = self
            .http
            .post(self.confirm.clone())
            .header("Idempotency-Key", bet.id.to_string());
        let request = match trace::current() {
            Some(span) => request.header(TRACEPARENT, span.to_string()),
            None => request,
        };
        let request = request.json(&ConfirmJson::of(bet));
        let sending = send(request, self.redaction.clone());
        async move { read_answer(&sending.await?) }.boxed()
    }

    fn cancel(
        &self,
        bet_id: BetId,
        user_id: &UserId,
    ) -> BoxFuture<'static, Result<(), SupplierError>> {
        let request = self
            .http
            .post(self.cancel.clone())
            .header("Idempotency-Key", format!("cancel-{bet_id}"));
        let request = request.json(&CancelJson { bet_id, user_id });
        let sending = send(request, self.redaction.clone());
        async move { read_cancellation(&sending.await?) }.boxed()
    }
}

async fn send(
    request: reqwest::RequestBuilder,
    redaction: Redaction,
) -> Result<Bytes, SupplierError> {
    let supplier_error = |error| supplier_error(error, &redaction);
    let mut response = request.send().await.map_err(supplier_error)?;
    if !response.status().is_success() {
        return Err(SupplierError::Status(response.status().as_u16()));
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(supplier_error)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(SupplierError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn supplier_error(error: reqwest::Error, redaction: &Redaction) -> SupplierError {
    // Without the URL, which may contain a password.
    let error = error.without_url();
    if error.is_timeout() {
        SupplierError::Timeout
    } else {
        SupplierError::Unreachable(redaction.apply(&with_sources(&error)))
    }
}

#[derive(Serialize)]
struct ConfirmJson<'a> {
    #[serde(rename = "betId")]
    bet_id: BetId,
    #[serde(rename = "userId")]
    user_id: &'a UserId,
    #[serde(rename = "eventId")]
    event_id: &'a EventId,
    market: &'a MarketName,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<Line>,
    selection: &'a SelectionId,
    stake_cents: Amount,
    odd_value: Price,
}

impl ConfirmJson<'_> {
    fn of(bet: &Bet) -> ConfirmJson<'_> {
        ConfirmJson {
            bet_id: bet.id,
            user_id: &bet.user_id,
            event_id: &bet.event_id,
            market: &bet.market.name,
            line: bet.market.line,
            selection: &bet.selection,
            stake_cents: bet.stake,
            odd_value: bet.price,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CancelJson<'a> {
    bet_id: BetId,
    user_id: &'a UserId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerJson {
    status: String,
    #[serde(default)]
    provider_ref: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

/// Parses the answer to a confirmation request.
fn read_answer(body: &[u8]) -> Result<Answer, SupplierError> {
    let AnswerJson {
        status,
        provider_ref,
        reason,
    } = read_json(body)?;
    let provider_ref = clean(&provider_ref.unwrap_or_default());
    if status.eq_ignore_ascii_case("CONFIRMED") {
        Ok(Answer::Confirmed { provider_ref })
    } else if status.eq_ignore_ascii_case("REJECTED") {
        let reason = clean(&reason.unwrap_or_default());
        let reason = if reason.is_empty() {
            NO_REASON.to_owned()
        } else {
            reason
        };
        Ok(Answer::Rejected {
            reason,
            provider_ref,
        })
    } else {
        Err(SupplierError::UnknownVariant(clean(&status)))
    }
}

/// Parses the answer to a cancellation request.
fn read_cancellation(body: &[u8]) -> Result<(), SupplierError> {
    let AnswerJson { status, .. } = read_json(body)?;
    if status.eq_ignore_ascii_case("CANCELLED") {
        Ok(())
    } else {
        Err(SupplierError::UnknownVariant(clean(&status)))
    }
}

fn read_json(body: &[u8]) -> Result<AnswerJson, SupplierError> {
    json::from_slice(body).map_err(|error| SupplierError::Unreadable(clean(&error.to_string())))
}

/// Sanitizes foreign text that is stored, logged and published: truncates it and replaces control
/// characters, because a database would reject some, such as NUL.
fn clean(text: &str) -> String {
    let visible = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.trim().chars().take(MAX_TEXT).map(visible).collect()
}

#[cfg(test)]
mod tests;
