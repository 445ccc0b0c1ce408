//! `WatchOdds`: a stream of changes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::{Code, Status};

use super::admission::{Call, code_label};
use super::convert;
use super::encoded::EncodedResponse;
use super::odds::OddsApi;
use super::proto::v1;
use super::read::{self, bad};
use super::status::{CallError, of_end};
use crate::actors::streaming::stream_end::{EndReason, StreamEnd};
use crate::actors::streaming::stream_session::{OpenStream, StreamMessage};
use crate::domain::ids::EventId;
use crate::domain::streaming::fanout::SessionId;
use crate::domain::streaming::protocol::{
    CloseReason, MAX_EPOCH_BYTES, Refusal, ResumePoint, SubscribeRequest,
};
use crate::http::addresses::TooMany;
use crate::http::errors::ApiError;
use crate::http::limits::CallerPermit;
use crate::runtime::permits::AddressPermit;
use crate::telemetry::metrics::GrpcMetrics;

/// Messages that wait for the client, before its actor takes no more.
const CAPACITY: usize = 64;
/// The name in metrics.
const METHOD: &str = "OddsService/WatchOdds";

/// What a stream takes from the limits on sessions. Returned when dropped: after the client has
/// ended the stream, or has read its end.
struct Permits {
    _session: OwnedSemaphorePermit,
    _address: Option<AddressPermit>,
    _caller: Option<CallerPermit>,
}

impl OddsApi {
    /// Opens a stream. Its actor is started by the `StreamStarter` of this thread.
    pub(super) async fn watch_odds(
        &self,
        call: Call,
        request: v1::WatchOddsRequest,
    ) -> Result<WatchStream, CallError> {
        let request = subscriptions(request)?;
        let permits = self.permits(&call)?;
        let (output, messages) = mpsc::channel(CAPACITY);
        let end = Arc::new(StreamEnd::default());
        let open = OpenStream {
            id: SessionId(self.limits.next_session.fetch_add(1, Ordering::Relaxed)),
            caller: call.caller,
            request,
            output,
            end: end.clone(),
        };
        if self.streams.send(open).await.is_err() {
            // The process is stopping.
            end.set(EndReason::Closed(CloseReason::GoingAway));
        }
        Ok(WatchStream::new(
            messages,
            end,
            permits,
            self.admission.metrics.clone(),
        ))
    }

    fn permits(&self, call: &Call) -> Result<Permits, ApiError> {
        let limits = &self.limits;
        let session = limits.session_permits.clone().try_acquire_owned();
        let session = session.map_err(|_| ApiError::TooManySessions(limits.max_sessions))?;
        let address = call
            .client
            .map_or(Ok(None), |client| limits.addresses.take_session(client));
        let address = address.map_err(|TooMany(max)| ApiError::TooManySessionsOfAddress(max))?;
        let caller = self.admission.limits.take_socket(&call.caller, call.client);
        let caller = caller.map_err(|TooMany(max)| ApiError::TooManySessionsOfCaller(max))?;
        Ok(Permits {
            _session: session,
            _address: address,
            _caller: caller,
        })
    }
}

/// Reads what a client subscribes to, as from a `subscribe` on a socket.
fn subscriptions(request: v1::WatchOddsRequest) -> Result<SubscribeRequest, ApiError> {
    let epoch = Some(request.epoch).filter(|epoch| !epoch.is_empty());
    // It is copied for each event.
    if epoch
        .as_ref()
        .is_some_and(|epoch| epoch.len() > MAX_EPOCH_BYTES)
    {
        return Err(bad(
            "epoch",
            format_args!("longer than {MAX_EPOCH_BYTES} bytes"),
        ));
    }
    let mut events: BTreeMap<EventId, Option<ResumePoint>> = BTreeMap::new();
    for event in request.events {
        let id: EventId = read::id("event_id", &event.event_id)?;
        let epoch = epoch.clone();
        let resume = event.since.map(|since| ResumePoint { since, epoch });
        if events.insert(id, resume).is_some() {
            return Err(bad("event_id", "an event is given twice"));
        }
    }
    if events.is_empty() {
        return Err(bad("events", "it is empty"));
    }
    let refused = |field| move |refusal: Refusal| bad(field, refusal);
    Ok(SubscribeRequest {
        events,
        conflation: SubscribeRequest::conflation_of(request.conflate_ms)
            .map_err(refused("conflate_ms"))?,
        heartbeat: SubscribeRequest::heartbeat_of(request.heartbeat_ms)
            .map_err(refused("heartbeat_ms"))?,
    })
}

/// The messages of a stream, and the status with which it ends.
pub(crate) struct WatchStream {
    messages: mpsc::Receiver<StreamMessage>,
    end: Arc<StreamEnd>,
    /// `None` once the end was sent.
    permits: Option<Permits>,
    metrics: GrpcMetrics,
    code: Code,
}

impl WatchStream {
    fn new(
        messages: mpsc::Receiver<StreamMessage>,
        end: Arc<StreamEnd>,
        permits: Permits,
        metrics: GrpcMetrics,
    ) -> WatchStream {
        metrics.streams.inc();
        WatchStream {
            messages,
            end,
            permits: Some(permits),
            metrics,
            code: Code::Cancelled,
        }
    }
}

impl Stream for WatchStream {
    type Item = Result<EncodedResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.permits.is_none() {
            return Poll::Ready(None);
        }
        self.messages
            .poll_recv(context)
            .map(|message| match message {
                Some(message) => Some(Ok(convert::stream_message(&message))),
                None => {
                    self.permits = None;
                    let going_away = EndReason::Closed(CloseReason::GoingAway);
                    let status = of_end(self.end.reason().unwrap_or(&going_away));
                    self.code = status.code();
                    Some(Err(status))
                }
            })
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.metrics.streams.dec();
        self.metrics.count(METHOD, code_label(self.code));
    }
}
