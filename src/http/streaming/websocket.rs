//! `GET /ws/odds`: the upgrade to a session.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::frame_limit::FrameLimiter;
use super::handshake;
use crate::actors::streaming::session::{Session, SessionEdges, SessionPermits};
use crate::domain::access::Caller;
use crate::domain::streaming::fanout::SessionId;
use crate::http::addresses::TooMany;
use crate::http::connections::Connection;
use crate::http::errors::ApiError;
use crate::http::limits::{CallerPermit, RequestLimits};
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
) -> Result<HttpResponse, actix_web::Error> {
    let refuse = |error: ApiError| {
        log_refusal(&error);
        state
            .metrics
            .refused_upgrades
            .with_label_values(&[error.code().0])
            .inc();
        actix_web::Error::from(error)
    };
    check_page(request.headers(), &state.allowed_origins).map_err(refuse)?;
    let mut answer = handshake::accept(&request).map_err(refuse)?;
    let permits = SessionPermits {
        session: session_permit(&state.session_permits, state.max_sessions).map_err(refuse)?,
        address: address_permit(&request, &state).map_err(refuse)?,
        caller: caller_permit(&request).map_err(refuse)?,
    };
    let id = SessionId(state.next_session.fetch_add(1, Ordering::Relaxed));
    let connection = request.conn_data::<ConnectionHandle>().cloned();
    let guarded = request.conn_data::<Rc<Connection>>();
    let from_client = FrameLimiter::new(payload, state.frames.clone(), guarded);
    if let Some(connection) = guarded {
        connection.upgrade();
    }
    let session = Session::new(id, sessions.into_inner(), connection, permits);
    let violation = from_client.violation();
    Ok(answer.streaming(session.start(from_client, violation)))
}

/// Takes one of the `max` permits for sessions.
fn session_permit(permits: &Arc<Semaphore>, max: usize) -> Result<OwnedSemaphorePermit, ApiError> {
    permits
        .clone()
        .try_acquire_owned()
        .map_err(|_| ApiError::TooManySessions(max))
}

/// Counts the socket against the limits of its caller, and takes a permit for it.
fn caller_permit(request: &HttpRequest) -> Result<Option<CallerPermit>, ApiError> {
    let Some(limits) = request.app_data::<RequestLimits>() else {
        return Ok(None);
    };
    let client = limits.client(request.head());
    let extensions = request.extensions();
    let caller = extensions.get::<Caller>().unwrap_or(&Caller::Anonymous);
    limits.admit_socket(caller, client)?;
    limits.take_socket(caller, client)
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
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn check(origin: &str, allowed: &[&str]) -> bool {
        let request = TestRequest::default().insert_header(("Host", "odds.example:8080"));
        let request = request.insert_header(("Origin", origin)).to_http_request();
        let allowed: Vec<_> = allowed.iter().map(|origin| (*origin).to_owned()).collect();
        check_page(request.headers(), &allowed).is_ok()
    }

    #[test]
    fn foreign_origin_must_be_allowed() {
        assert!(check("http://odds.example:8080", &[]));
        assert!(!check("http://evil.example", &[]));
        assert!(!check("http://odds.example", &[]));
        assert!(!check("null", &[]));
        assert!(check("https://shop.example", &["https://shop.example"]));
        assert!(check("null", &["*"]));
        assert!(check_page(TestRequest::default().to_http_request().headers(), &[]).is_ok());
    }

    #[test]
    fn dropped_permit_is_returned() {
        let permits = Arc::new(Semaphore::new(1));
        let first = session_permit(&permits, 1);
        assert!(first.is_ok());
        assert!(matches!(
            session_permit(&permits, 1),
            Err(ApiError::TooManySessions(1))
        ));
        drop(first);
        assert!(session_permit(&permits, 1).is_ok());
    }
}
