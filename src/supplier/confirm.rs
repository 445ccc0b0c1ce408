//! The supplier's side of bets, over HTTP: `POST /supplier/confirm` and `POST /supplier/cancel`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use url::Url;

use super::tls::{self, TlsSetupError};
use crate::config::address::{self, Login};
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, SUPPLIER_TIMEOUT};
use crate::domain::ids::{EventId, MarketName, SelectionId, UserId};
use crate::domain::json;
use crate::domain::odds::price::{Line, Price};
use crate::domain::wallet::amount::Amount;
use crate::telemetry::redact::Redaction;

/// The largest answer that is read.
const MAX_ANSWER: usize = 16 * 1024;
/// The most that is kept of a supplier's text, in characters.
const MAX_TEXT: usize = 255;
/// Why a bet was rejected, where the supplier does not say.
pub const NO_REASON: &str = "SUPPLIER_REJECTED";

/// What a supplier says of a bet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It takes it.
    Confirmed {
        /// What it calls the bet.
        provider_ref: String,
    },
    /// It does not.
    Rejected {
        /// Why.
        reason: String,
        /// What it calls the bet.
        provider_ref: String,
    },
}

impl From<Answer> for BetOutcome {
    fn from(answer: Answer) -> BetOutcome {
        match answer {
            Answer::Confirmed { provider_ref } => BetOutcome::Confirmed { provider_ref },
            // The word for what we decide ourselves, and tell the supplier to cancel, is ours.
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

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SupplierError {
    /// It did not answer in time.
    #[error("the supplier did not answer in time")]
    Timeout,
    /// It cannot be reached, or broke off.
    #[error("the supplier cannot be reached: {0}")]
    Unreachable(String),
    /// It answered with a status that is no answer.
    #[error("the supplier answered with status {0}")]
    Status(u16),
    /// The answer is larger than what is read.
    #[error("the supplier's answer is larger than {MAX_ANSWER} bytes")]
    TooLarge,
    /// The answer cannot be read.
    #[error("the supplier's answer cannot be read: {0}")]
    Unreadable(String),
    /// The answer holds a word that is not known.
    #[error("the supplier answered with the unknown word `{0}`")]
    UnknownVariant(String),
}

impl SupplierError {
    /// Every kind.
    pub const KINDS: [&str; 6] = [
        "timeout",
        "unreachable",
        "status",
        "too_large",
        "unreadable",
        "unknown_word",
    ];

    /// A word for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            SupplierError::Timeout => "timeout",
            SupplierError::Unreachable(_) => "unreachable",
            SupplierError::Status(_) => "status",
            SupplierError::TooLarge => "too_large",
            SupplierError::Unreadable(_) => "unreadable",
            SupplierError::UnknownVariant(_) => "unknown_word",
        }
    }

    /// What failed, without the text of a library or of the supplier.
    pub fn summary(&self) -> String {
        match self {
            SupplierError::Unreachable(_) => "the supplier cannot be reached".to_owned(),
            SupplierError::Unreadable(_) => "the supplier's answer cannot be read".to_owned(),
            SupplierError::UnknownVariant(_) => {
                "the supplier answered with an unknown word".to_owned()
            }
            other => other.to_string(),
        }
    }

    /// Whether it may be only this one question that the supplier does not like, while it answers
    /// others.
    pub fn is_about_the_question(&self) -> bool {
        matches!(self, SupplierError::Status(400 | 409 | 413 | 422))
    }
}

/// Whoever takes bets or does not. Safe to ask again: the bet's id is the idempotency key.
pub trait BetSupplier: Send + Sync {
    /// Whether it takes a bet.
    fn confirm(&self, bet: &Bet) -> BoxFuture<'static, Result<Answer, SupplierError>>;

    /// Has it cancel a bet, whatever it made of it.
    fn cancel(
        &self,
        bet_id: BetId,
        user_id: &UserId,
    ) -> BoxFuture<'static, Result<(), SupplierError>>;
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The address or the client cannot be used.
    #[error("the supplier's address cannot be used: {0}")]
    Address(String),
}

/// A supplier over HTTP.
pub struct HttpSupplier {
    http: reqwest::Client,
    confirm: Url,
    cancel: Url,
    /// Removes the credentials of the address from what the client says.
    redaction: Redaction,
}

impl HttpSupplier {
    /// The supplier whose paths are below `base`, as `http://127.0.0.1:8081`. Each question may
    /// take so long. Reads files where `base` is https, so not for an async thread.
    pub fn new(
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
        let address = |error: &dyn std::error::Error| SetupError::Address(causes(error));
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
            // Whoever answers for bets is the one that was named.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build();
        let below = |path: &str| {
            let mut url = address::without_login(base);
            let mut segments = url
                .path_segments_mut()
                .map_err(|()| SetupError::Address("no base".to_owned()))?;
            segments.pop_if_empty().extend(["supplier", path]);
            drop(segments);
            Ok::<_, SetupError>(url)
        };
        Ok(HttpSupplier {
            http: http.map_err(|error| address(&error))?,
            confirm: below("confirm")?,
            cancel: below("cancel")?,
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
        let request = request.json(&ConfirmJson::of(bet));
        let asked = ask(request, self.redaction.clone());
        async move { read_answer(&asked.await?) }.boxed()
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
        let asked = ask(request, self.redaction.clone());
        async move { read_cancellation(&asked.await?) }.boxed()
    }
}

async fn ask(
    request: reqwest::RequestBuilder,
    redaction: Redaction,
) -> Result<Bytes, SupplierError> {
    let failure = |error| failure(error, &redaction);
    let mut response = request.send().await.map_err(failure)?;
    if !response.status().is_success() {
        return Err(SupplierError::Status(response.status().as_u16()));
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failure)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(SupplierError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn failure(error: reqwest::Error, redaction: &Redaction) -> SupplierError {
    // Without the address, which may hold a password.
    let error = error.without_url();
    if error.is_timeout() {
        SupplierError::Timeout
    } else {
        SupplierError::Unreachable(redaction.apply(&causes(&error)))
    }
}

/// An error with what is behind it: what reqwest says by itself is not much.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
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

/// Reads the answer to a confirmation.
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

/// Reads the answer to a cancellation.
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

/// A foreign text that is kept, logged and published: cut, and without what a database would
/// refuse, as NUL.
fn clean(text: &str) -> String {
    let visible = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.trim().chars().take(MAX_TEXT).map(visible).collect()
}

#[cfg(test)]
mod tests;
