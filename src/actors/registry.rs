//! Knows which session wants which event, and fans changes out: encoded once, offered without waiting.
//!
//! A session that does not take what it is offered is dealt with here, from outside: a client that stops reading
//! freezes its session actor, whose own timers then do not fire either.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::info;

use super::messages::{BookChanged, Connect, Disconnect, EndAllSessions, FeedChanged, Subscribe, Unsubscribe};
use super::outlet::{EndSession, SessionOutlet};
use crate::domain::fanout::{Delivery, Fanout, Report, SessionId};
use crate::domain::protocol::{CloseReason, FeedStatus, UpdateFrame};
use crate::metrics::OddsMetrics;

/// How often slow sessions are offered what they have not taken.
const OFFER_INTERVAL: Duration = Duration::from_millis(50);
/// How often sessions are looked at that have frozen without anything to take.
const FROZEN_INTERVAL: Duration = Duration::from_secs(1);

/// When sessions are given up.
#[derive(Clone, Copy, Debug)]
pub struct RegistrySettings {
    /// A session that takes nothing for so long is ended.
    pub slow_client_limit: Duration,
    /// A session whose own timer has not run for so long is ended.
    pub frozen_limit: Duration,
}

/// The actor that fans out.
pub struct Registry {
    settings: RegistrySettings,
    fanout: Fanout<SessionOutlet>,
    ending: Option<CloseReason>,
    feed: FeedStatus,
    metrics: OddsMetrics,
}

impl Registry {
    /// A registry without sessions.
    pub fn new(settings: RegistrySettings, metrics: OddsMetrics) -> Registry {
        Registry { settings, fanout: Fanout::default(), ending: None, feed: FeedStatus::Live, metrics }
    }

    fn count(&self, report: &Report) {
        self.metrics.deliveries.inc_by(report.delivered as u64);
        self.metrics.conflations.inc_by(report.conflated as u64);
        self.metrics.stalled.set(self.fanout.stalled() as i64);
    }

    fn offer_again(&mut self) {
        if self.fanout.stalled() == 0 {
            return;
        }
        let report = self.fanout.offer_again();
        self.count(&report);
        let evicted = self.fanout.evict_stalled(Instant::now(), self.settings.slow_client_limit);
        evicted.into_iter().for_each(|(id, outlet)| self.evict(id, &outlet, "takes nothing"));
    }

    fn end_frozen(&mut self) {
        let limit = self.settings.frozen_limit;
        let frozen = self.fanout.outlets().filter(|(_, outlet)| outlet.life.age() >= limit).map(|(id, _)| id);
        for id in frozen.collect::<Vec<_>>() {
            if let Some(outlet) = self.fanout.disconnect(id) {
                self.evict(id, &outlet, "frozen");
            }
        }
        self.metrics.subscriptions.set(self.fanout.subscriptions() as i64);
        self.metrics.stalled.set(self.fanout.stalled() as i64);
    }

    fn evict(&self, id: SessionId, outlet: &SessionOutlet, why: &str) {
        info!(session = id.0, reason = "slow"; "session ended from outside: {why}");
        self.metrics.evictions.inc();
        outlet.life.give_up();
        self.metrics.stalled.set(self.fanout.stalled() as i64);
        if let Some(connection) = &outlet.connection {
            connection.close();
        }
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_interval(OFFER_INTERVAL, |registry, _| registry.offer_again());
        context.run_interval(FROZEN_INTERVAL, |registry, _| registry.end_frozen());
    }
}

impl Handler<Connect> for Registry {
    type Result = ();

    fn handle(&mut self, connect: Connect, _: &mut Context<Self>) {
        if let Some(reason) = self.ending {
            connect.outlet.end.do_send(EndSession(reason));
        }
        self.fanout.connect(connect.id, connect.outlet);
        if self.feed == FeedStatus::Stale {
            self.fanout.announce(self.feed, Some(connect.id), Instant::now());
        }
    }
}

impl Handler<Disconnect> for Registry {
    type Result = ();

    fn handle(&mut self, disconnect: Disconnect, _: &mut Context<Self>) {
        self.fanout.disconnect(disconnect.0);
    }
}

impl Handler<Subscribe> for Registry {
    type Result = bool;

    fn handle(&mut self, subscribe: Subscribe, _: &mut Context<Self>) -> bool {
        self.fanout.subscribe(subscribe.id, &subscribe.event_id)
    }
}

impl Handler<Unsubscribe> for Registry {
    type Result = ();

    fn handle(&mut self, unsubscribe: Unsubscribe, _: &mut Context<Self>) {
        self.fanout.unsubscribe(unsubscribe.id, &unsubscribe.event_id);
    }
}

impl Handler<BookChanged> for Registry {
    type Result = ();

    fn handle(&mut self, changed: BookChanged, _: &mut Context<Self>) {
        self.metrics.registry_depth.dec();
        let Some(first) = changed.states.first() else { return };
        let event_id = first.update.event_id.clone();
        if !self.fanout.has_subscribers(&event_id) {
            return;
        }
        let frames = changed.states.iter().map(|state| Arc::new(UpdateFrame::new(state))).collect();
        let report = self.fanout.publish(
            &event_id,
            &Delivery { frames, conflated: changed.conflated, feed: None },
            Instant::now(),
        );
        self.count(&report);
    }
}

impl Handler<FeedChanged> for Registry {
    type Result = ();

    fn handle(&mut self, changed: FeedChanged, _: &mut Context<Self>) {
        if self.feed != changed.0 {
            self.feed = changed.0;
            self.fanout.announce(self.feed, None, Instant::now());
        }
    }
}

impl Handler<EndAllSessions> for Registry {
    type Result = ();

    fn handle(&mut self, end: EndAllSessions, _: &mut Context<Self>) {
        self.ending = Some(end.0);
        // Once in a session's life, so past the mailbox bound: it must arrive.
        self.fanout.outlets().for_each(|(_, outlet)| outlet.end.do_send(EndSession(end.0)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::outlet::{Push, SignOfLife};
    use super::*;
    use crate::domain::book::MarketState;
    use crate::domain::ids::EventId;
    use crate::domain::update::testing::*;

    /// A session that takes what it is pushed, slowly or not at all.
    struct ProbeSession {
        taken: Arc<Mutex<Vec<(u64, bool)>>>,
        feed: Arc<Mutex<Vec<FeedStatus>>>,
        ended: Arc<Mutex<Vec<CloseReason>>>,
        stalls: bool,
    }

    impl Actor for ProbeSession {
        type Context = Context<Self>;

        fn started(&mut self, context: &mut Context<Self>) {
            context.set_mailbox_capacity(2);
        }
    }

    impl Handler<Push> for ProbeSession {
        type Result = ();

        fn handle(&mut self, push: Push, context: &mut Context<Self>) {
            let taken = push.0.frames.iter().map(|frame| (frame.seq, push.0.conflated));
            self.taken.lock().unwrap().extend(taken);
            self.feed.lock().unwrap().extend(push.0.feed);
            if self.stalls {
                context.wait(std::future::pending::<()>().into_actor(self));
            }
        }
    }

    impl Handler<EndSession> for ProbeSession {
        type Result = ();

        fn handle(&mut self, end: EndSession, _: &mut Context<Self>) {
            self.ended.lock().unwrap().push(end.0);
        }
    }

    struct Probe {
        taken: Arc<Mutex<Vec<(u64, bool)>>>,
        feed: Arc<Mutex<Vec<FeedStatus>>>,
        ended: Arc<Mutex<Vec<CloseReason>>>,
        life: Arc<SignOfLife>,
    }

    async fn session(registry: &Addr<Registry>, id: u64, stalls: bool) -> Probe {
        let (taken, feed, ended, life) = (Arc::default(), Arc::default(), Arc::default(), Arc::new(SignOfLife::new()));
        let session =
            ProbeSession { taken: Arc::clone(&taken), feed: Arc::clone(&feed), ended: Arc::clone(&ended), stalls }
                .start();
        let outlet = SessionOutlet {
            push: session.clone().recipient(),
            end: session.recipient(),
            connection: None,
            life: life.clone(),
        };
        let id = SessionId(id);
        registry.send(Connect { id, outlet }).await.unwrap();
        assert!(registry.send(Subscribe { id, event_id: EventId::new("E").unwrap() }).await.unwrap());
        Probe { taken, feed, ended, life }
    }

    fn changed(seq: u64) -> BookChanged {
        let update = market_update("E", "1x2", None, seq as i64, 1);
        BookChanged { states: Arc::new([Arc::new(MarketState { update, seq })]), conflated: false }
    }

    fn registry(slow: Duration, frozen: Duration) -> (Addr<Registry>, OddsMetrics) {
        let metrics = OddsMetrics::new().unwrap();
        let settings = RegistrySettings { slow_client_limit: slow, frozen_limit: frozen };
        (Registry::new(settings, metrics.clone()).start(), metrics)
    }

    /// Waits until something holds, and fails loudly when it does not within a deadline.
    async fn until(what: &str, holds: impl Fn() -> bool) {
        for _ in 0..1_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 10 s: {what}");
    }

    #[actix_web::test]
    async fn a_stalled_session_is_ended_and_the_others_get_everything() {
        let (registry, metrics) = registry(Duration::from_millis(200), Duration::from_secs(60));
        let stalled = session(&registry, 1, true).await;
        let fast = session(&registry, 2, false).await;
        for seq in 1..=20 {
            registry.send(changed(seq)).await.unwrap();
            until("the fast one has it", || fast.taken.lock().unwrap().len() as u64 == seq).await;
        }
        until("the stalled one is ended", || metrics.evictions.get() == 1).await;
        assert_eq!(stalled.taken.lock().unwrap().len(), 1);
        assert!(metrics.conflations.get() > 0);
        let expected: Vec<_> = (1..=20).map(|seq| (seq, false)).collect();
        assert_eq!(*fast.taken.lock().unwrap(), expected);
    }

    #[actix_web::test]
    async fn a_session_that_gives_no_sign_of_life_is_ended_though_nothing_was_sent_to_it() {
        let (registry, metrics) = registry(Duration::from_secs(60), Duration::from_millis(300));
        let _frozen = session(&registry, 1, false).await;
        let alive = session(&registry, 2, false).await;
        until("the frozen one is ended", || {
            alive.life.give();
            metrics.evictions.get() == 1
        })
        .await;
        registry.send(changed(1)).await.unwrap();
        until("the other one still gets changes", || alive.taken.lock().unwrap().len() == 1).await;
    }

    #[actix_web::test]
    async fn every_session_is_told_once_how_the_feed_stands_and_one_that_comes_while_it_is_lost_as_well() {
        let (registry, _) = registry(Duration::from_secs(60), Duration::from_secs(60));
        let early = session(&registry, 1, false).await;
        for status in [FeedStatus::Live, FeedStatus::Stale, FeedStatus::Stale] {
            registry.send(FeedChanged(status)).await.unwrap();
        }
        let late = session(&registry, 2, false).await;
        registry.send(FeedChanged(FeedStatus::Live)).await.unwrap();
        let after = session(&registry, 3, false).await;
        for probe in [early, late] {
            until("it is told", || *probe.feed.lock().unwrap() == [FeedStatus::Stale, FeedStatus::Live]).await;
        }
        assert!(after.feed.lock().unwrap().is_empty());
    }

    #[actix_web::test]
    async fn every_session_is_told_when_the_server_goes_and_so_are_those_that_come_later() {
        let (registry, _) = registry(Duration::from_secs(60), Duration::from_secs(60));
        let early = session(&registry, 1, false).await;
        registry.send(EndAllSessions(CloseReason::GoingAway)).await.unwrap();
        let late = session(&registry, 2, false).await;
        for probe in [early, late] {
            until("it is told", || *probe.ended.lock().unwrap() == [CloseReason::GoingAway]).await;
        }
    }
}
