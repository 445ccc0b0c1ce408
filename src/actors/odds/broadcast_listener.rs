//! Feeds the books of an `odds` process with what other processes tell, and says when that may be
//! incomplete.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{error, info, warn};
use tokio::time::{Instant, timeout, timeout_at};

use crate::actors::odds::messages::{ApplyBroadcasts, ApplyError, InOrder, ReloadBooks};
use crate::actors::streaming::messages::FeedChanged;
use crate::cache::{Broadcast, BroadcastEvent, BroadcastStream};
use crate::domain::ids::EventId;
use crate::domain::streaming::protocol::FeedStatus;
use crate::runtime::feed_health::FeedState;
use crate::telemetry::log_limit::{FaultLog, LogLimit};
use crate::telemetry::metrics::OddsMetrics;

/// Hydration that could not be read again are tried again after this.
const RELOAD_DELAY: Duration = Duration::from_millis(200);
/// Batches that may be in work before the next one is heard: a batch of an event that takes long
/// does not hold up others.
const BATCHES_AT_ONCE: usize = 16;
/// A batch whose book ended in the middle is applied again: the book starts anew, and takes each
/// change once.
const TRIES: usize = 3;
/// It is logged so often at most that changes are not applied.
static NOT_APPLIED: LogLimit = LogLimit::every(Duration::from_secs(10));

/// Hydration of refused broadcasts are read again after this, together.
const SUSPECT_PAUSE: Duration = Duration::from_secs(1);
/// The most events that wait for it; a refused broadcast of one more changes nothing.
const MAX_SUSPECTS: usize = 64;

/// Whom the listener talks to.
pub struct ListenerEdges {
    /// To the books.
    pub apply: Recipient<InOrder<ApplyBroadcasts>>,
    /// To the books.
    pub reload: Recipient<ReloadBooks>,
    /// To the registry.
    pub feed: Recipient<FeedChanged>,
}

/// The actor that listens.
pub struct BroadcastListener {
    /// Away while something is waited for.
    broadcasts: Option<Box<dyn BroadcastStream>>,
    edges: Arc<ListenerEdges>,
    state: Arc<FeedState>,
    /// Where no processor is heard for so long, what is shown may be stale.
    stale_after: Duration,
    /// Which loss or return was the last: what was begun before it says nothing of now.
    turn: u64,
    /// Whether the channel is heard.
    is_listening: bool,
    /// When a processor was heard last; none where none was since the last loss.
    heard: Option<Instant>,
    hydration: Hydration,
    /// Events of refused broadcasts, whose books are read again.
    suspects: BTreeSet<EventId>,
    /// Whether it was never live.
    is_new: bool,
    /// Whether a heartbeat of our own deployment was ever heard. From then on nothing else is a
    /// sign of life: a message that names no deployment may come from another one.
    has_own: bool,
    /// Batches in work.
    in_work: usize,
    log: FaultLog,
    metrics: OddsMetrics,
}

/// How the books stand to what was told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hydration {
    /// They may have missed something.
    Stale,
    /// They read what they may have missed.
    Loading,
    /// They have read it, and are told everything since.
    Current,
}

impl BroadcastListener {
    /// Feeds the books behind `edges`, and keeps `state`: live while some processor is heard at
    /// least every `stale_after`.
    pub fn new(
        broadcasts: Box<dyn BroadcastStream>,
        edges: ListenerEdges,
        state: Arc<FeedState>,
        stale_after: Duration,
        metrics: OddsMetrics,
    ) -> BroadcastListener {
        BroadcastListener {
            broadcasts: Some(broadcasts),
            edges: Arc::new(edges),
            state,
            stale_after,
            turn: 0,
            is_listening: false,
            heard: None,
            hydration: Hydration::Stale,
            suspects: BTreeSet::new(),
            is_new: true,
            has_own: false,
            in_work: 0,
            log: FaultLog::new(),
            metrics,
        }
    }

    fn listen(&mut self, context: &mut Context<Self>) {
        let Some(mut broadcasts) = self.broadcasts.take() else {
            return;
        };
        let silence = self.heard.map(|at| at + self.stale_after);
        let hearing = async move {
            let next = broadcasts.next();
            let heard = match silence {
                Some(silence) => timeout_at(silence, next).await.ok(),
                None => Some(next.await),
            };
            (heard, broadcasts)
        };
        context.spawn(
            hearing
                .into_actor(self)
                .map(|(heard, broadcasts), listener, context| {
                    listener.broadcasts = Some(broadcasts);
                    match heard {
                        Some(heard) => listener.on_heard(heard, context),
                        // It was heard, or lost, meanwhile.
                        None if listener
                            .heard
                            .is_none_or(|at| at.elapsed() < listener.stale_after) =>
                        {
                            listener.listen(context);
                        }
                        None => {
                            let limit = humantime::format_duration(listener.stale_after);
                            listener
                                .lose(&format!("no processor has been heard for {limit}"), context);
                        }
                    }
                }),
        );
    }

    fn on_heard(&mut self, heard: BroadcastEvent, context: &mut Context<Self>) {
        match heard {
            BroadcastEvent::Changes(changes) => {
                self.metrics.broadcasts.inc_by(changes.len() as u64);
                // A processor of ours says by itself that it follows the bus, and stays silent if
                // it is behind. One event's change says nothing of the others. The original has
                // nothing but its changes.
                if !self.has_own && changes.iter().any(|change| change.seq.is_none()) {
                    self.sign_of_life(context);
                }
                self.apply(changes, context);
                // With as much in work as may be, the next is heard when one is done.
                if self.in_work < BATCHES_AT_ONCE {
                    self.listen(context);
                }
            }
            BroadcastEvent::Alive { is_own } => {
                self.has_own |= is_own;
                if is_own || !self.has_own {
                    self.sign_of_life(context);
                }
                self.listen(context);
            }
            BroadcastEvent::Unreadable(count) => {
                self.metrics.broadcasts_unreadable.inc_by(count);
                self.listen(context);
            }
            BroadcastEvent::Refused(refused) => {
                for (reason, count) in refused.counts {
                    self.metrics
                        .broadcasts_refused
                        .with_label_values(&[reason])
                        .inc_by(count);
                }
                self.suspect(refused.events, context);
                self.listen(context);
            }
            BroadcastEvent::Lost(why) => {
                self.is_listening = false;
                self.lose(&why, context);
            }
            BroadcastEvent::Ended(why) => {
                error!("broadcasts cannot be heard any more: {why}");
                self.state.set_lost(&why);
                // Once in a life. The platform's watch over its actors ends the process.
                self.edges.feed.do_send(FeedChanged(FeedStatus::Stale));
                context.stop();
            }
            BroadcastEvent::Listening => {
                self.turn += 1;
                self.is_listening = true;
                self.reload(None, context);
                // What is told meanwhile comes to each book behind the order to read again.
                self.listen(context);
            }
        }
    }

    fn apply(&mut self, changes: Vec<Broadcast>, context: &mut Context<Self>) {
        self.in_work += 1;
        let turn = self.turn;
        // At once, so that batches come to the books in their order.
        let first = InOrder::send(&self.edges.apply, ApplyBroadcasts(changes.clone()));
        let applying = apply(self.edges.clone(), first, changes, self.stale_after).into_actor(self);
        context.spawn(applying.map(move |applied, listener, context| {
            listener.in_work -= 1;
            match applied {
                // The next sign of life has the books read what they did not take.
                Err(why) if listener.turn == turn => listener.lose(&why, context),
                // What was lost before a loss that followed is read with that.
                Ok(()) | Err(_) => listener.listen(context),
            }
        }));
    }

    /// Some processor follows the bus. The first sign after a silence: then the books are read
    /// again, unless they are already.
    fn sign_of_life(&mut self, context: &mut Context<Self>) {
        if !self.is_listening {
            return;
        }
        let was_silent = self.heard.replace(Instant::now()).is_none();
        match self.hydration {
            Hydration::Stale => self.reload(None, context),
            Hydration::Current if was_silent => self.live(context),
            Hydration::Current | Hydration::Loading => {}
        }
    }

    /// Has the books of these events read the hot copy, all of them together and at most once a
    /// pause: a flood of refused messages must not become a flood of reads.
    fn suspect(&mut self, events: BTreeSet<EventId>, context: &mut Context<Self>) {
        let is_due = self.suspects.is_empty();
        for event in events {
            if self.suspects.len() < MAX_SUSPECTS {
                self.suspects.insert(event);
            }
        }
        if is_due && !self.suspects.is_empty() {
            context.run_later(SUSPECT_PAUSE, |listener, context| {
                let suspects = std::mem::take(&mut listener.suspects).into_iter().collect();
                let reading = listener.edges.reload.send(ReloadBooks(Some(suspects)));
                // One that cannot be read now is read when the connection is back.
                context.spawn(reading.into_actor(listener).map(|_, _, _| ()));
            });
        }
    }

    /// What is shown may be stale from now on.
    fn lose(&mut self, why: &str, context: &mut Context<Self>) {
        self.turn += 1;
        self.heard = None;
        self.hydration = Hydration::Stale;
        self.metrics.broadcast_losses.inc();
        if let Some(repeated) = self.log.failed(why) {
            warn!(repeated; "broadcasts are lost, what is shown may be stale: {why}");
        }
        self.state.set_lost(why);
        self.tell(FeedStatus::Stale, context);
    }

    /// What is shown is how it is.
    fn live(&mut self, context: &mut Context<Self>) {
        if self.log.recovered() || std::mem::take(&mut self.is_new) {
            info!("broadcasts are heard, and every book is up to date");
        }
        self.state.set_live();
        let edges = self.edges.clone();
        let telling = async move { edges.feed.send(FeedChanged(FeedStatus::Live)).await };
        context.spawn(telling.into_actor(self).map(|_, _, _| ()));
    }

    /// Tells the registry how the feed stands, and only then hears on: every loss is told before
    /// the return.
    fn tell(&self, status: FeedStatus, context: &mut Context<Self>) {
        let edges = self.edges.clone();
        let telling = async move {
            // Without the registry nobody is to be told; the platform's watch over its actors ends
            // the process.
            let _ = edges.feed.send(FeedChanged(status)).await;
        };
        context.spawn(
            telling
                .into_actor(self)
                .map(|(), listener, context| listener.listen(context)),
        );
    }

    /// Has these books, or all, read again. When all have told what they missed, and a processor is
    /// heard, the feed is live.
    fn reload(&mut self, which: Option<Vec<EventId>>, context: &mut Context<Self>) {
        self.hydration = Hydration::Loading;
        let turn = self.turn;
        let reloading = self.edges.reload.send(ReloadBooks(which.clone()));
        context.spawn(
            reloading
                .into_actor(self)
                .map(move |reloaded, listener, context| {
                    if listener.turn != turn {
                        return;
                    }
                    let (behind, why) = match reloaded {
                        Ok(behind) => {
                            let first = behind.first().cloned();
                            (
                                Some(behind),
                                first.map(|first| ApplyError::NotLoaded(first).to_string()),
                            )
                        }
                        // Not known which: the same again.
                        Err(error) => (
                            which,
                            Some(ApplyError::RouterEnded(error.to_string()).to_string()),
                        ),
                    };
                    match why {
                        None => {
                            listener.hydration = Hydration::Current;
                            match listener.heard {
                                Some(_) => listener.live(context),
                                None => listener.state.set_lost("no processor has been heard yet"),
                            }
                        }
                        Some(why) => {
                            listener.state.set_lost(&why);
                            context.run_later(RELOAD_DELAY, move |listener, context| {
                                if listener.turn == turn {
                                    listener.reload(behind, context);
                                }
                            });
                        }
                    }
                }),
        );
    }
}

/// Applies changes, which were sent once as `first`; answered when the books have told everyone, or
/// why they have not.
async fn apply(
    edges: Arc<ListenerEdges>,
    first: impl Future<Output = Result<(), ApplyError>>,
    changes: Vec<Broadcast>,
    limit: Duration,
) -> Result<(), String> {
    // They have them, and may take them yet.
    let late = || {
        format!(
            "the books took no change for {}",
            humantime::format_duration(limit)
        )
    };
    let mut applied = timeout(limit, first).await.map_err(|_| late())?;
    for _ in 1..TRIES {
        match &applied {
            Ok(()) => return Ok(()),
            Err(error @ ApplyError::RouterEnded(_)) => return Err(error.to_string()),
            Err(error) => {
                if let Some(repeated) = NOT_APPLIED.check("") {
                    warn!(repeated; "broadcasts are not applied: {error}");
                }
            }
        }
        let again = InOrder::send(&edges.apply, ApplyBroadcasts(changes.clone()));
        applied = timeout(limit, again).await.map_err(|_| late())?;
    }
    applied.map_err(|error| error.to_string())
}

impl Actor for BroadcastListener {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        if self.state.is_live() {
            self.listen(context);
        } else {
            self.tell(FeedStatus::Stale, context);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use tokio::sync::mpsc;

    use super::*;
    use crate::cache::RefusedBroadcasts;
    use crate::domain::odds::update::testing::update;

    const STALE_AFTER: Duration = Duration::from_secs(60);

    struct ProbeBroadcasts(mpsc::UnboundedReceiver<BroadcastEvent>);

    impl BroadcastStream for ProbeBroadcasts {
        fn next(&mut self) -> BoxFuture<'_, BroadcastEvent> {
            async {
                match self.0.recv().await {
                    Some(heard) => heard,
                    None => std::future::pending().await,
                }
            }
            .boxed()
        }
    }

    /// Takes the part of the router and of the registry, and keeps what it is told.
    #[derive(Clone, Default)]
    struct Probe {
        told: Arc<Mutex<Vec<String>>>,
        apply_hangs: Arc<AtomicBool>,
        reload_fails: Arc<AtomicBool>,
        reload_hangs: Arc<AtomicBool>,
        apply_fails: Arc<AtomicUsize>,
    }

    impl Probe {
        fn say(&self, what: impl Into<String>) {
            self.told.lock().unwrap().push(what.into());
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
            self.say(format!("apply {}", message.0.len()));
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

        fn handle(
            &mut self,
            ReloadBooks(which): ReloadBooks,
            _: &mut Context<Self>,
        ) -> Self::Result {
            self.say(which.map_or("reload".to_owned(), |which| {
                format!("reload {}", which.len())
            }));
            let (fails, hangs) = (
                self.reload_fails.load(Ordering::SeqCst),
                self.reload_hangs.clone(),
            );
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
            self.say(format!("{:?}", changed.0));
        }
    }

    struct Fixture {
        listener: Addr<BroadcastListener>,
        probe: Probe,
        say: mpsc::UnboundedSender<BroadcastEvent>,
        state: Arc<FeedState>,
        metrics: OddsMetrics,
    }

    fn bench() -> Fixture {
        let (say, heard) = mpsc::unbounded_channel();
        let (probe, metrics) = (Probe::default(), OddsMetrics::new().unwrap());
        let state = Arc::new(FeedState::not_heard_yet(metrics.feed_live.clone()));
        let address = probe.clone().start();
        let edges = ListenerEdges {
            apply: address.clone().recipient(),
            reload: address.clone().recipient(),
            feed: address.recipient(),
        };
        let broadcasts = Box::new(ProbeBroadcasts(heard));
        let listener = BroadcastListener::new(
            broadcasts,
            edges,
            state.clone(),
            STALE_AFTER,
            metrics.clone(),
        )
        .start();
        Fixture {
            listener,
            probe,
            say,
            state,
            metrics,
        }
    }

    fn changes() -> BroadcastEvent {
        BroadcastEvent::Changes(vec![Broadcast {
            update: update(1, 1, 1),
            seq: None,
            conflated: false,
        }])
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        for _ in 0..1_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 10 s: {what}");
    }

    impl Fixture {
        async fn until_told(&self, expected: &[&str]) {
            let told = || self.probe.told.lock().unwrap().clone();
            for _ in 0..1_000 {
                if told() == expected {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(told(), expected, "not within 10 s");
        }
    }

    #[actix_web::test]
    async fn the_feed_is_live_when_every_book_has_read_again_and_stale_from_the_loss_on() {
        let bench = bench();
        bench.until_told(&["Stale"]).await;
        assert_eq!(
            bench.state.problem().unwrap(),
            "broadcasts are not heard yet"
        );
        bench.probe.reload_hangs.store(true, Ordering::SeqCst);
        bench.say.send(BroadcastEvent::Listening).unwrap();
        bench.say.send(changes()).unwrap();
        bench.until_told(&["Stale", "reload", "apply 1"]).await;
        assert!(!bench.state.is_live(), "the books still read");
        bench.probe.reload_hangs.store(false, Ordering::SeqCst);
        bench
            .until_told(&["Stale", "reload", "apply 1", "Live"])
            .await;
        assert_eq!((bench.state.is_live(), bench.state.problem()), (true, None));
        bench
            .say
            .send(BroadcastEvent::Lost("refused".to_owned()))
            .unwrap();
        bench
            .until_told(&["Stale", "reload", "apply 1", "Live", "Stale"])
            .await;
        assert_eq!(
            (bench.state.is_live(), bench.state.problem().unwrap()),
            (false, "refused".to_owned())
        );
        let metrics = &bench.metrics;
        assert_eq!(
            (
                metrics.broadcasts.get(),
                metrics.broadcast_losses.get(),
                metrics.feed_live.get()
            ),
            (1, 1, 0)
        );
    }

    #[actix_web::test]
    async fn the_feed_is_stale_while_no_processor_is_heard_though_the_channel_is() {
        let bench = bench();
        tokio::time::pause();
        bench.say.send(BroadcastEvent::Listening).unwrap();
        bench.until_told(&["Stale", "reload"]).await;
        until("it says why", || {
            bench.state.problem().unwrap() == "no processor has been heard yet"
        })
        .await;
        bench.say.send(BroadcastEvent::Unreadable(3)).unwrap();
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: false })
            .unwrap();
        bench.until_told(&["Stale", "reload", "Live"]).await;
        assert_eq!(bench.metrics.broadcasts_unreadable.get(), 3);
        for _ in 0..5 {
            tokio::time::sleep(STALE_AFTER - Duration::from_secs(1)).await;
            bench
                .say
                .send(BroadcastEvent::Alive { is_own: false })
                .unwrap();
        }
        bench.until_told(&["Stale", "reload", "Live"]).await;
        tokio::time::sleep(STALE_AFTER + Duration::from_secs(1)).await;
        bench
            .until_told(&["Stale", "reload", "Live", "Stale"])
            .await;
        assert_eq!(
            bench.state.problem().unwrap(),
            "no processor has been heard for 1m"
        );
        // A change of the original is a sign of life too.
        bench.say.send(changes()).unwrap();
        bench
            .until_told(&[
                "Stale", "reload", "Live", "Stale", "reload", "apply 1", "Live",
            ])
            .await;
        assert!(bench.state.is_live());
    }

    #[actix_web::test]
    async fn numbered_change_is_no_sign_of_life() {
        let bench = bench();
        tokio::time::pause();
        bench.say.send(BroadcastEvent::Listening).unwrap();
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: true })
            .unwrap();
        bench.until_told(&["Stale", "reload", "Live"]).await;
        tokio::time::sleep(STALE_AFTER - Duration::from_secs(1)).await;
        let numbered = Broadcast {
            update: update(1, 1, 1),
            seq: Some(1),
            conflated: false,
        };
        bench
            .say
            .send(BroadcastEvent::Changes(vec![numbered]))
            .unwrap();
        bench
            .until_told(&["Stale", "reload", "Live", "apply 1"])
            .await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        bench
            .until_told(&["Stale", "reload", "Live", "apply 1", "Stale"])
            .await;
    }

    #[actix_web::test]
    async fn unnamed_heartbeat_counts_until_own_one() {
        let bench = bench();
        tokio::time::pause();
        bench.say.send(BroadcastEvent::Listening).unwrap();
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: false })
            .unwrap();
        bench.until_told(&["Stale", "reload", "Live"]).await;
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: true })
            .unwrap();
        tokio::time::sleep(STALE_AFTER - Duration::from_secs(1)).await;
        // An earlier version of another deployment, and an original there.
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: false })
            .unwrap();
        bench.say.send(changes()).unwrap();
        bench
            .until_told(&["Stale", "reload", "Live", "apply 1"])
            .await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        bench
            .until_told(&["Stale", "reload", "Live", "apply 1", "Stale"])
            .await;
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: false })
            .unwrap();
        bench.say.send(changes()).unwrap();
        bench
            .until_told(&["Stale", "reload", "Live", "apply 1", "Stale", "apply 1"])
            .await;
        assert!(!bench.state.is_live());
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: true })
            .unwrap();
        bench
            .until_told(&[
                "Stale", "reload", "Live", "apply 1", "Stale", "apply 1", "reload", "Live",
            ])
            .await;
    }

    #[actix_web::test]
    async fn refused_broadcasts_are_counted_and_read_again_together() {
        let bench = bench();
        tokio::time::pause();
        bench.say.send(BroadcastEvent::Listening).unwrap();
        bench.until_told(&["Stale", "reload"]).await;
        for flood in 0..10_u32 {
            let events = (0..50)
                .map(|event| EventId::new(&format!("E{}", 50 * flood + event)).unwrap())
                .collect();
            let counts = BTreeMap::from([("future", 50), ("deployment", 1)]);
            bench
                .say
                .send(BroadcastEvent::Refused(RefusedBroadcasts {
                    counts,
                    events,
                }))
                .unwrap();
        }
        bench.until_told(&["Stale", "reload", "reload 64"]).await;
        let count = |reason| {
            bench
                .metrics
                .broadcasts_refused
                .with_label_values(&[reason])
                .get()
        };
        assert_eq!((count("future"), count("deployment")), (500, 10));
        assert!(
            !bench.state.is_live(),
            "a refused message is no sign of life"
        );
        // Messages without an event, as of a stranger, have nothing read.
        bench
            .say
            .send(BroadcastEvent::Refused(RefusedBroadcasts::default()))
            .unwrap();
        tokio::time::sleep(3 * SUSPECT_PAUSE).await;
        bench.until_told(&["Stale", "reload", "reload 64"]).await;
    }

    #[actix_web::test]
    async fn a_listening_that_ends_by_a_fault_ends_the_actor_so_that_the_process_is_started_anew() {
        let bench = bench();
        bench.say.send(BroadcastEvent::Listening).unwrap();
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: true })
            .unwrap();
        bench.until_told(&["Stale", "reload", "Live"]).await;
        bench
            .say
            .send(BroadcastEvent::Ended("fault".to_owned()))
            .unwrap();
        bench
            .until_told(&["Stale", "reload", "Live", "Stale"])
            .await;
        until("it ends", || !bench.listener.connected()).await;
        assert_eq!(bench.state.problem().unwrap(), "fault");
    }

    #[actix_web::test]
    async fn changes_that_no_try_applies_make_the_feed_stale_until_the_books_have_read_again() {
        let bench = bench();
        bench.say.send(BroadcastEvent::Listening).unwrap();
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: true })
            .unwrap();
        bench.until_told(&["Stale", "reload", "Live"]).await;
        bench.probe.apply_fails.store(TRIES, Ordering::SeqCst);
        bench.say.send(changes()).unwrap();
        bench
            .until_told(&[
                "Stale", "reload", "Live", "apply 1", "apply 1", "apply 1", "Stale",
            ])
            .await;
        assert_eq!(
            bench.state.problem().unwrap(),
            "the book of `MATCH_001` ended in the middle"
        );
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: true })
            .unwrap();
        let told = [
            "Stale", "reload", "Live", "apply 1", "apply 1", "apply 1", "Stale", "reload", "Live",
        ];
        bench.until_told(&told).await;
    }

    #[actix_web::test]
    async fn a_reload_that_ends_after_the_next_loss_does_not_say_live() {
        let bench = bench();
        bench.probe.reload_hangs.store(true, Ordering::SeqCst);
        bench.say.send(BroadcastEvent::Listening).unwrap();
        bench
            .say
            .send(BroadcastEvent::Lost("again".to_owned()))
            .unwrap();
        bench.until_told(&["Stale", "reload", "Stale"]).await;
        bench.probe.reload_hangs.store(false, Ordering::SeqCst);
        bench.say.send(changes()).unwrap();
        bench
            .until_told(&["Stale", "reload", "Stale", "apply 1"])
            .await;
        bench.say.send(BroadcastEvent::Listening).unwrap();
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: true })
            .unwrap();
        bench
            .until_told(&["Stale", "reload", "Stale", "apply 1", "reload", "Live"])
            .await;
    }

    #[actix_web::test]
    async fn books_that_cannot_be_read_are_tried_again_and_a_batch_whose_book_ended_too() {
        let bench = bench();
        bench.probe.reload_fails.store(true, Ordering::SeqCst);
        bench.say.send(BroadcastEvent::Listening).unwrap();
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: true })
            .unwrap();
        bench.until_told(&["Stale", "reload", "reload 1"]).await;
        assert!(!bench.state.is_live());
        bench.probe.reload_fails.store(false, Ordering::SeqCst);
        bench
            .until_told(&["Stale", "reload", "reload 1", "reload 1", "Live"])
            .await;
        bench.probe.apply_fails.store(1, Ordering::SeqCst);
        bench.say.send(changes()).unwrap();
        let told = [
            "Stale", "reload", "reload 1", "reload 1", "Live", "apply 1", "apply 1",
        ];
        bench.until_told(&told).await;
    }

    #[actix_web::test]
    async fn batch_that_hangs_does_not_hold_up_next() {
        let bench = bench();
        bench.say.send(BroadcastEvent::Listening).unwrap();
        bench
            .say
            .send(BroadcastEvent::Alive { is_own: false })
            .unwrap();
        bench.until_told(&["Stale", "reload", "Live"]).await;
        bench.probe.apply_hangs.store(true, Ordering::SeqCst);
        for _ in 0..2 * BATCHES_AT_ONCE {
            bench.say.send(changes()).unwrap();
        }
        let mut told = vec!["Stale", "reload", "Live"];
        told.extend(["apply 1"; BATCHES_AT_ONCE]);
        bench.until_told(&told).await;
        assert!(bench.state.is_live());
        tokio::time::pause();
        bench.probe.apply_hangs.store(false, Ordering::SeqCst);
        tokio::time::sleep(STALE_AFTER).await;
        let told = |what: &str| {
            bench
                .probe
                .told
                .lock()
                .unwrap()
                .iter()
                .filter(|told| *told == what)
                .count()
        };
        until("clients are told", || told("Stale") == 2).await;
        // The books read what they did not take, and the other batches follow.
        until("live again", || told("Live") == 2 && bench.state.is_live()).await;
    }
}
