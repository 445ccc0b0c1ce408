use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::*;
use crate::actors::odds::feed_tracker::MAX_BATCHES;
use crate::cache::{RefusedBroadcasts, SourceView};
use crate::domain::ids::{EventId, Source};
use crate::domain::odds::source_status::{SourceState, SourceStatus};
use crate::domain::odds::update::testing::update;
use crate::testing::until;

const STALE_AFTER: Duration = Duration::from_secs(60);
const SOURCE_SILENCE: Duration = Duration::from_secs(60);

struct ProbeBroadcasts(mpsc::UnboundedReceiver<BroadcastEvent>);

impl BroadcastStream for ProbeBroadcasts {
    fn next(&mut self) -> BoxFuture<'_, BroadcastEvent> {
        async {
            match self.0.recv().await {
                Some(event) => event,
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

/// Replaces the router and the registry, and records the messages it receives.
#[derive(Clone, Default)]
struct Probe {
    recorded: Arc<Mutex<Vec<String>>>,
    apply_hangs: Arc<AtomicBool>,
    reload_fails: Arc<AtomicBool>,
    reload_hangs: Arc<AtomicBool>,
    apply_fails: Arc<AtomicUsize>,
}

impl Probe {
    fn record(&self, what: impl Into<String>) {
        self.recorded.lock().unwrap().push(what.into());
    }
}

impl Actor for Probe {
    type Context = Context<Self>;
}

impl Handler<InOrder<ApplyBroadcasts>> for Probe {
    type Result = ();

    fn handle(
        &mut self,
        InOrder { message, done }: InOrder<ApplyBroadcasts>,
        _: &mut Context<Self>,
    ) {
        let event = message.0[0].update.event_id.clone();
        self.record(format!("apply {}", message.0.len()));
        let left = self.apply_fails.load(Ordering::SeqCst);
        self.apply_fails
            .store(left.saturating_sub(1), Ordering::SeqCst);
        if self.apply_hangs.load(Ordering::SeqCst) {
            actix::spawn(async move {
                std::future::pending::<()>().await;
                drop(done);
            });
            return;
        }
        let answer = if left > 0 {
            Err(ApplyError::BookEnded(event))
        } else {
            Ok(())
        };
        let _ = done.send(answer);
    }
}

impl Handler<ReloadBooks> for Probe {
    type Result = ResponseFuture<Vec<EventId>>;

    fn handle(&mut self, ReloadBooks(which): ReloadBooks, _: &mut Context<Self>) -> Self::Result {
        self.record(which.map_or("reload".to_owned(), |which| {
            format!("reload {}", which.len())
        }));
        let fails = self.reload_fails.load(Ordering::SeqCst);
        let hangs = self.reload_hangs.clone();
        Box::pin(async move {
            while hangs.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if fails {
                vec![EventId::new("E").unwrap()]
            } else {
                Vec::new()
            }
        })
    }
}

impl Handler<FeedChanged> for Probe {
    type Result = ();

    fn handle(&mut self, changed: FeedChanged, _: &mut Context<Self>) {
        self.record(format!("{:?}", changed.0));
    }
}

impl Handler<SourcesReported> for Probe {
    type Result = ();

    fn handle(&mut self, reported: SourcesReported, _: &mut Context<Self>) {
        for (source, status) in reported.0 {
            self.record(format!("{source} {}", status.state));
        }
    }
}

struct Fixture {
    listener: Addr<BroadcastListener>,
    probe: Probe,
    events: mpsc::UnboundedSender<BroadcastEvent>,
    state: Arc<FeedState>,
    metrics: OddsMetrics,
}

fn fixture() -> Fixture {
    let (events, received) = mpsc::unbounded_channel();
    let probe = Probe::default();
    let metrics = OddsMetrics::new().unwrap();
    let state = Arc::new(FeedState::awaiting_broadcasts(metrics.feed_live.clone()));
    let address = probe.clone().start();
    let edges = ListenerEdges {
        apply: address.clone().recipient(),
        reload: address.clone().recipient(),
        feed: address.clone().recipient(),
        sources: address.recipient(),
    };
    let broadcasts = Box::new(ProbeBroadcasts(received));
    let listener = BroadcastListener::new(
        broadcasts,
        edges,
        state.clone(),
        SilenceLimits {
            feed: STALE_AFTER,
            sources: SOURCE_SILENCE,
        },
        metrics.clone(),
    )
    .start();
    Fixture {
        listener,
        probe,
        events,
        state,
        metrics,
    }
}

fn alive(is_own: bool) -> BroadcastEvent {
    let views = Vec::new();
    BroadcastEvent::Alive { is_own, views }
}

fn changes() -> BroadcastEvent {
    BroadcastEvent::Changes(vec![Broadcast {
        trace: None,
        update: update(1, 1, 1),
        seq: None,
        conflated: false,
    }])
}

impl Fixture {
    async fn until_recorded(&self, expected: &[&str]) {
        let recorded = || self.probe.recorded.lock().unwrap().clone();
        for _ in 0..1_000 {
            if recorded() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(recorded(), expected, "not within 10 s");
    }
}

/// The feed is live once every book has reloaded, and stale from the loss on.
#[actix_web::test]
async fn feed_is_live_from_reload_to_loss() {
    let fixture = fixture();
    fixture.until_recorded(&["Stale"]).await;
    assert_eq!(
        fixture.state.problem().unwrap(),
        "not subscribed to broadcasts yet"
    );
    fixture.probe.reload_hangs.store(true, Ordering::SeqCst);
    fixture.events.send(BroadcastEvent::Listening).unwrap();
    fixture.events.send(changes()).unwrap();
    fixture
        .until_recorded(&["Stale", "reload", "apply 1"])
        .await;
    assert!(!fixture.state.is_live(), "the books are still reloading");
    fixture.probe.reload_hangs.store(false, Ordering::SeqCst);
    fixture
        .until_recorded(&["Stale", "reload", "apply 1", "Live"])
        .await;
    assert_eq!(
        (fixture.state.is_live(), fixture.state.problem()),
        (true, None)
    );
    fixture
        .events
        .send(BroadcastEvent::Lost("refused".to_owned()))
        .unwrap();
    fixture
        .until_recorded(&["Stale", "reload", "apply 1", "Live", "Stale"])
        .await;
    assert_eq!(
        (fixture.state.is_live(), fixture.state.problem().unwrap()),
        (false, "refused".to_owned())
    );
    let metrics = &fixture.metrics;
    assert_eq!(
        (
            metrics.broadcasts.get(),
            metrics.broadcast_losses.get(),
            metrics.feed_live.get()
        ),
        (1, 1, 0)
    );
}

/// The feed is stale while no processor is heard, even if the channel is subscribed.
#[actix_web::test]
async fn feed_is_stale_without_processor() {
    let fixture = fixture();
    tokio::time::pause();
    fixture.events.send(BroadcastEvent::Listening).unwrap();
    fixture.until_recorded(&["Stale", "reload"]).await;
    until("the reason is reported", || {
        fixture.state.problem().unwrap() == "no processor has been heard yet"
    })
    .await;
    fixture.events.send(BroadcastEvent::Unreadable(3)).unwrap();
    fixture.events.send(alive(false)).unwrap();
    fixture.until_recorded(&["Stale", "reload", "Live"]).await;
    assert_eq!(fixture.metrics.broadcasts_unreadable.get(), 3);
    for _ in 0..5 {
        tokio::time::sleep(STALE_AFTER - Duration::from_secs(1)).await;
        fixture.events.send(alive(false)).unwrap();
    }
    fixture.until_recorded(&["Stale", "reload", "Live"]).await;
    tokio::time::sleep(STALE_AFTER + Duration::from_secs(1)).await;
    fixture
        .until_recorded(&["Stale", "reload", "Live", "Stale"])
        .await;
    assert_eq!(
        fixture.state.problem().unwrap(),
        "no processor has been heard for 1m"
    );
    // A change from the original program is a sign of life too.
    fixture.events.send(changes()).unwrap();
    fixture
        .until_recorded(&[
            "Stale", "reload", "Live", "Stale", "reload", "apply 1", "Live",
        ])
        .await;
    assert!(fixture.state.is_live());
}

#[actix_web::test]
async fn numbered_change_is_not_a_heartbeat() {
    let fixture = fixture();
    tokio::time::pause();
    fixture.events.send(BroadcastEvent::Listening).unwrap();
    fixture.events.send(alive(true)).unwrap();
    fixture.until_recorded(&["Stale", "reload", "Live"]).await;
    tokio::time::sleep(STALE_AFTER - Duration::from_secs(1)).await;
    let numbered = Broadcast {
        trace: None,
        update: update(1, 1, 1),
        seq: Some(1),
        conflated: false,
    };
    fixture
        .events
        .send(BroadcastEvent::Changes(vec![numbered]))
        .unwrap();
    fixture
        .until_recorded(&["Stale", "reload", "Live", "apply 1"])
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    fixture
        .until_recorded(&["Stale", "reload", "Live", "apply 1", "Stale"])
        .await;
}

#[actix_web::test]
async fn unnamed_heartbeat_counts_until_own_one() {
    let fixture = fixture();
    tokio::time::pause();
    fixture.events.send(BroadcastEvent::Listening).unwrap();
    fixture.events.send(alive(false)).unwrap();
    fixture.until_recorded(&["Stale", "reload", "Live"]).await;
    fixture.events.send(alive(true)).unwrap();
    tokio::time::sleep(STALE_AFTER - Duration::from_secs(1)).await;
    // An earlier version and the original program of another deployment.
    fixture.events.send(alive(false)).unwrap();
    fixture.events.send(changes()).unwrap();
    fixture
        .until_recorded(&["Stale", "reload", "Live", "apply 1"])
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    fixture
        .until_recorded(&["Stale", "reload", "Live", "apply 1", "Stale"])
        .await;
    fixture.events.send(alive(false)).unwrap();
    fixture.events.send(changes()).unwrap();
    fixture
        .until_recorded(&["Stale", "reload", "Live", "apply 1", "Stale", "apply 1"])
        .await;
    assert!(!fixture.state.is_live());
    fixture.events.send(alive(true)).unwrap();
    fixture
        .until_recorded(&[
            "Stale", "reload", "Live", "apply 1", "Stale", "apply 1", "reload", "Live",
        ])
        .await;
}

/// Rejected broadcasts are counted, and their books are reloaded together.
#[actix_web::test]
async fn rejected_broadcasts_are_reloaded_together() {
    let fixture = fixture();
    tokio::time::pause();
    fixture.events.send(BroadcastEvent::Listening).unwrap();
    fixture.until_recorded(&["Stale", "reload"]).await;
    for flood in 0..10_u32 {
        let events = (0..50)
            .map(|event| EventId::new(&format!("E{}", 50 * flood + event)).unwrap())
            .collect();
        let counts = BTreeMap::from([("future", 50), ("deployment", 1)]);
        fixture
            .events
            .send(BroadcastEvent::Refused(RefusedBroadcasts {
                counts,
                events,
            }))
            .unwrap();
    }
    fixture
        .until_recorded(&["Stale", "reload", "reload 64"])
        .await;
    let count = |reason| {
        fixture
            .metrics
            .broadcasts_refused
            .with_label_values(&[reason])
            .get()
    };
    assert_eq!((count("future"), count("deployment")), (500, 10));
    assert!(
        !fixture.state.is_live(),
        "a rejected message is not a sign of life"
    );
    // Messages without an event, as from a foreign program, cause no reload.
    fixture
        .events
        .send(BroadcastEvent::Refused(RefusedBroadcasts::default()))
        .unwrap();
    tokio::time::sleep(3 * SUSPECT_PAUSE).await;
    fixture
        .until_recorded(&["Stale", "reload", "reload 64"])
        .await;
}

/// A subscription that ends by a fault stops the actor, so that the process is restarted.
#[actix_web::test]
async fn ended_subscription_stops_the_actor() {
    let fixture = fixture();
    fixture.events.send(BroadcastEvent::Listening).unwrap();
    fixture.events.send(alive(true)).unwrap();
    fixture.until_recorded(&["Stale", "reload", "Live"]).await;
    fixture
        .events
        .send(BroadcastEvent::Ended("fault".to_owned()))
        .unwrap();
    fixture
        .until_recorded(&["Stale", "reload", "Live", "Stale"])
        .await;
    until("the actor stops", || !fixture.listener.connected()).await;
    assert_eq!(fixture.state.problem().unwrap(), "fault");
}

/// Changes that no attempt applies make the feed stale until the books have reloaded.
#[actix_web::test]
async fn unapplied_changes_make_the_feed_stale() {
    let fixture = fixture();
    fixture.events.send(BroadcastEvent::Listening).unwrap();
    fixture.events.send(alive(true)).unwrap();
    fixture.until_recorded(&["Stale", "reload", "Live"]).await;
    fixture
        .probe
        .apply_fails
        .store(MAX_ATTEMPTS, Ordering::SeqCst);
    fixture.events.send(changes()).unwrap();
    fixture
        .until_recorded(&[
            "Stale", "reload", "Live", "apply 1", "apply 1", "apply 1", "Stale",
        ])
        .await;
    assert_eq!(
        fixture.state.problem().unwrap(),
        "the book of `MATCH_001` stopped before it replied"
    );
    fixture.events.send(alive(true)).unwrap();
    let recorded = [
        "Stale", "reload", "Live", "apply 1", "apply 1", "apply 1", "Stale", "reload", "Live",
    ];
    fixture.until_recorded(&recorded).await;
}

/// A reload that completes after the next loss does not make the feed live.
#[actix_web::test]
async fn outdated_reload_does_not_report_live() {
    let fixture = fixture();
    fixture.probe.reload_hangs.store(true, Ordering::SeqCst);
    fixture.events.send(BroadcastEvent::Listening).unwrap();
    fixture
        .events
        .send(BroadcastEvent::Lost("again".to_owned()))
        .unwrap();
    fixture.until_recorded(&["Stale", "reload", "Stale"]).await;
    fixture.probe.reload_hangs.store(false, Ordering::SeqCst);
    fixture.events.send(changes()).unwrap();
    fixture
        .until_recorded(&["Stale", "reload", "Stale", "apply 1"])
        .await;
    fixture.events.send(BroadcastEvent::Listening).unwrap();
    fixture.events.send(alive(true)).unwrap();
    fixture
        .until_recorded(&["Stale", "reload", "Stale", "apply 1", "reload", "Live"])
        .await;
}

#[actix_web::test]
async fn failed_reloads_and_batches_are_retried() {
    let fixture = fixture();
    fixture.probe.reload_fails.store(true, Ordering::SeqCst);
    fixture.events.send(BroadcastEvent::Listening).unwrap();
    fixture.events.send(alive(true)).unwrap();
    fixture
        .until_recorded(&["Stale", "reload", "reload 1"])
        .await;
    assert!(!fixture.state.is_live());
    fixture.probe.reload_fails.store(false, Ordering::SeqCst);
    fixture
        .until_recorded(&["Stale", "reload", "reload 1", "reload 1", "Live"])
        .await;
    fixture.probe.apply_fails.store(1, Ordering::SeqCst);
    fixture.events.send(changes()).unwrap();
    let recorded = [
        "Stale", "reload", "reload 1", "reload 1", "Live", "apply 1", "apply 1",
    ];
    fixture.until_recorded(&recorded).await;
}

#[actix_web::test]
async fn hanging_batch_does_not_block_next() {
    let fixture = fixture();
    fixture.events.send(BroadcastEvent::Listening).unwrap();
    fixture.events.send(alive(false)).unwrap();
    fixture.until_recorded(&["Stale", "reload", "Live"]).await;
    fixture.probe.apply_hangs.store(true, Ordering::SeqCst);
    for _ in 0..2 * MAX_BATCHES {
        fixture.events.send(changes()).unwrap();
    }
    let mut recorded = vec!["Stale", "reload", "Live"];
    recorded.extend(["apply 1"; MAX_BATCHES]);
    fixture.until_recorded(&recorded).await;
    assert!(fixture.state.is_live());
    tokio::time::pause();
    fixture.probe.apply_hangs.store(false, Ordering::SeqCst);
    tokio::time::sleep(STALE_AFTER).await;
    let recorded = |what: &str| {
        fixture
            .probe
            .recorded
            .lock()
            .unwrap()
            .iter()
            .filter(|recorded| *recorded == what)
            .count()
    };
    until("the registry is notified", || recorded("Stale") == 2).await;
    // The books reload the missed changes, and the other batches follow.
    until("live again", || {
        recorded("Live") == 2 && fixture.state.is_live()
    })
    .await;
}

/// The best state of a source counts, until the processor that reports it is silent.
#[actix_web::test]
async fn views_of_processors_are_united() {
    let fixture = fixture();
    fixture.until_recorded(&["Stale"]).await;
    let view = |processor: &str, state| SourceView {
        processor: processor.to_owned(),
        sources: [(Source::new("a").unwrap(), SourceStatus { state, at: None })].into(),
    };
    let alive = |views| BroadcastEvent::Alive {
        is_own: true,
        views,
    };
    let (live, stale) = (SourceState::Live, SourceState::Stale);
    let events = [
        alive(vec![view("1", stale)]),
        alive(Vec::new()),
        alive(vec![view("2", live)]),
        alive(vec![view("1", stale), view("2", stale)]),
    ];
    for event in events {
        fixture.events.send(event).unwrap();
    }
    fixture
        .until_recorded(&["Stale", "a stale", "a live", "a stale"])
        .await;
}

/// Heartbeats of clients claim nothing that the books have not applied.
#[actix_web::test]
async fn unapplied_broadcasts_are_waiting() {
    let fixture = fixture();
    fixture.events.send(BroadcastEvent::Listening).unwrap();
    fixture.events.send(alive(true)).unwrap();
    until("the feed is live", || fixture.state.is_live()).await;
    assert_eq!(fixture.state.waiting(), Duration::ZERO);
    fixture.probe.apply_hangs.store(true, Ordering::SeqCst);
    fixture.events.send(changes()).unwrap();
    until("a batch waits", || !fixture.state.waiting().is_zero()).await;
    fixture.probe.apply_hangs.store(false, Ordering::SeqCst);
    let waiting = fixture.state.waiting();
    fixture.events.send(changes()).unwrap();
    until("a later batch is applied", || {
        fixture.probe.recorded.lock().unwrap().len() >= 5
    })
    .await;
    assert!(
        fixture.state.waiting() > waiting,
        "the first one still waits"
    );
}
