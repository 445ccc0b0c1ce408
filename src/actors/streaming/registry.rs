//! Knows which threads have sessions subscribed to an event. Encodes each change once and sends it
//! to those threads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;

use super::delivery_span;
use super::messages::{
    Deliver, DistributorId, EndAllSessions, FeedChanged, Flush, Follow, GetFollowedEvents, Join,
    Registration, Unfollow,
};
use crate::actors::access::messages::RevocationsChanged;
use crate::actors::odds::messages::BookChanged;
use crate::domain::access::Revocations;
use crate::domain::ids::EventId;
use crate::domain::odds::restrictions::CurrentRestrictions;
use crate::domain::streaming::fanout::{Delivery, SourceNotice};
use crate::domain::streaming::protocol::{CloseReason, EncodingCount, FeedStatus, UpdateFrame};
use crate::domain::streaming::shown_at::ShownAt;
use crate::telemetry::metrics::OddsMetrics;

/// How often the encodings are added to their metric.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// The actor between the books and the distributors.
pub struct Registry {
    distributors: HashMap<DistributorId, Join>,
    followers: HashMap<EventId, Vec<DistributorId>>,
    joined: u64,
    ending: Option<CloseReason>,
    feed: FeedStatus,
    revocations: Arc<Revocations>,
    restrictions: Arc<CurrentRestrictions>,
    encodings: EncodingCount,
    metrics: OddsMetrics,
}

impl Registry {
    /// A registry without distributors. It shows states under these restrictions.
    pub fn new(metrics: OddsMetrics, restrictions: Arc<CurrentRestrictions>) -> Registry {
        Registry {
            distributors: HashMap::new(),
            followers: HashMap::new(),
            joined: 0,
            ending: None,
            feed: FeedStatus::Live,
            revocations: Arc::default(),
            restrictions,
            encodings: EncodingCount::default(),
            metrics,
        }
    }

    /// Encodes changes of an event, once for all clients.
    fn encode(&self, event_id: &EventId, changed: &BookChanged) -> Delivery {
        let restrictions = self.restrictions.get();
        let head = changed.restated.as_ref().map(|restated| restated.head);
        // While changes cannot arrive, a later number does not show that nothing is missing.
        let has_gap = changed.conflated || self.feed == FeedStatus::Stale;
        let frames = changed
            .states
            .iter()
            .map(|state| UpdateFrame::restricted(state, &restrictions, has_gap, head))
            .map(|frame| Arc::new(frame.counted_by(&self.encodings)));
        let notices = changed.restated.iter().flat_map(|restated| {
            let at = ShownAt::new(restated.head, &restrictions);
            let sources = restated.sources.iter();
            sources.map(move |(source, status)| SourceNotice::new(event_id, source, *status, at))
        });
        Delivery::with_notices(notices.collect(), frames.collect(), changed.conflated)
    }

    fn leave(&mut self, id: DistributorId) {
        self.distributors.remove(&id);
        self.followers.retain(|_, followers| {
            followers.retain(|follower| *follower != id);
            !followers.is_empty()
        });
    }
}

/// Sends a message. If the mailbox is full, the registry handles nothing else until there is room.
/// Returns `false` if the recipient has stopped.
fn send_or_wait<M>(to: &Recipient<M>, message: M, context: &mut Context<Registry>) -> bool
where
    M: Message<Result = ()> + Send + 'static,
{
    match to.try_send(message) {
        Ok(()) => true,
        Err(SendError::Full(message)) => {
            let waiting = to.send(message);
            context.wait(fut::wrap_future::<_, Registry>(
                async move { _ = waiting.await },
            ));
            true
        }
        Err(SendError::Closed(_)) => false,
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_interval(COUNT_INTERVAL, |registry, _| {
            let encodings = registry.encodings.take();
            registry.metrics.encodings.inc_by(encodings);
        });
    }
}

impl Handler<Join> for Registry {
    type Result = MessageResult<Join>;

    fn handle(&mut self, join: Join, _: &mut Context<Self>) -> Self::Result {
        self.joined += 1;
        let id = DistributorId(self.joined);
        self.distributors.insert(id, join);
        MessageResult(Registration {
            id,
            feed: self.feed,
            revocations: self.revocations.clone(),
            ending: self.ending,
        })
    }
}

impl Handler<Follow> for Registry {
    type Result = ();

    fn handle(
        &mut self,
        Follow {
            distributor,
            event_id,
        }: Follow,
        _: &mut Context<Self>,
    ) {
        let followers = self.followers.entry(event_id).or_default();
        if !followers.contains(&distributor) {
            followers.push(distributor);
        }
    }
}

impl Handler<Unfollow> for Registry {
    type Result = ();

    fn handle(
        &mut self,
        Unfollow {
            distributor,
            event_id,
        }: Unfollow,
        _: &mut Context<Self>,
    ) {
        let Some(followers) = self.followers.get_mut(&event_id) else {
            return;
        };
        followers.retain(|follower| *follower != distributor);
        if followers.is_empty() {
            self.followers.remove(&event_id);
        }
    }
}

impl Handler<BookChanged> for Registry {
    type Result = ();

    fn handle(&mut self, changed: BookChanged, context: &mut Context<Self>) {
        self.metrics.registry_depth.dec();
        let Some(first) = changed.states.first() else {
            return;
        };
        let Some(followers) = self.followers.get(&first.update.event_id) else {
            return;
        };
        let mut delivery = self.encode(&first.update.event_id, &changed);
        if let Some(trace) = delivery_span::begin(&changed) {
            delivery = delivery.traced_by(trace);
        }
        let mut gone = Vec::new();
        for follower in followers {
            let deliver = Deliver {
                event_id: first.update.event_id.clone(),
                delivery: delivery.clone(),
            };
            let edges = self.distributors.get(follower);
            if !edges.is_some_and(|edges| send_or_wait(&edges.deliver, deliver, context)) {
                gone.push(*follower);
            }
        }
        gone.into_iter().for_each(|id| self.leave(id));
    }
}

impl Handler<Flush> for Registry {
    type Result = ();

    /// While a change waits for a full mailbox, the registry handles no message.
    fn handle(&mut self, _: Flush, _: &mut Context<Self>) {}
}

impl Handler<GetFollowedEvents> for Registry {
    type Result = MessageResult<GetFollowedEvents>;

    fn handle(&mut self, _: GetFollowedEvents, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.followers.keys().cloned().collect())
    }
}

impl Handler<FeedChanged> for Registry {
    type Result = ();

    fn handle(&mut self, changed: FeedChanged, context: &mut Context<Self>) {
        if self.feed != changed.0 {
            self.feed = changed.0;
            // A stopped distributor is removed at the next change.
            self.distributors
                .values()
                .for_each(|edges| _ = send_or_wait(&edges.feed, changed, context));
        }
    }
}

impl Handler<RevocationsChanged> for Registry {
    type Result = ();

    fn handle(&mut self, changed: RevocationsChanged, context: &mut Context<Self>) {
        self.revocations = changed.0.clone();
        // A stopped distributor is removed at the next change.
        self.distributors
            .values()
            .for_each(|edges| _ = send_or_wait(&edges.revocations, changed.clone(), context));
    }
}

impl Handler<EndAllSessions> for Registry {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, end: EndAllSessions, _: &mut Context<Self>) -> Self::Result {
        self.ending = Some(end.reason);
        let sends: Vec<_> = self
            .distributors
            .values()
            .map(|edges| edges.end.send(end))
            .collect();
        Box::pin(async move { drop(join_all(sends).await) })
    }
}

#[cfg(test)]
mod tests;
