//! Fans changes out to the sessions of its thread, without waiting for any of them.
//!
//! There is one distributor per thread, so a change crosses threads once and not once per session.
//! Slow sessions are handled here, from outside: a client that stops reading freezes its session
//! actor, and the timers of a frozen actor do not fire.

mod credentials;
mod drain;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::info;

use super::messages::{
    Connect, Deliver, Disconnect, DistributorId, EndAllSessions, FeedChanged, Flush, Follow, Join,
    SetHeartbeat, Subscribe, Unfollow, Unsubscribe,
};
use super::registry::Registry;
use super::session_handle::SessionHandle;
use crate::domain::ids::EventId;
use crate::domain::streaming::credential_watch::{CredentialLimits, CredentialWatch};
use crate::domain::streaming::fanout::{Fanout, Report, SessionId};
use crate::domain::streaming::heartbeats::Heartbeats;
use crate::domain::streaming::protocol::{CloseReason, FeedStatus};
use crate::domain::timestamp::Timestamp;
use crate::runtime::actor;
use crate::runtime::feed_health::FeedState;
use crate::telemetry::metrics::OddsMetrics;

/// How often a slow session is offered its pending changes again, and changes that were held back
/// are sent. The shortest step of conflation.
const OFFER_INTERVAL: Duration = Duration::from_millis(50);
/// The shortest time between two passes over the sessions that are due for a heartbeat.
const HEARTBEAT_TURN: Duration = Duration::from_millis(50);
/// How often the distributor checks which clients are due for a ping, and whose credential has
/// expired.
const PING_TURN: Duration = Duration::from_millis(250);
/// Mailbox capacity of a distributor.
const MAILBOX: usize = 1_024;

/// When clients are pinged, and when sessions are evicted.
#[derive(Clone, Copy, Debug)]
pub struct DistributorSettings {
    /// Time between two pings of a client.
    pub ping_interval: Duration,
    /// A session that accepts nothing for this long is evicted.
    pub slow_client_limit: Duration,
    /// A session that has not handled a ping request for this long is evicted when its next ping is
    /// due.
    pub frozen_limit: Duration,
    /// When sessions end because of their credential.
    pub credentials: CredentialLimits,
}

/// The actor that fans out to the sessions of one thread.
pub struct Distributor {
    settings: DistributorSettings,
    registry: Addr<Registry>,
    /// Assigned by the registry.
    id: DistributorId,
    fanout: Fanout<SessionHandle>,
    /// When each client is pinged next. One queue instead of one timer per session: timers were
    /// most of the cost of idle clients.
    pings: VecDeque<(Instant, SessionId)>,
    heartbeats: Heartbeats,
    is_heartbeat_planned: bool,
    /// Knows which changes the books have not applied yet.
    books: Arc<FeedState>,
    credentials: CredentialWatch,
    /// Events whose changes the registry sends here.
    followed: HashSet<EventId>,
    ending: Option<CloseReason>,
    feed: FeedStatus,
    offer_planned: bool,
    counted: Counted,
    metrics: OddsMetrics,
}

/// The share of this thread in the gauges that all threads update.
#[derive(Clone, Copy, Default)]
struct Counted {
    subscriptions: usize,
    stalled: usize,
}

impl Distributor {
    /// Starts a distributor for the sessions of this thread and registers it.
    pub fn start_here(
        settings: DistributorSettings,
        registry: Addr<Registry>,
        books: Arc<FeedState>,
        metrics: OddsMetrics,
    ) -> Addr<Distributor> {
        let distributor = Distributor {
            settings,
            registry,
            id: DistributorId::default(),
            fanout: Fanout::default(),
            pings: VecDeque::new(),
            heartbeats: Heartbeats::default(),
            is_heartbeat_planned: false,
            books,
            credentials: CredentialWatch::new(settings.credentials),
            followed: HashSet::new(),
            ending: None,
            feed: FeedStatus::Live,
            offer_planned: false,
            counted: Counted::default(),
            metrics,
        };
        actor::start_here(MAILBOX, distributor)
    }

    fn count(&mut self, report: &Report) {
        self.metrics.deliveries.inc_by(report.delivered as u64);
        self.metrics.conflations.inc_by(report.conflated as u64);
        self.count_sessions();
    }

    fn count_sessions(&mut self) {
        let now = Counted {
            subscriptions: self.fanout.subscriptions(),
            stalled: self.fanout.stalled(),
        };
        let before = std::mem::replace(&mut self.counted, now);
        self.metrics
            .subscriptions
            .add(now.subscriptions as i64 - before.subscriptions as i64);
        self.metrics
            .stalled
            .add(now.stalled as i64 - before.stalled as i64);
    }

    /// Schedules another offer if any session is stalled, or changes are held back.
    fn plan_offer(&mut self, context: &mut Context<Self>) {
        let is_needed = self.fanout.stalled() > 0 || self.fanout.is_holding();
        if self.offer_planned || !is_needed {
            return;
        }
        self.offer_planned = true;
        context.run_later(OFFER_INTERVAL, |distributor, context| {
            distributor.offer_planned = false;
            distributor.offer_again();
            distributor.plan_offer(context);
        });
    }

    fn offer_again(&mut self) {
        let report = self.fanout.flush_due(Instant::now());
        self.count(&report);
        let report = self.fanout.offer_again();
        self.count(&report);
        let evicted = self
            .fanout
            .evict_stalled(Instant::now(), self.settings.slow_client_limit);
        evicted
            .into_iter()
            .for_each(|(id, handle)| self.evict(id, &handle, "client reads nothing"));
    }

    /// Schedules the heartbeats that are due next.
    fn plan_heartbeats(&mut self, context: &mut Context<Self>) {
        let Some(due) = self.heartbeats.next_due() else {
            return;
        };
        if self.is_heartbeat_planned {
            return;
        }
        self.is_heartbeat_planned = true;
        let delay = due.saturating_duration_since(Instant::now());
        context.run_later(delay.max(HEARTBEAT_TURN), |distributor, context| {
            let moment = Moment::now(&distributor.books);
            // What the books have published until then is handed to the sessions first.
            let flushing = distributor.registry.send(Flush).into_actor(distributor);
            context.spawn(flushing.map(move |_, distributor, context| {
                distributor.is_heartbeat_planned = false;
                distributor.send_heartbeats(moment);
                distributor.plan_heartbeats(context);
            }));
        });
    }

    /// Makes the sessions that have sent nothing for their interval send a heartbeat. While changes
    /// cannot arrive, nobody knows until when everything was sent.
    fn send_heartbeats(&mut self, Moment { now, time, waiting }: Moment) {
        for id in self.heartbeats.take_due(now) {
            let (Some(handle), Some(until)) =
                (self.fanout.sink(id), self.fanout.complete_until(id, now))
            else {
                continue;
            };
            if self.feed == FeedStatus::Live {
                let held = now.saturating_duration_since(until);
                handle.heartbeat(time.earlier_by(held.max(waiting)));
            }
        }
    }

    /// Removes a session and returns its handle.
    fn disconnect(&mut self, id: SessionId) -> Option<SessionHandle> {
        self.heartbeats.remove(id);
        self.credentials.remove(id);
        self.fanout.disconnect(id)
    }

    /// Makes sessions ping their clients, and evicts frozen sessions that have nothing pending.
    fn ping(&mut self) {
        let (
            now,
            DistributorSettings {
                ping_interval,
                frozen_limit,
                ..
            },
        ) = (Instant::now(), self.settings);
        let turns = (ping_interval.as_millis() / PING_TURN.as_millis()).max(1) as usize;
        // Handle up to twice the average per turn, so that sessions that connected together spread
        // out.
        for _ in 0..=2 * self.fanout.sessions() / turns {
            let Some((_, id)) = self.pings.pop_front_if(|(due, _)| *due <= now) else {
                return;
            };
            let Some(handle) = self.fanout.sink(id) else {
                continue;
            };
            if handle.liveness.age() < frozen_limit {
                handle.ping();
                self.pings.push_back((now + ping_interval, id));
            } else if let Some(handle) = self.disconnect(id) {
                self.evict(id, &handle, "session frozen");
            }
        }
    }

    fn evict(&mut self, id: SessionId, handle: &SessionHandle, why: &str) {
        info!(session = id.0, reason = "slow"; "session evicted: {why}");
        self.metrics.evictions.inc();
        handle.liveness.mark_evicted();
        self.count_sessions();
        if let Some(connection) = &handle.connection {
            connection.abort();
        }
    }
}

/// A moment, and how long the oldest change that the books had not applied then was waiting.
#[derive(Clone, Copy)]
struct Moment {
    now: Instant,
    time: Timestamp,
    waiting: Duration,
}

impl Moment {
    fn now(books: &FeedState) -> Moment {
        Moment {
            now: Instant::now(),
            time: Timestamp::now(),
            waiting: books.waiting(),
        }
    }
}

impl Actor for Distributor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let address = context.address();
        let join = Join {
            deliver: address.clone().recipient(),
            feed: address.clone().recipient(),
            revocations: address.clone().recipient(),
            end: address.recipient(),
        };
        // Accept no session before the registry knows where to send its changes.
        context.wait(self.registry.send(join).into_actor(self).map(
            |joined, distributor, context| match joined {
                Ok(joined) => {
                    (distributor.id, distributor.feed, distributor.ending) =
                        (joined.id, joined.feed, joined.ending);
                    // Nobody is watched yet.
                    let known = joined.revocations;
                    distributor.credentials.revoke(known, Timestamp::now());
                }
                // The registry has stopped, so the process is ending.
                Err(_) => context.stop(),
            },
        ));
        context.run_interval(PING_TURN, |distributor, _| {
            distributor.ping();
            distributor.end_overdue(Timestamp::now());
        });
    }
}

impl Handler<Connect> for Distributor {
    type Result = ();

    fn handle(&mut self, connect: Connect, context: &mut Context<Self>) {
        if let Some(reason) = self.ending {
            connect.handle.end(reason);
        }
        self.pings
            .push_back((Instant::now() + self.settings.ping_interval, connect.id));
        self.fanout.connect(connect.id, connect.handle);
        if let Some(caller) = connect.caller {
            self.watch_caller(connect.id, caller);
        }
        if self.feed == FeedStatus::Stale {
            self.fanout
                .announce(self.feed, Some(connect.id), Instant::now());
            self.plan_offer(context);
        }
    }
}

impl Handler<Disconnect> for Distributor {
    type Result = ();

    fn handle(&mut self, disconnect: Disconnect, _: &mut Context<Self>) {
        self.disconnect(disconnect.0);
        self.count_sessions();
    }
}

impl Handler<Subscribe> for Distributor {
    type Result = ResponseActFuture<Self, bool>;

    fn handle(
        &mut self,
        Subscribe {
            id,
            event_id,
            conflation,
        }: Subscribe,
        _: &mut Context<Self>,
    ) -> Self::Result {
        let is_known = self.fanout.subscribe(id, &event_id, conflation);
        self.count_sessions();
        if !is_known || self.followed.contains(&event_id) {
            return Box::pin(fut::ready(is_known));
        }
        // Two sessions may send this at once; following an event twice has no further effect.
        let following = self.registry.send(Follow {
            distributor: self.id,
            event_id: event_id.clone(),
        });
        Box::pin(following.into_actor(self).map(|followed, distributor, _| {
            let is_followed = followed.is_ok();
            if is_followed {
                distributor.followed.insert(event_id);
            }
            is_followed
        }))
    }
}

impl Handler<SetHeartbeat> for Distributor {
    type Result = ();

    fn handle(&mut self, set: SetHeartbeat, context: &mut Context<Self>) {
        if self.fanout.sink(set.id).is_some() {
            self.heartbeats.set(set.id, set.interval, set.last_sent);
            self.plan_heartbeats(context);
        }
    }
}

impl Handler<Unsubscribe> for Distributor {
    type Result = ();

    fn handle(&mut self, unsubscribe: Unsubscribe, _: &mut Context<Self>) {
        self.fanout
            .unsubscribe(unsubscribe.id, &unsubscribe.event_id);
        self.count_sessions();
    }
}

impl Handler<Deliver> for Distributor {
    type Result = ();

    fn handle(&mut self, Deliver { event_id, delivery }: Deliver, context: &mut Context<Self>) {
        if self.fanout.has_subscribers(&event_id) {
            let report = self.fanout.publish(&event_id, &delivery, Instant::now());
            if let Some(trace) = delivery.trace() {
                trace.offered(report.delivered);
            }
            self.count(&report);
            self.plan_offer(context);
        } else if self.followed.remove(&event_id) {
            // Sent at most once per `Follow`, so it may bypass the mailbox limit. A later
            // subscriber sends its `Follow` after this message.
            self.registry.do_send(Unfollow {
                distributor: self.id,
                event_id,
            });
        }
    }
}

impl Handler<FeedChanged> for Distributor {
    type Result = ();

    fn handle(&mut self, changed: FeedChanged, context: &mut Context<Self>) {
        self.feed = changed.0;
        let now = Instant::now();
        if self.feed == FeedStatus::Live {
            let report = self.fanout.flush_all(now);
            self.count(&report);
        }
        self.fanout.announce(self.feed, None, now);
        self.count_sessions();
        self.plan_offer(context);
    }
}

impl Handler<EndAllSessions> for Distributor {
    type Result = ();

    fn handle(&mut self, end: EndAllSessions, context: &mut Context<Self>) {
        self.ending = Some(end.reason);
        if end.spread.is_zero() {
            self.fanout
                .sinks()
                .for_each(|handle| handle.end(end.reason));
        } else {
            self.start_drain(end.reason, end.spread, context);
        }
    }
}

#[cfg(test)]
mod tests;
