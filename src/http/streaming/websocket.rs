//! `GET /ws/odds`: the upgrade to a session.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{HttpRequest, HttpResponse, web};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::frame_limit::FrameLimiter;
use super::handshake;
use crate::actors::streaming::session::{Session, SessionPermits};
use crate::actors::streaming::session_edges::SessionEdges;
use crate::domain::access::Caller;
use crate::domain::streaming::fanout::SessionId;
use crate::http::addresses::TooMany;
use crate::http::authorization::CurrentCaller;
use crate::http::connections::Connection;
use crate::http::errors::ApiError;
use crate::http::limits::{CallerPermit, RequestLimits, SocketClient};
use crate::http::odds::state::OddsState;
use crate::http::origin::{check_page, log_refusal};
use crate::runtime::connection::ConnectionHandle;
use crate::runtime::permits::AddressPermit;

/// Upgrades a request to a session, or returns why it is refused.
pub(crate) async fn open(
    state: web::Data<OddsState>,
    sessions: web::Data<SessionEdges>,
    request: HttpRequest,
    payload: web::Payload,
    CurrentCaller(caller): CurrentCaller,
) -> Result<HttpResponse, ApiError> {
    check_page(request.headers(), &state.allowed_origins)?;
    // Where callers are not checked, such a parameter means nothing.
    if caller != Caller::Unchecked {
        handshake::refuse_credential_in_url(&request)?;
    }
    let mut answer = handshake::accept(&request)?;
    let client = client(&request);
    let permits = SessionPermits {
        session: session_permit(&state.session_permits, state.max_sessions)?,
        address: address_permit(&request, &state)?,
        caller: caller_permit(&client, &caller)?,
        client: Box::new(client),
    };
    let id = SessionId(state.next_session.fetch_add(1, Ordering::Relaxed));
    let connection = request.conn_data::<ConnectionHandle>().cloned();
    let guarded = request.conn_data::<Rc<Connection>>();
    let from_client = FrameLimiter::new(payload, state.frames.clone(), guarded);
    if let Some(connection) = guarded {
        connection.upgrade();
    }
    let session = Session::new(id, sessions.into_inner(), connection, permits, caller);
    let violation = from_client.violation();
    Ok(answer.streaming(session.start(from_client, violation)))
}

/// Logs and counts refused upgrades, also those refused because of their credential.
pub(crate) async fn count_refusals(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let state = request.app_data::<web::Data<OddsState>>().cloned();
    let answer = next.call(request).await;
    let error = match &answer {
        Ok(response) => response.response().error(),
        Err(error) => Some(error),
    };
    let refusal = error.and_then(|error| error.as_error::<ApiError>());
    if let (Some(state), Some(refusal)) = (state, refusal) {
        log_refusal(refusal);
        let refused = &state.metrics.refused_upgrades;
        refused.with_label_values(&[refusal.code().0]).inc();
    }
    answer
}

/// Takes one of the `max` permits for sessions.
fn session_permit(permits: &Arc<Semaphore>, max: usize) -> Result<OwnedSemaphorePermit, ApiError> {
    permits
        .clone()
        .try_acquire_owned()
        .map_err(|_| ApiError::TooManySessions(max))
}

/// Counts the socket against the limits of its caller, and takes a permit for it.
fn caller_permit(client: &SocketClient, caller: &Caller) -> Result<Option<CallerPermit>, ApiError> {
    client.limits.admit_socket(caller, client.client)?;
    let permit = client.limits.take_socket(caller, client.client);
    permit.map_err(|TooMany(max)| ApiError::TooManySessionsOfCaller(max))
}

fn client(request: &HttpRequest) -> SocketClient {
    let limits = request.app_data::<RequestLimits>().cloned();
    let limits = limits.unwrap_or_else(RequestLimits::off);
    SocketClient {
        client: limits.client(request.head()),
        limits,
    }
}

/// Takes a permit for a session of the client's address.
fn address_permit(
    request: &HttpRequest,
    state: &OddsState,
) -> Result<Option<AddressPermit>, ApiError> {
    let Some(peer) = request.peer_addr() else {
        return Ok(None);
    };
    let client = state
        .addresses
        .client(peer.ip().to_canonical(), request.headers());
    state
        .addresses
        .take_session(client)
        .map_err(|TooMany(max)| ApiError::TooManySessionsOfAddress(max))
}

#[cfg(test)]
mod tests;
