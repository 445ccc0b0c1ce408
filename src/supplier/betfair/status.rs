//! Failures that the stream reports.

use super::requests::{Clocks, Requests, SUBSCRIPTION};
use super::wire::StatusMessage;
use crate::supplier::FrameFault;

/// Why the stream refuses the connection, if it does. Resets the position if it may be the cause.
pub(super) fn check(
    status: &StatusMessage,
    requests: &Requests,
    clocks: &mut Clocks,
) -> Result<(), FrameFault> {
    if status.status_code == "SUCCESS" {
        return Ok(());
    }
    let code = status.error_code.as_deref().unwrap_or_default();
    // A fresh image works for any fault of the subscription.
    if code == "INVALID_CLOCK" || status.id == Some(SUBSCRIPTION) {
        *clocks = Clocks::default();
    }
    let message = status.error_message.as_deref().unwrap_or_default();
    let detail = requests.without_secrets(&format!("{} {code} {message}", status.status_code));
    Err(FrameFault::Refused {
        reason: reason_of(code),
        detail,
    })
}

/// Maps the stream's error codes to fixed codes: the number of metric labels must not depend on
/// foreign input.
fn reason_of(code: &str) -> &'static str {
    match code {
        "NO_APP_KEY" => "no_app_key",
        "INVALID_APP_KEY" => "invalid_app_key",
        "NO_SESSION" => "no_session",
        "INVALID_SESSION_INFORMATION" => "invalid_session",
        "NOT_AUTHORIZED" => "not_authorized",
        "INVALID_INPUT" | "INVALID_REQUEST" => "invalid_request",
        "INVALID_CLOCK" => "invalid_clock",
        "UNEXPECTED_ERROR" => "unexpected_error",
        "TIMEOUT" => "timeout",
        "SUBSCRIPTION_LIMIT_EXCEEDED" => "subscription_limit",
        "CONNECTION_FAILED" => "connection_failed",
        "MAX_CONNECTION_LIMIT_EXCEEDED" => "connection_limit",
        "TOO_MANY_REQUESTS" => "too_many_requests",
        _ => "refused",
    }
}
