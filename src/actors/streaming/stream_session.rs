//! One actor per stream of a client that sends one request and has a message format of its own, such
//! as a gRPC stream. To its distributor it is a session like that of a socket: while the client reads
//! too slowly, the actor takes nothing from its mailbox, and the distributor keeps only the latest
//! change of each market for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{debug, warn};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::messages::{Connect, Disconnect, SetHeartbeat, Subscribe, Unsubscribe};
use super::session_edges::SessionEdges;
use super::session_handle::{AbortHandle, SessionHandle, SessionMessage};
use super::stream_end::{EndReason, StreamEnd};
use crate::actors::odds::messages::ApplyError;
use crate::domain::access::Caller;
use crate::domain::ids::EventId;
use crate::domain::odds::book::Snapshot;
use crate::domain::streaming::conflation_step::ConflationStep;
use crate::domain::streaming::fanout::{Delivery, SessionId, SourceNotice};
use crate::domain::streaming::heartbeats::LastSent;
use crate::domain::streaming::protocol::{
    FeedStatus, Form, Refusal, ShownSnapshot, SnapshotMarket, SnapshotView, SubscribeRequest,
    UpdateFrame,
};
use crate::domain::streaming::session::{Attempt, Effect, SessionState, SnapshotFrame};
use crate::domain::streaming::shown_at::ShownAt;
use crate::domain::timestamp::Timestamp;
use crate::runtime::actor;
use crate::runtime::liveness::LivenessProbe;

/// Mailbox capacity of the actor that starts streams.
const MAILBOX: usize = 256;

/// A message for the client of a stream, not encoded yet.
#[derive(Clone, Debug)]
pub enum StreamMessage {
    /// The state of an event.
    Snapshot(ShownSnapshot),
    /// A change, and whether earlier ones were left out.
    Update(Arc<UpdateFrame>, Form),
    /// The status of a source.
    Notice(SourceNotice),
    /// The status of the feed.
    Feed(FeedStatus),
    /// Every change until this time has been sent.
    Heartbeat(Timestamp),
    /// The server ends the stream after this time.
    Reconnect(Duration),
    /// A part of the request cannot be served.
    Refused(Refusal),
}

/// Starts the streams of its thread. Handlers of gRPC run outside of actors, and cannot start one.
pub struct StreamStarter {
    edges: Arc<SessionEdges>,
}

/// Opens a stream.
#[derive(Message)]
#[rtype(result = "()")]
pub struct OpenStream {
    /// Its number among the sessions.
    pub id: SessionId,
    /// The caller.
    pub caller: Caller,
    /// What it subscribes to.
    pub request: SubscribeRequest,
    /// The messages for the client. The stream ends when the receiver is dropped.
    pub output: mpsc::Sender<StreamMessage>,
    /// Why the server ends it.
    pub end: Arc<StreamEnd>,
}

impl StreamStarter {
    /// Starts the actor on this thread.
    pub fn start_here(edges: SessionEdges) -> Addr<StreamStarter> {
        let edges = Arc::new(edges);
        actor::start_here(MAILBOX, StreamStarter { edges })
    }
}

impl Actor for StreamStarter {
    type Context = Context<Self>;
}

impl Handler<OpenStream> for StreamStarter {
    type Result = ();

    fn handle(&mut self, open: OpenStream, _: &mut Context<Self>) {
        let state = SessionState::new(self.edges.limits, Instant::now());
        let session = StreamSession {
            id: open.id,
            state: state.of_stream(open.caller, self.edges.access.is_odds_public()),
            edges: self.edges.clone(),
            request: Some(open.request),
            output: open.output,
            waiting: VecDeque::new(),
            subscribes: VecDeque::new(),
            end: open.end,
            liveness: Arc::new(LivenessProbe::new()),
            feed: FeedStatus::Live,
            last_sent: None,
        };
        actor::start_here(self.edges.queue, session);
    }
}

/// A subscription that has not been made yet.
type Subscription = (EventId, Attempt, Option<ConflationStep>);

/// The actor of one stream.
struct StreamSession {
    id: SessionId,
    edges: Arc<SessionEdges>,
    state: SessionState,
    request: Option<SubscribeRequest>,
    output: mpsc::Sender<StreamMessage>,
    /// Messages of one input that do not fit into `output`. Nothing else is handled until they do.
    waiting: VecDeque<StreamMessage>,
    /// One is made at a time.
    subscribes: VecDeque<Subscription>,
    end: Arc<StreamEnd>,
    liveness: Arc<LivenessProbe>,
    /// The feed status last sent to the client.
    feed: FeedStatus,
    /// When something was last sent, if the client wants heartbeats.
    last_sent: Option<Arc<LastSent>>,
}

/// About the size of a snapshot. The message is encoded for the client elsewhere.
fn estimated_bytes(shown: &ShownSnapshot) -> u64 {
    let market = |it: &SnapshotMarket| 200 + 64 * it.state.update.selections.len() as u64;
    100 + shown.markets.iter().map(market).sum::<u64>()
}

impl StreamSession {
    fn send(&mut self, message: StreamMessage) {
        self.waiting.push_back(message);
    }

    /// Hands the messages over. If the client does not read, nothing else is handled until it does
    /// or the stream is cut off.
    fn flush(&mut self, context: &mut Context<Self>) {
        while let Some(message) = self.waiting.pop_front() {
            match self.output.try_send(message) {
                Ok(()) => {
                    if let Some(last_sent) = &self.last_sent {
                        last_sent.record(Instant::now());
                    }
                }
                Err(TrySendError::Closed(_)) => return context.stop(),
                Err(TrySendError::Full(message)) => {
                    self.waiting.push_front(message);
                    return self.wait_for_room(context);
                }
            }
        }
    }

    fn wait_for_room(&self, context: &mut Context<Self>) {
        let (output, end) = (self.output.clone(), self.end.clone());
        let room = async move {
            tokio::select! {
                room = output.reserve() => room.is_ok(),
                () = end.aborted() => false,
            }
        };
        context.wait(
            room.into_actor(self)
                .map(|has_room, session, context| match has_room {
                    true => session.flush(context),
                    false => context.stop(),
                }),
        );
    }

    fn act(&mut self, effects: impl IntoIterator<Item = Effect>, context: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::SendUpdate(frame, form) => self.send(StreamMessage::Update(frame, form)),
                Effect::Refuse(refusal @ Refusal::SnapshotUnavailable(_)) => {
                    self.send(StreamMessage::Refused(refusal));
                }
                Effect::Refuse(refusal) => self.close(EndReason::Refused(refusal), context),
                Effect::Heartbeat(interval) => self.request_heartbeats(interval),
                Effect::Subscribe(event_id, attempt, conflation) => {
                    self.subscribes.push_back((event_id, attempt, conflation));
                }
                Effect::Unsubscribe(event_id) => {
                    let id = self.id;
                    // Sent once per subscription and must arrive, so it bypasses the mailbox limit.
                    self.edges.distributor.do_send(Unsubscribe { id, event_id });
                }
                Effect::Close(reason) => self.close(EndReason::Closed(reason), context),
                // Of sockets only: the client sends no further message, and HTTP/2 pings it.
                Effect::Send(_)
                | Effect::Authenticate(_)
                | Effect::WatchCaller(_)
                | Effect::Ping => {}
            }
        }
    }

    fn request_heartbeats(&mut self, interval: Duration) {
        let last_sent = Arc::new(LastSent::new(Instant::now()));
        self.last_sent = Some(last_sent.clone());
        // Sent once per stream and must arrive, so it bypasses the mailbox limit.
        self.edges.distributor.do_send(SetHeartbeat {
            id: self.id,
            interval,
            last_sent,
        });
    }

    /// Makes the next subscription, and then requests its snapshot.
    fn subscribe_next(&mut self, context: &mut Context<Self>) {
        if !self.subscribes.is_empty()
            && let Some(delay) = self.state.snapshot_delay(Instant::now())
        {
            context.run_later(delay, |session, context| session.subscribe_next(context));
            return;
        }
        let Some((event_id, attempt, conflation)) = self.subscribes.pop_front() else {
            // Free the memory: the stream may stay for hours.
            return self.subscribes = VecDeque::new();
        };
        let subscribe = Subscribe {
            id: self.id,
            event_id: event_id.clone(),
            conflation,
        };
        let subscribing = self.edges.distributor.send(subscribe).into_actor(self);
        context.spawn(subscribing.map(move |subscribed, session, context| {
            if subscribed.unwrap_or(false) {
                session.request_snapshot(event_id, attempt, 0, context);
            } else {
                session.finish_subscription(event_id, attempt, None, context);
            }
        }));
    }

    /// Requests the snapshot of a subscription; `tries` counts those that were behind the client.
    fn request_snapshot(
        &mut self,
        event_id: EventId,
        attempt: Attempt,
        tries: u32,
        context: &mut Context<Self>,
    ) {
        let (edges, requested) = (self.edges.clone(), event_id.clone());
        let answer = async move { edges.snapshot(requested).await };
        context.spawn(
            answer
                .into_actor(self)
                .map(move |answer, session, context| {
                    let delay = |snapshot: &Snapshot| {
                        let view = session.snapshot_view(snapshot, attempt);
                        view.catch_up_delay(snapshot, tries)
                    };
                    if let Some(delay) = answer.as_ref().ok().and_then(delay) {
                        context.run_later(delay, move |session, context| {
                            session.request_snapshot(event_id, attempt, tries + 1, context);
                        });
                    } else {
                        session.finish_subscription(event_id, attempt, Some(answer), context);
                    }
                }),
        );
    }

    fn finish_subscription(
        &mut self,
        event_id: EventId,
        attempt: Attempt,
        answer: Option<Result<Snapshot, ApplyError>>,
        context: &mut Context<Self>,
    ) {
        self.on_snapshot(event_id, attempt, answer, context);
        self.flush(context);
        self.subscribe_next(context);
    }

    fn on_snapshot(
        &mut self,
        event_id: EventId,
        attempt: Attempt,
        answer: Option<Result<Snapshot, ApplyError>>,
        context: &mut Context<Self>,
    ) {
        let snapshot = match answer {
            Some(Ok(snapshot)) => Some(snapshot),
            Some(Err(error)) => {
                if let Some(repeated) = self.edges.failures.check(error.cause()) {
                    warn!(session = self.id.0, event = event_id.as_str(), repeated; "snapshot failed: {error}");
                }
                None
            }
            None => None,
        };
        let shown = snapshot.map(|snapshot| self.show(&snapshot, attempt));
        let frame = shown.as_ref().map(|(shown_at, _)| SnapshotFrame {
            shown_at: *shown_at,
            text: Default::default(),
        });
        let effects = self.state.on_snapshot(event_id, attempt, frame);
        if let Some((_, shown)) = shown {
            self.state.charge_snapshot(estimated_bytes(&shown));
            self.send(StreamMessage::Snapshot(shown));
        }
        self.act(effects, context);
    }

    /// How a snapshot is shown to the client.
    fn snapshot_view(&self, snapshot: &Snapshot, attempt: Attempt) -> SnapshotView<'_> {
        self.edges.view(&self.state, self.feed, snapshot, attempt)
    }

    /// The snapshot of a subscription.
    fn show(&self, snapshot: &Snapshot, attempt: Attempt) -> (ShownAt, ShownSnapshot) {
        let view = self.snapshot_view(snapshot, attempt);
        self.edges.count_resume(&view, snapshot);
        (view.shown_at(snapshot), view.show(snapshot))
    }

    fn deliver(&mut self, delivery: &Delivery) {
        let notices = self.state.notices(delivery).cloned();
        let notices: Vec<_> = notices.map(StreamMessage::Notice).collect();
        self.waiting.extend(notices);
        for (index, frame) in delivery.frames().iter().enumerate() {
            let form = delivery.form(index, true);
            if let Some(Effect::SendUpdate(frame, form)) = self.state.on_update(frame, form) {
                self.send(StreamMessage::Update(frame, form));
            }
        }
        if delivery.measured {
            let frames = delivery.frames().iter();
            frames.for_each(|frame| self.edges.measure(frame));
            if let Some(trace) = delivery.trace() {
                trace.written();
            }
        }
        if let Some(status) = delivery.feed {
            self.feed = status;
            self.send(StreamMessage::Feed(status));
        }
    }

    fn close(&mut self, reason: EndReason, context: &mut Context<Self>) {
        debug!(session = self.id.0; "stream ends: {reason:?}");
        self.end.set(reason);
        context.stop();
    }

    /// Starts with the request, once the distributor knows the stream.
    fn start_request(&mut self, context: &mut Context<Self>) {
        if let Some(request) = self.request.take() {
            let effects = self.state.on_request(request, Instant::now());
            self.act(effects, context);
            self.flush(context);
            self.subscribe_next(context);
        }
    }
}

impl Actor for StreamSession {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let handle = SessionHandle {
            session: context.address().recipient(),
            connection: Some(AbortHandle::Stream(self.end.clone())),
            liveness: self.liveness.clone(),
        };
        let connect = Connect {
            id: self.id,
            handle,
            caller: self.state.caller().cloned(),
        };
        let (output, end) = (self.output.clone(), self.end.clone());
        let ended = async move {
            tokio::select! {
                () = output.closed() => {}
                () = end.aborted() => {}
            }
        };
        let ended = ended.into_actor(self);
        context.spawn(ended.map(|(), _, context| context.stop()));
        let connecting = self.edges.distributor.send(connect).into_actor(self);
        context.wait(
            connecting.map(|connected, session, context| match connected {
                Ok(()) => session.start_request(context),
                Err(_) => {
                    use crate::domain::streaming::protocol::CloseReason::GoingAway;
                    session.close(EndReason::Closed(GoingAway), context);
                }
            }),
        );
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // Sent once per stream and must arrive, so it bypasses the mailbox limit.
        self.edges.distributor.do_send(Disconnect(self.id));
    }
}

impl Handler<SessionMessage> for StreamSession {
    type Result = ();

    fn handle(&mut self, message: SessionMessage, context: &mut Self::Context) {
        match message {
            SessionMessage::Deliver(delivery) => self.deliver(&delivery),
            SessionMessage::Ping => self.liveness.touch(),
            SessionMessage::Heartbeat(as_of) => self.send(StreamMessage::Heartbeat(as_of)),
            SessionMessage::Reconnect(within) => self.send(StreamMessage::Reconnect(within)),
            SessionMessage::End(reason) => self.close(EndReason::Closed(reason), context),
        }
        self.flush(context);
    }
}
