//! What a session requests: subscriptions and heartbeats from its distributor, snapshots from the
//! books.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_web_actors::ws::WebsocketContext;
use log::warn;

use super::Session;
use crate::actors::streaming::messages::{SetHeartbeat, Subscribe, Unsubscribe, WatchCaller};
use crate::domain::ids::EventId;
use crate::domain::odds::book::Snapshot;
use crate::domain::streaming::conflation_step::ConflationStep;
use crate::domain::streaming::credential_watch::SessionCaller;
use crate::domain::streaming::heartbeats::LastSent;
use crate::domain::streaming::protocol::{SnapshotView, snapshot_message};
use crate::domain::streaming::session::{Attempt, SnapshotFrame};

/// How many snapshots of one session are requested at a time. The session is polled only after what
/// it has sent was written, so this bounds the snapshots in memory for a client that subscribes to
/// much and reads slowly.
const MAX_SNAPSHOTS_IN_FLIGHT: u8 = 4;

/// A request to the distributor.
pub(super) enum Request {
    Subscribe(EventId, Attempt, Option<ConflationStep>),
    Unsubscribe(EventId),
    SetHeartbeat(Duration, Arc<LastSent>),
    WatchCaller(Arc<SessionCaller>),
}

impl Session {
    /// Sends the next request, unless an earlier one has to be finished first.
    pub(super) fn send_next_request(&mut self, context: &mut WebsocketContext<Self>) {
        if self.is_requesting || self.snapshots_in_flight >= MAX_SNAPSHOTS_IN_FLIGHT {
            return;
        }
        if matches!(self.requests.front(), Some(Request::Subscribe(..)))
            && let Some(delay) = self.state.snapshot_delay(Instant::now())
        {
            self.is_requesting = true;
            context.run_later(delay, |session, context| {
                session.is_requesting = false;
                session.send_next_request(context);
            });
            return;
        }
        match self.requests.pop_front() {
            Some(request) => self.send_request(request, context),
            // Free the memory: most sessions subscribe once and stay for hours.
            None => self.requests = VecDeque::new(),
        }
    }

    fn send_request(&mut self, request: Request, context: &mut WebsocketContext<Self>) {
        self.is_requesting = true;
        let edges = self.edges.clone();
        let id = self.id;
        let call = async move {
            match request {
                Request::Unsubscribe(event_id) => {
                    let _ = edges.distributor.send(Unsubscribe { id, event_id }).await;
                    None
                }
                Request::SetHeartbeat(interval, last_sent) => {
                    let set = SetHeartbeat {
                        id,
                        interval,
                        last_sent,
                    };
                    let _ = edges.distributor.send(set).await;
                    None
                }
                Request::WatchCaller(caller) => {
                    let _ = edges.distributor.send(WatchCaller { id, caller }).await;
                    None
                }
                Request::Subscribe(event_id, attempt, conflation) => {
                    let subscribed = edges
                        .distributor
                        .send(Subscribe {
                            id,
                            event_id: event_id.clone(),
                            conflation,
                        })
                        .await;
                    Some((event_id, attempt, subscribed.unwrap_or(false)))
                }
            }
        };
        context.spawn(call.into_actor(self).map(|subscribed, session, context| {
            session.is_requesting = false;
            match subscribed {
                Some((event_id, attempt, true)) => {
                    session.request_snapshot(event_id, attempt, 0, context);
                }
                Some((event_id, attempt, false)) => {
                    let effects = session.state.on_snapshot(event_id, attempt, None);
                    session.act(effects, context);
                }
                None => {}
            }
            session.send_next_request(context);
        }));
    }

    fn request_snapshot(
        &mut self,
        event_id: EventId,
        attempt: Attempt,
        tries: u32,
        context: &mut WebsocketContext<Self>,
    ) {
        // A later request has replaced or ended the subscription.
        if !self.state.is_awaited(&event_id, attempt) {
            return;
        }
        self.snapshots_in_flight += 1;
        let edges = self.edges.clone();
        let requested = event_id.clone();
        let call = async move { edges.snapshot(requested).await };
        context.spawn(call.into_actor(self).map(move |answer, session, context| {
            let delay = |snapshot: &Snapshot| {
                let view = session.snapshot_view(snapshot, attempt);
                view.catch_up_delay(snapshot, tries)
            };
            if let Some(delay) = answer.as_ref().ok().and_then(delay) {
                // Still in flight: the limit also holds for those that wait.
                context.run_later(delay, move |session, context| {
                    session.snapshots_in_flight -= 1;
                    session.request_snapshot(event_id, attempt, tries + 1, context);
                    session.send_next_request(context);
                });
                return;
            }
            session.snapshots_in_flight -= 1;
            let snapshot = match answer {
                Ok(snapshot) => Some(session.encode(&snapshot, attempt)),
                Err(error) => {
                    if let Some(repeated) = session.edges.failures.check(error.cause()) {
                        warn!(session = session.id.0, event = event_id.as_str(), repeated; "snapshot failed: {error}");
                    }
                    None
                }
            };
            let effects = session.state.on_snapshot(event_id, attempt, snapshot);
            session.act(effects, context);
        }));
    }

    /// How a snapshot is shown to the client.
    fn snapshot_view(&self, snapshot: &Snapshot, attempt: Attempt) -> SnapshotView<'_> {
        self.edges.view(&self.state, self.feed, snapshot, attempt)
    }

    /// Encodes the snapshot of a subscription.
    fn encode(&self, snapshot: &Snapshot, attempt: Attempt) -> SnapshotFrame {
        let view = self.snapshot_view(snapshot, attempt);
        self.edges.count_resume(&view, snapshot);
        SnapshotFrame {
            shown_at: view.shown_at(snapshot),
            text: snapshot_message(snapshot, &view),
        }
    }
}
