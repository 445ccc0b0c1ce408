//! Knows which threads have sessions subscribed to an event. Encodes each change once and sends it
//! to those threads.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::*;
use futures_util::future::join_all;

use crate::actors::odds::messages::BookChanged;
use crate::actors::streaming::messages::{
    Deliver, EndAllSessions, FeedChanged, Follow, Join, Registration, Unfollow,
};
use crate::domain::ids::EventId;
use crate::domain::streaming::fanout::Delivery;
use crate::domain::streaming::protocol::{CloseReason, FeedStatus, UpdateFrame};
use crate::telemetry::metrics::OddsMetrics;

/// Identifies a distributor; unique within the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DistributorId(u64);

/// The actor between the books and the distributors.
pub struct Registry {
    distributors: HashMap<DistributorId, Join>,
    followers: HashMap<EventId, Vec<DistributorId>>,
    joined: u64,
    ending: Option<CloseReason>,
    feed: FeedStatus,
    metrics: OddsMetrics,
}

impl Registry {
    /// A registry without distributors.
    pub fn new(metrics: OddsMetrics) -> Registry {
        Registry {
            distributors: HashMap::new(),
            followers: HashMap::new(),
            joined: 0,
            ending: None,
            feed: FeedStatus::Live,
            metrics,
        }
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
        let frames = changed
            .states
            .iter()
            .map(|state| Arc::new(UpdateFrame::new(state)))
            .collect();
        let delivery = Delivery::of(frames, changed.conflated);
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

impl Handler<EndAllSessions> for Registry {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, end: EndAllSessions, _: &mut Context<Self>) -> Self::Result {
        self.ending = Some(end.0);
        let sends: Vec<_> = self
            .distributors
            .values()
            .map(|edges| edges.end.send(end))
            .collect();
        Box::pin(async move { drop(join_all(sends).await) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::domain::odds::book::MarketState;
    use crate::domain::odds::update::testing::*;

    /// Records the event and sequence number of each change. A slow probe takes `takes` for each.
    struct ProbeDistributor {
        taken: Arc<Mutex<Vec<(String, u64)>>>,
        takes: Duration,
    }

    impl Actor for ProbeDistributor {
        type Context = Context<Self>;

        fn started(&mut self, context: &mut Context<Self>) {
            context.set_mailbox_capacity(1);
        }
    }

    impl Handler<Deliver> for ProbeDistributor {
        type Result = ();

        fn handle(&mut self, deliver: Deliver, context: &mut Context<Self>) {
            let taken = deliver
                .delivery
                .frames()
                .iter()
                .map(|frame| (deliver.event_id.to_string(), frame.seq));
            self.taken.lock().unwrap().extend(taken);
            context.wait(tokio::time::sleep(self.takes).into_actor(self));
        }
    }

    impl Handler<FeedChanged> for ProbeDistributor {
        type Result = ();

        fn handle(&mut self, _: FeedChanged, _: &mut Context<Self>) {}
    }

    impl Handler<EndAllSessions> for ProbeDistributor {
        type Result = ();

        fn handle(&mut self, _: EndAllSessions, context: &mut Context<Self>) {
            context.stop();
        }
    }

    struct Probe {
        id: DistributorId,
        taken: Arc<Mutex<Vec<(String, u64)>>>,
        address: Addr<ProbeDistributor>,
    }

    impl Probe {
        fn taken(&self) -> Vec<(String, u64)> {
            self.taken.lock().unwrap().clone()
        }
    }

    async fn joined(registry: &Addr<Registry>, takes: Duration) -> Probe {
        let taken = Arc::default();
        let address = ProbeDistributor {
            taken: Arc::clone(&taken),
            takes,
        }
        .start();
        let join = Join {
            deliver: address.clone().recipient(),
            feed: address.clone().recipient(),
            end: address.clone().recipient(),
        };
        let id = registry.send(join).await.unwrap().id;
        Probe { id, taken, address }
    }

    async fn follow(registry: &Addr<Registry>, probe: &Probe, event: &str) {
        let event_id = EventId::new(event).unwrap();
        registry
            .send(Follow {
                distributor: probe.id,
                event_id,
            })
            .await
            .unwrap();
    }

    async fn change(registry: &Addr<Registry>, event: &str, seq: u64) {
        let update = market_update(event, "1x2", None, seq as i64, 1);
        let states = Arc::new([Arc::new(MarketState { update, seq })]);
        registry
            .send(BookChanged {
                states,
                conflated: false,
            })
            .await
            .unwrap();
    }

    /// Waits until a probe has received these changes.
    async fn until_taken(probe: &Probe, event: &str, numbers: std::ops::RangeInclusive<u64>) {
        let expected: Vec<_> = numbers.map(|seq| (event.to_owned(), seq)).collect();
        for _ in 0..1_000 {
            if probe.taken() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "timed out after 10 s: got {:?}, expected {expected:?}",
            probe.taken()
        );
    }

    /// A thread receives the changes of an event only while it follows that event.
    #[actix_web::test]
    async fn thread_receives_only_followed_events() {
        let registry = Registry::new(OddsMetrics::new().unwrap()).start();
        let (one, other) = (
            joined(&registry, Duration::ZERO).await,
            joined(&registry, Duration::ZERO).await,
        );
        assert_ne!(one.id, other.id);
        follow(&registry, &one, "A").await;
        follow(&registry, &one, "A").await;
        follow(&registry, &other, "B").await;
        change(&registry, "A", 1).await;
        change(&registry, "B", 2).await;
        change(&registry, "C", 3).await;
        until_taken(&one, "A", 1..=1).await;
        until_taken(&other, "B", 2..=2).await;
        registry
            .send(Unfollow {
                distributor: one.id,
                event_id: EventId::new("A").unwrap(),
            })
            .await
            .unwrap();
        change(&registry, "A", 4).await;
        follow(&registry, &one, "A").await;
        change(&registry, "A", 2).await;
        until_taken(&other, "B", 2..=2).await;
        until_taken(&one, "A", 1..=2).await;
    }

    /// A slow thread applies backpressure to the books, and no change is lost.
    #[actix_web::test]
    async fn slow_thread_applies_backpressure() {
        let registry = Registry::new(OddsMetrics::new().unwrap()).start();
        let slow = joined(&registry, Duration::from_millis(5)).await;
        follow(&registry, &slow, "A").await;
        for seq in 1..=40 {
            change(&registry, "A", seq).await;
        }
        assert!(
            slow.taken().len() > 10,
            "books continue only when there is room"
        );
        until_taken(&slow, "A", 1..=40).await;
    }

    /// A stopped thread is removed; the others continue.
    #[actix_web::test]
    async fn stopped_thread_is_removed() {
        let registry = Registry::new(OddsMetrics::new().unwrap()).start();
        let (gone, other) = (
            joined(&registry, Duration::ZERO).await,
            joined(&registry, Duration::ZERO).await,
        );
        follow(&registry, &gone, "A").await;
        follow(&registry, &other, "A").await;
        gone.address
            .send(EndAllSessions(CloseReason::GoingAway))
            .await
            .unwrap();
        for seq in 1..=3 {
            change(&registry, "A", seq).await;
        }
        until_taken(&other, "A", 1..=3).await;
        assert!(gone.taken().is_empty());
    }
}
