use std::sync::{Arc, Mutex};

use super::*;
use crate::actors::access::messages::RevocationsChanged;
use crate::actors::odds::messages::BookChanged;
use crate::actors::streaming::messages::WatchCaller;
use crate::actors::streaming::session_handle::SessionMessage;
use crate::domain::access::{Caller, Revocations};
use crate::domain::ids::UserId;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::testing::*;
use crate::domain::streaming::conflation_step::ConflationStep;
use crate::domain::streaming::credential_watch::{Replaced, SessionCaller};
use crate::domain::streaming::heartbeats::LastSent;
use crate::runtime::backlog::Backlog;
use crate::runtime::liveness::LivenessProbe;
use crate::testing::until;

/// A session that accepts deliveries, or stalls after the first one.
#[derive(Default)]
struct ProbeSession {
    taken: Arc<Mutex<Vec<(u64, bool)>>>,
    feed: Arc<Mutex<Vec<FeedStatus>>>,
    ended: Arc<Mutex<Vec<CloseReason>>>,
    pings: Arc<Mutex<usize>>,
    heartbeats: Arc<Mutex<Vec<Timestamp>>>,
    reconnects: Arc<Mutex<Vec<Duration>>>,
    stalls: bool,
}

impl Actor for ProbeSession {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(2);
    }
}

impl Handler<SessionMessage> for ProbeSession {
    type Result = ();

    fn handle(&mut self, message: SessionMessage, context: &mut Context<Self>) {
        match message {
            SessionMessage::Deliver(delivery) => {
                let taken = delivery
                    .frames()
                    .iter()
                    .map(|frame| (frame.seq, delivery.conflated));
                self.taken.lock().unwrap().extend(taken);
                self.feed.lock().unwrap().extend(delivery.feed);
                if self.stalls {
                    context.wait(std::future::pending::<()>().into_actor(self));
                }
            }
            SessionMessage::Heartbeat(as_of) => self.heartbeats.lock().unwrap().push(as_of),
            SessionMessage::Ping => *self.pings.lock().unwrap() += 1,
            SessionMessage::Reconnect(within) => self.reconnects.lock().unwrap().push(within),
            SessionMessage::End(reason) => self.ended.lock().unwrap().push(reason),
        }
    }
}

struct Probe {
    taken: Arc<Mutex<Vec<(u64, bool)>>>,
    feed: Arc<Mutex<Vec<FeedStatus>>>,
    ended: Arc<Mutex<Vec<CloseReason>>>,
    pings: Arc<Mutex<usize>>,
    heartbeats: Arc<Mutex<Vec<Timestamp>>>,
    reconnects: Arc<Mutex<Vec<Duration>>>,
    liveness: Arc<LivenessProbe>,
}

async fn session(distributor: &Addr<Distributor>, id: u64, stalls: bool) -> Probe {
    session_with(distributor, id, stalls, None, None).await
}

async fn session_of(
    distributor: &Addr<Distributor>,
    id: u64,
    stalls: bool,
    caller: Option<Arc<SessionCaller>>,
) -> Probe {
    session_with(distributor, id, stalls, caller, None).await
}

async fn conflated_session(
    distributor: &Addr<Distributor>,
    id: u64,
    stalls: bool,
    conflation: Option<ConflationStep>,
) -> Probe {
    session_with(distributor, id, stalls, None, conflation).await
}

async fn session_with(
    distributor: &Addr<Distributor>,
    id: u64,
    stalls: bool,
    caller: Option<Arc<SessionCaller>>,
    conflation: Option<ConflationStep>,
) -> Probe {
    let liveness = Arc::new(LivenessProbe::new());
    let session = ProbeSession {
        stalls,
        ..ProbeSession::default()
    };
    let probe = Probe {
        taken: session.taken.clone(),
        feed: session.feed.clone(),
        ended: session.ended.clone(),
        pings: session.pings.clone(),
        heartbeats: session.heartbeats.clone(),
        reconnects: session.reconnects.clone(),
        liveness: liveness.clone(),
    };
    let handle = SessionHandle {
        session: session.start().recipient(),
        connection: None,
        liveness,
    };
    let id = SessionId(id);
    let connect = Connect { id, handle, caller };
    distributor.send(connect).await.unwrap();
    assert!(
        distributor
            .send(Subscribe {
                id,
                event_id: EventId::new("E").unwrap(),
                conflation,
            })
            .await
            .unwrap()
    );
    probe
}

fn changed(seq: u64) -> BookChanged {
    changed_to(seq, MarketStatus::Open)
}

fn changed_to(seq: u64, status: MarketStatus) -> BookChanged {
    let mut update = market_update("E", "1x2", None, seq as i64, 1);
    update.status = status;
    BookChanged {
        traced: None,
        states: Arc::new([Arc::new(MarketState { update, seq })]),
        conflated: false,
        restated: None,
    }
}

struct Fixture {
    registry: Addr<Registry>,
    here: Addr<Distributor>,
    backlog: Arc<Backlog>,
    metrics: OddsMetrics,
}

const GRACE: Duration = Duration::from_secs(25);
const MINUTE: Duration = Duration::from_secs(60);

fn settings(slow: Duration, frozen: Duration) -> DistributorSettings {
    DistributorSettings {
        ping_interval: Duration::from_millis(100),
        slow_client_limit: slow,
        frozen_limit: frozen,
        credentials: CredentialLimits {
            auth_timeout: Duration::from_millis(300),
            expiry_grace: GRACE,
        },
    }
}

fn fixture(slow: Duration, frozen: Duration) -> Fixture {
    let metrics = OddsMetrics::new().unwrap();
    let settings = settings(slow, frozen);
    let registry = Registry::new(metrics.clone(), Arc::default()).start();
    let (books, backlog) = (
        FeedState::in_process(metrics.feed_live.clone()),
        Arc::<Backlog>::default(),
    );
    books.follow(backlog.clone(), Duration::from_secs(60));
    Fixture {
        here: Distributor::start_here(settings, registry.clone(), Arc::new(books), metrics.clone()),
        registry,
        backlog,
        metrics,
    }
}

/// A stalled session is evicted; the others receive every change.
#[actix_web::test]
async fn stalled_session_is_evicted() {
    let Fixture {
        registry,
        here,
        metrics,
        ..
    } = fixture(Duration::from_millis(200), Duration::from_secs(60));
    let stalled = session(&here, 1, true).await;
    let fast = session(&here, 2, false).await;
    for seq in 1..=20 {
        registry.send(changed(seq)).await.unwrap();
        until("fast session receives the change", || {
            fast.taken.lock().unwrap().len() as u64 == seq
        })
        .await;
    }
    until("stalled session is evicted", || {
        metrics.evictions.get() == 1
    })
    .await;
    assert_eq!(stalled.taken.lock().unwrap().len(), 1);
    assert!(metrics.conflations.get() > 0);
    let expected: Vec<_> = (1..=20).map(|seq| (seq, false)).collect();
    assert_eq!(*fast.taken.lock().unwrap(), expected);
}

/// A session without a sign of life is evicted even if nothing was sent to it.
#[actix_web::test]
async fn frozen_idle_session_is_evicted() {
    let Fixture {
        registry,
        here,
        metrics,
        ..
    } = fixture(Duration::from_secs(60), Duration::from_millis(300));
    let _frozen = session(&here, 1, false).await;
    let alive = session(&here, 2, false).await;
    until("frozen session is evicted", || {
        alive.liveness.touch();
        metrics.evictions.get() == 1
    })
    .await;
    registry.send(changed(1)).await.unwrap();
    until("other session still receives changes", || {
        alive.taken.lock().unwrap().len() == 1
    })
    .await;
}

#[actix_web::test]
async fn sessions_ping_clients_repeatedly() {
    let Fixture { here, .. } = fixture(Duration::from_secs(60), Duration::from_secs(60));
    let mut probes = Vec::new();
    for id in 0..50 {
        probes.push(session(&here, id, false).await);
    }
    here.send(Disconnect(SessionId(0))).await.unwrap();
    let before = *probes[0].pings.lock().unwrap();
    until("every session is pinged", || {
        probes[1..]
            .iter()
            .all(|probe| *probe.pings.lock().unwrap() >= 3)
    })
    .await;
    // One ping may have been in flight.
    assert!(*probes[0].pings.lock().unwrap() <= before + 1);
}

/// Each session receives a feed status change once; one that connects during a feed loss
/// receives it too.
#[actix_web::test]
async fn feed_status_reaches_each_session_once() {
    let Fixture { registry, here, .. } = fixture(Duration::from_secs(60), Duration::from_secs(60));
    let early = session(&here, 1, false).await;
    for status in [FeedStatus::Live, FeedStatus::Stale, FeedStatus::Stale] {
        registry.send(FeedChanged(status)).await.unwrap();
    }
    let late = session(&here, 2, false).await;
    registry.send(FeedChanged(FeedStatus::Live)).await.unwrap();
    let after = session(&here, 3, false).await;
    for probe in [early, late] {
        until("session receives both statuses", || {
            *probe.feed.lock().unwrap() == [FeedStatus::Stale, FeedStatus::Live]
        })
        .await;
    }
    assert!(after.feed.lock().unwrap().is_empty());
}

/// On shutdown every session is closed, including those that connect later.
#[actix_web::test]
async fn shutdown_closes_current_and_later_sessions() {
    let Fixture { registry, here, .. } = fixture(Duration::from_secs(60), Duration::from_secs(60));
    let early = session(&here, 1, false).await;
    registry
        .send(EndAllSessions {
            reason: CloseReason::GoingAway,
            spread: Duration::ZERO,
        })
        .await
        .unwrap();
    let late = session(&here, 2, false).await;
    for probe in [early, late] {
        until("session is closed", || {
            *probe.ended.lock().unwrap() == [CloseReason::GoingAway]
        })
        .await;
    }
}

/// A session that drains is told before it is closed; the others go on until it is their turn.
#[actix_web::test]
async fn draining_sessions_are_told_and_closed_in_turn() {
    let Fixture { registry, here, .. } = fixture(Duration::from_secs(60), Duration::from_secs(60));
    let mut probes = Vec::new();
    for id in 1..=10 {
        probes.push(session(&here, id, false).await);
    }
    let spread = Duration::from_secs(2);
    let drain = EndAllSessions {
        reason: CloseReason::GoingAway,
        spread,
    };
    registry.send(drain).await.unwrap();
    let closed = || {
        let is_closed = |probe: &&Probe| !probe.ended.lock().unwrap().is_empty();
        let is_told = |probe: &Probe| *probe.reconnects.lock().unwrap() == [spread / 10];
        assert!(probes.iter().filter(is_closed).all(is_told));
        probes.iter().filter(is_closed).count()
    };
    let seen = Mutex::new(std::collections::BTreeSet::new());
    until("every session is closed", || {
        seen.lock().unwrap().insert(closed());
        closed() == probes.len()
    })
    .await;
    let steps = seen.lock().unwrap().len();
    assert!(steps > 2, "closed in {steps} steps");
    let ended = probes
        .iter()
        .map(|probe| probe.ended.lock().unwrap().clone());
    assert!(ended.eq(vec![vec![CloseReason::GoingAway]; 10]));
    let late = session(&here, 11, false).await;
    until("a later session is closed", || {
        *late.ended.lock().unwrap() == [CloseReason::GoingAway]
    })
    .await;
}

/// An event without subscribers is unfollowed, and followed again by the next subscriber.
#[actix_web::test]
async fn unfollowed_event_is_followed_again() {
    let Fixture {
        registry,
        here,
        metrics,
        ..
    } = fixture(Duration::from_secs(60), Duration::from_secs(60));
    let first = session(&here, 1, false).await;
    here.send(Disconnect(SessionId(1))).await.unwrap();
    // The first change without a subscriber ends the following.
    for seq in 1..=3 {
        registry.send(changed(seq)).await.unwrap();
    }
    let second = session(&here, 2, false).await;
    registry.send(changed(4)).await.unwrap();
    until("second session receives the change", || {
        *second.taken.lock().unwrap() == [(4, false)]
    })
    .await;
    assert!(first.taken.lock().unwrap().is_empty());
    assert_eq!(metrics.deliveries.get(), 1);
}

/// R7: in the time of the timers, a suspension in the middle of an interval needs none of them.
#[actix_web::test]
async fn suspension_is_sent_within_50_milliseconds() {
    tokio::time::pause();
    let Fixture { registry, here, .. } = fixture(Duration::from_secs(60), Duration::from_secs(60));
    let client = conflated_session(&here, 1, false, ConflationStep::of(120_000)).await;
    let taken = || client.taken.lock().unwrap().clone();
    registry.send(changed(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(taken().is_empty(), "it is held back");
    let suspended = tokio::time::Instant::now();
    registry
        .send(changed_to(2, MarketStatus::Suspended))
        .await
        .unwrap();
    while taken().is_empty() && suspended.elapsed() <= OFFER_INTERVAL {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(taken(), [(2, false)]);
}

/// A heartbeat does not claim more than the books have applied.
#[actix_web::test]
async fn heartbeat_is_not_ahead_of_books() {
    let Fixture { here, backlog, .. } = fixture(Duration::from_secs(60), Duration::from_secs(60));
    let client = session(&here, 1, false).await;
    let (id, interval) = (SessionId(1), Duration::from_millis(50));
    // This session never records that it sends something.
    let last_sent = Arc::new(LastSent::new(Instant::now()));
    here.send(SetHeartbeat {
        id,
        interval,
        last_sent,
    })
    .await
    .unwrap();
    let last = || client.heartbeats.lock().unwrap().last().copied();
    until("a heartbeat", || last().is_some()).await;
    backlog.set(Some(Instant::now()));
    let received = Timestamp::now();
    let before = client.heartbeats.lock().unwrap().len();
    until("heartbeats while an update waits", || {
        client.heartbeats.lock().unwrap().len() >= before + 4
    })
    .await;
    let waiting = client.heartbeats.lock().unwrap()[before..].to_vec();
    assert!(
        waiting.iter().all(|as_of| *as_of <= received),
        "{waiting:?}"
    );
    backlog.set(None);
    let applied = Timestamp::now();
    until("a heartbeat after that", || last() > Some(applied)).await;
}

/// A user whose token was issued now.
fn user(name: &str, expires_at: Timestamp) -> Caller {
    Caller::User {
        id: UserId::new(name).unwrap(),
        scopes: Default::default(),
        issued_at: Timestamp::now(),
        expires_at,
    }
}

fn caller(caller: Caller) -> Arc<SessionCaller> {
    Arc::new(SessionCaller::new(caller))
}

async fn until_ended(probe: &Probe, reason: CloseReason) {
    until("session is closed", || {
        *probe.ended.lock().unwrap() == [reason]
    })
    .await;
}

/// Sessions end for their expired or missing credential; others go on. One that does not end in
/// time, because its client reads nothing, is cut.
#[actix_web::test]
async fn overdue_sessions_end() {
    let Fixture { here, metrics, .. } = fixture(MINUTE, MINUTE);
    let now = Timestamp::now();
    let hour = now.later_by(Duration::from_secs(3_600));
    let graceless = caller(user("u", now.earlier_by(GRACE)));
    let expired = session_of(&here, 1, false, Some(graceless)).await;
    let late = session_of(&here, 2, false, Some(caller(Caller::Anonymous))).await;
    let public = session(&here, 3, false).await;
    let valid = session_of(&here, 4, false, Some(caller(user("u", hour)))).await;
    let pending = caller(Caller::Anonymous);
    let in_time = session_of(&here, 5, false, Some(pending.clone())).await;
    assert_eq!(pending.replace(user("u", hour)), Replaced::Anonymous);
    until_ended(&expired, CloseReason::CredentialExpired).await;
    until_ended(&late, CloseReason::NotAuthenticated).await;
    // The probes do not end when they are told to.
    until("unread sessions are cut", || metrics.evictions.get() == 2).await;
    assert!(expired.liveness.is_evicted() && late.liveness.is_evicted());
    for probe in [public, valid, in_time] {
        assert!(probe.ended.lock().unwrap().is_empty());
    }
}

/// What is revoked ends the sessions of that caller on every thread, also those that are known
/// later.
#[actix_web::test]
async fn revoked_callers_are_disconnected() {
    let fixture = fixture(MINUTE, MINUTE);
    let Fixture {
        registry,
        here,
        metrics,
        ..
    } = &fixture;
    let hour = Timestamp::now().later_by(Duration::from_secs(3_600));
    let revoked = session_of(here, 1, false, Some(caller(user("u", hour)))).await;
    let other = session_of(here, 2, false, Some(caller(user("v", hour)))).await;
    let public = session(here, 3, false).await;
    let earlier = caller(user("u", hour));
    let until_now = [(
        UserId::new("u").unwrap(),
        Timestamp::now().later_by(Duration::from_secs(1)),
    )];
    let revocations = Revocations {
        users: until_now.into(),
        ..Revocations::default()
    };
    let changed = RevocationsChanged(Arc::new(revocations));
    registry.send(changed).await.unwrap();
    until_ended(&revoked, CloseReason::CredentialRevoked).await;
    // A session that authenticated before, and is announced after.
    let id = SessionId(3);
    let watch = WatchCaller {
        id,
        caller: earlier.clone(),
    };
    here.send(watch).await.unwrap();
    until_ended(&public, CloseReason::CredentialRevoked).await;
    // A thread that starts later.
    let feed = Arc::new(FeedState::in_process(metrics.feed_live.clone()));
    let there = Distributor::start_here(
        settings(MINUTE, MINUTE),
        registry.clone(),
        feed,
        metrics.clone(),
    );
    let late = session_of(&there, 4, false, Some(earlier)).await;
    until_ended(&late, CloseReason::CredentialRevoked).await;
    assert!(other.ended.lock().unwrap().is_empty());
}
