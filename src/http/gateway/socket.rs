//! Forwards a WebSocket: the handshake by HTTP, then the bytes of both directions.

use std::convert::Infallible;
use std::rc::Rc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use log::debug;
use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::GatewayState;
use super::forward::{answer_of, charge_if_refused, forwarded_request, head_of, peer_of};
use super::relay::{End, Relay};
use super::upstream::Upstream;
use crate::http::addresses::TooMany;
use crate::http::connections::Connection;
use crate::http::errors::ApiError;
use crate::runtime::permits::AddressPermit;
use crate::telemetry::role;

/// Parts of the service's bytes that wait for the client, of up to 8 KiB each.
const WAITING_PARTS: usize = 4;

/// What a forwarded socket holds until it ends.
struct Held {
    _socket: OwnedSemaphorePermit,
    _address: Option<AddressPermit>,
    open: IntGauge,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// Forwards a handshake, and the socket if the service accepts it.
pub(super) async fn open(
    request: &HttpRequest,
    payload: web::Payload,
    state: &web::Data<GatewayState>,
    upstream: &web::Data<Upstream>,
) -> Result<HttpResponse, ApiError> {
    let held = hold(request, state)?;
    let mut handshake = forwarded_request(request, state, upstream)?;
    let headers = handshake.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let answer = upstream.send(handshake).await?;
    if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        charge_if_refused(request, answer.status());
        return Ok(answer_of(answer, request, upstream.clone()));
    }
    let mut head = head_of(&answer);
    head.status(StatusCode::SWITCHING_PROTOCOLS)
        .upgrade("websocket");
    let service = answer
        .upgrade()
        .await
        .map_err(|error| upstream.failed(error))?;
    let connection = request.conn_data::<Rc<Connection>>().cloned();
    if let Some(connection) = &connection {
        connection.upgrade();
    }
    let (to_client, mut parts) = mpsc::channel::<Bytes>(WAITING_PARTS);
    let relay = Relay {
        client: payload.into_inner(),
        to_client,
        service,
        slow_client: state.slow_client_limit,
        slow_service: state.answer_timeout,
        stopping: state.stopping.clone(),
    };
    let ended = state.metrics.sockets_ended.clone();
    actix_web::rt::spawn(role::inherit(async move {
        let end = relay.run().await;
        let reason: &'static str = end.reason.into();
        ended.with_label_values(&[reason]).inc();
        debug!(reason; "forwarded socket ended");
        finish(connection.as_ref(), end);
        drop(held);
    }));
    let parts = stream::poll_fn(move |context| parts.poll_recv(context));
    Ok(head.streaming(parts.map(Ok::<_, Infallible>)))
}

/// Takes the permits of a socket. The limits are those of sessions.
fn hold(request: &HttpRequest, state: &GatewayState) -> Result<Held, ApiError> {
    let socket = state
        .sockets
        .clone()
        .try_acquire_owned()
        .map_err(|_| ApiError::TooManySessions(state.max_sockets))?;
    let address = match peer_of(request) {
        None => None,
        Some(peer) => {
            let client = state.addresses.client(peer, request.headers());
            state
                .addresses
                .take_session(client)
                .map_err(|TooMany(max)| ApiError::TooManySessionsOfAddress(max))?
        }
    };
    let open = state.metrics.sockets.clone();
    open.inc();
    Ok(Held {
        _socket: socket,
        _address: address,
        open,
    })
}

/// Leaves the client's connection to the sweep, which ends it if the client does not. A client that
/// gets no close frame is cut off.
fn finish(connection: Option<&Rc<Connection>>, end: End) {
    let Some(connection) = connection else { return };
    if let Some(handle) = connection.handle().filter(|_| !end.is_clean) {
        handle.close();
    }
    connection.session_ended();
}
