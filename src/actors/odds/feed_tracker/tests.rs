use proptest::prelude::*;

use super::*;
use crate::cache::RefusedBroadcasts;
use crate::domain::odds::update::testing::update;

const STALE_AFTER: Duration = Duration::from_secs(10);
const OWN: BroadcastEvent = alive(true);
const UNNAMED: BroadcastEvent = alive(false);

const fn alive(is_own: bool) -> BroadcastEvent {
    let views = Vec::new();
    BroadcastEvent::Alive { is_own, views }
}

fn changes(seq: Option<u64>) -> BroadcastEvent {
    BroadcastEvent::Changes(vec![Broadcast {
        trace: None,
        update: update(1, 1, 1),
        seq,
        conflated: false,
    }])
}

fn refused(events: impl IntoIterator<Item = u32>) -> BroadcastEvent {
    let events = events.into_iter().map(event_id);
    BroadcastEvent::Refused(RefusedBroadcasts {
        events: events.collect(),
        ..RefusedBroadcasts::default()
    })
}

fn event_id(number: u32) -> EventId {
    EventId::new(&format!("E{number}")).unwrap()
}

/// The reload among the effects.
fn reload(effects: &[Effect]) -> Reload {
    let reload = effects.iter().find_map(|effect| match effect {
        Effect::Reload(reload) => Some(reload.clone()),
        _ => None,
    });
    reload.expect("no reload")
}

/// A tracker that is subscribed and live, and the time of its heartbeat.
fn live() -> (FeedTracker, Instant) {
    let mut tracker = FeedTracker::new(STALE_AFTER);
    let now = Instant::now();
    assert_eq!(tracker.started(false), [Effect::Receive(None)]);
    let reload = reload(&tracker.received(BroadcastEvent::Listening, now));
    let effects = tracker.received(OWN, now);
    assert_eq!(effects, [Effect::Receive(Some(now + STALE_AFTER))]);
    assert_eq!(
        tracker.reloaded(reload, Ok(Vec::new()), now),
        [Effect::GoLive]
    );
    (tracker, now)
}

#[test]
fn nothing_is_received_before_loss_is_notified() {
    let mut tracker = FeedTracker::new(STALE_AFTER);
    let now = Instant::now();
    assert_eq!(tracker.started(true), []);
    assert_eq!(tracker.loss_notified(now), [Effect::Receive(None)]);
    let lost = BroadcastEvent::Lost("refused".to_owned());
    let effects = tracker.received(lost, now);
    assert_eq!(effects, [Effect::Lose("refused".to_owned())]);
    assert_eq!(tracker.loss_notified(now), [Effect::Receive(None)]);
}

#[test]
fn reload_without_heartbeat_is_not_live() {
    let mut tracker = FeedTracker::new(STALE_AFTER);
    let now = Instant::now();
    tracker.started(false);
    let reload = reload(&tracker.received(BroadcastEvent::Listening, now));
    let why = "no processor has been heard yet".to_owned();
    assert_eq!(
        tracker.reloaded(reload, Ok(Vec::new()), now),
        [Effect::SetProblem(why)]
    );
    let deadline = Some(now + STALE_AFTER);
    let effects = tracker.received(UNNAMED, now);
    assert_eq!(effects, [Effect::GoLive, Effect::Receive(deadline)]);
}

#[test]
fn silence_loses_the_feed() {
    let (mut tracker, start) = live();
    let later = start + STALE_AFTER;
    let early = later - Duration::from_millis(1);
    assert_eq!(
        tracker.receive_timed_out(early),
        [Effect::Receive(Some(later))]
    );
    let why = "no processor has been heard for 10s".to_owned();
    assert_eq!(tracker.receive_timed_out(later), [Effect::Lose(why)]);
    assert_eq!(tracker.loss_notified(later), [Effect::Receive(None)]);
    // The channel is still subscribed, so the next heartbeat reloads the books.
    let reload = reload(&tracker.received(OWN, later));
    assert_eq!(reload.events, None);
    assert_eq!(
        tracker.reloaded(reload, Ok(Vec::new()), later),
        [Effect::GoLive]
    );
}

#[test]
fn failed_batch_loses_its_own_epoch_only() {
    let (mut tracker, now) = live();
    let effects = tracker.received(changes(Some(1)), now);
    let Some(Effect::Apply(Batch { epoch, .. })) = effects.first() else {
        panic!("{effects:?}")
    };
    tracker.received(changes(Some(2)), now);
    let why = || Err("late".to_owned());
    assert_eq!(
        tracker.applied(*epoch, why()),
        [Effect::Lose("late".to_owned())]
    );
    assert_eq!(tracker.applied(*epoch, why()), []);
}

#[test]
fn batches_in_flight_are_bounded() {
    let (mut tracker, now) = live();
    let deadline = Some(now + STALE_AFTER);
    for batch in 1..=MAX_BATCHES {
        let effects = tracker.received(changes(Some(1)), now);
        let is_receiving = effects.contains(&Effect::Receive(deadline));
        assert_eq!(is_receiving, batch < MAX_BATCHES);
    }
    let applied = tracker.applied(tracker.epoch, Ok(()));
    assert_eq!(applied, [Effect::Receive(deadline)]);
}

#[test]
fn failed_books_are_reloaded_again() {
    let mut tracker = FeedTracker::new(STALE_AFTER);
    let now = Instant::now();
    tracker.started(false);
    let all = reload(&tracker.received(BroadcastEvent::Listening, now));
    // If the failed books are unknown, all are reloaded again.
    let ended = ApplyError::RouterEnded("it has stopped".to_owned());
    let effects = tracker.reloaded(all.clone(), Err(ended), now);
    assert_eq!(effects[1], Effect::ScheduleReload(all.clone()));
    assert_eq!(
        tracker.reload_due(all.clone()),
        [Effect::Reload(all.clone())]
    );
    let effects = tracker.reloaded(all, Ok(vec![event_id(1)]), now);
    let [Effect::SetProblem(why), Effect::ScheduleReload(some)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(why, "could not load the book of `E1`");
    assert_eq!(some.events, Some(vec![event_id(1)]));
    // After a loss it is obsolete.
    tracker.received(BroadcastEvent::Lost("again".to_owned()), now);
    assert_eq!(tracker.reload_due(some.clone()), []);
}

#[test]
fn unnamed_heartbeats_count_until_own_one() {
    let (mut tracker, start) = live();
    let later = start + Duration::from_secs(1);
    let unchanged = Effect::Receive(Some(start + STALE_AFTER));
    assert_eq!(tracker.received(UNNAMED, later), [unchanged]);
    let effects = tracker.received(changes(None), later);
    assert_eq!(
        effects.last(),
        Some(&Effect::Receive(Some(start + STALE_AFTER)))
    );
    let effects = tracker.received(OWN, later);
    assert_eq!(effects, [Effect::Receive(Some(later + STALE_AFTER))]);
}

#[test]
fn suspects_are_reloaded_together() {
    let (mut tracker, now) = live();
    let receive = Effect::Receive(Some(now + STALE_AFTER));
    let effects = tracker.received(refused([]), now);
    assert_eq!(effects, [Effect::Receive(Some(now + STALE_AFTER))]);
    let effects = tracker.received(refused([1, 2]), now);
    assert_eq!(effects, [Effect::ScheduleSuspects, receive]);
    let effects = tracker.received(refused(0..500), now);
    assert_eq!(effects, [Effect::Receive(Some(now + STALE_AFTER))]);
    let effects = tracker.suspects_due();
    let [Effect::ReloadSuspects(events)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(events.len(), MAX_SUSPECTS);
    assert!(events.contains(&event_id(2)));
    let effects = tracker.received(refused([1]), now);
    assert_eq!(effects[0], Effect::ScheduleSuspects);
}

#[test]
fn ended_subscription_stops_the_actor() {
    let (mut tracker, now) = live();
    let effects = tracker.received(BroadcastEvent::Ended("fault".to_owned()), now);
    assert_eq!(effects, [Effect::Stop("fault".to_owned())]);
}

#[derive(Clone, Debug)]
enum Input {
    /// The stream has this event, if an event is being received.
    Event(Kind),
    /// Time passes, in seconds.
    Elapse(u64),
    /// A batch in flight ends, the index modulo their number.
    Applied(usize, bool),
    /// A reload in flight ends.
    Reloaded(usize, Answer),
    /// A delay before a reload ends.
    ReloadDue(usize),
    SuspectsDue,
    LossNotified,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Own,
    Unnamed,
    NumberedChange,
    OriginalChange,
    Unreadable,
    Refused,
    /// The subscription is lost or active again, whichever it is not.
    Toggled,
    /// Connecting fails.
    LostAgain,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Success,
    Failed,
    RouterEnded,
}

fn input() -> impl Strategy<Value = Input> {
    let kind = prop_oneof![
        4 => Just(Kind::Own),
        4 => Just(Kind::Unnamed),
        6 => Just(Kind::NumberedChange),
        2 => Just(Kind::OriginalChange),
        1 => Just(Kind::Unreadable),
        1 => Just(Kind::Refused),
        4 => Just(Kind::Toggled),
        1 => Just(Kind::LostAgain),
    ];
    let answer = prop_oneof![
        4 => Just(Answer::Success),
        1 => Just(Answer::Failed),
        1 => Just(Answer::RouterEnded),
    ];
    prop_oneof![
        10 => kind.prop_map(Input::Event),
        3 => (0..8_u64).prop_map(Input::Elapse),
        4 => (any::<usize>(), proptest::bool::weighted(0.9))
            .prop_map(|(index, is_applied)| Input::Applied(index, is_applied)),
        6 => (any::<usize>(), answer).prop_map(|(index, answer)| Input::Reloaded(index, answer)),
        2 => any::<usize>().prop_map(Input::ReloadDue),
        1 => Just(Input::SuspectsDue),
        4 => Just(Input::LossNotified),
    ]
}

/// A reload of the model, and whether it began after the last loss.
type ModelReload = (Reload, bool);

/// The surroundings of the listener, and what must be true of the feed.
struct World {
    tracker: FeedTracker,
    now: Instant,
    is_listening: bool,
    has_own: bool,
    /// The deadline of the receive in flight, if there is one.
    receive: Option<Option<Instant>>,
    batches: Vec<u64>,
    reloads: Vec<ModelReload>,
    delayed: Vec<ModelReload>,
    suspects: usize,
    notifications: usize,
    is_live: bool,
    /// Since the last loss.
    last_heartbeat: Option<Instant>,
    /// Whether a reload that began after the last loss has succeeded.
    has_reloaded: bool,
}

impl World {
    fn new() -> World {
        let mut world = World {
            tracker: FeedTracker::new(STALE_AFTER),
            now: Instant::now(),
            is_listening: false,
            has_own: false,
            receive: None,
            batches: Vec::new(),
            reloads: Vec::new(),
            delayed: Vec::new(),
            suspects: 0,
            notifications: 1,
            is_live: false,
            last_heartbeat: None,
            has_reloaded: false,
        };
        let effects = world.tracker.started(true);
        world.run(effects);
        world
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Event(kind) => self.event(kind),
            Input::Elapse(seconds) => self.elapse(Duration::from_secs(seconds)),
            Input::Applied(index, is_applied) => {
                if let Some(epoch) = take(&mut self.batches, index) {
                    let result = is_applied.then_some(()).ok_or_else(|| "late".to_owned());
                    let effects = self.tracker.applied(epoch, result);
                    self.run(effects);
                }
            }
            Input::Reloaded(index, answer) => self.reloaded(index, answer),
            Input::ReloadDue(index) => {
                if let Some((reload, _)) = take(&mut self.delayed, index) {
                    let effects = self.tracker.reload_due(reload);
                    self.run(effects);
                }
            }
            Input::SuspectsDue if self.suspects > 0 => {
                self.suspects -= 1;
                let effects = self.tracker.suspects_due();
                self.run(effects);
            }
            Input::LossNotified if self.notifications > 0 => {
                self.notifications -= 1;
                let effects = self.tracker.loss_notified(self.now);
                self.run(effects);
            }
            Input::SuspectsDue | Input::LossNotified => {}
        }
    }

    fn event(&mut self, kind: Kind) {
        if self.receive.take().is_none() {
            return;
        }
        self.has_own |= matches!(kind, Kind::Own);
        let is_heartbeat = match kind {
            Kind::Own => true,
            Kind::Unnamed | Kind::OriginalChange => !self.has_own,
            _ => false,
        };
        if is_heartbeat && self.is_listening {
            self.last_heartbeat = Some(self.now);
        }
        let lost = || BroadcastEvent::Lost("lost".to_owned());
        let event = match kind {
            Kind::Own => OWN,
            Kind::Unnamed => UNNAMED,
            Kind::NumberedChange => changes(Some(1)),
            Kind::OriginalChange => changes(None),
            Kind::Unreadable => BroadcastEvent::Unreadable(1),
            Kind::Refused => refused([1]),
            Kind::Toggled if self.is_listening => lost(),
            Kind::Toggled => BroadcastEvent::Listening,
            Kind::LostAgain => lost(),
        };
        match event {
            BroadcastEvent::Listening => self.is_listening = true,
            BroadcastEvent::Lost(_) => self.is_listening = false,
            _ => {}
        }
        let effects = self.tracker.received(event, self.now);
        self.run(effects);
    }

    /// Time passes, and the deadline with it.
    fn elapse(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Some(deadline)) = self.receive.filter(|due| due.is_some_and(|at| at <= end))
        {
            self.now = self.now.max(deadline);
            self.receive = None;
            let effects = self.tracker.receive_timed_out(self.now);
            self.run(effects);
        }
        self.now = end;
        // While batches use all room, nothing is received; they have their own time limit.
        if self.is_live && self.receive.is_some() {
            assert!(self.has_heartbeat(), "live without a heartbeat");
        }
    }

    fn reloaded(&mut self, index: usize, answer: Answer) {
        let Some((reload, is_current)) = take(&mut self.reloads, index) else {
            return;
        };
        let result = match answer {
            Answer::Success => Ok(Vec::new()),
            Answer::Failed => Ok(vec![event_id(1)]),
            Answer::RouterEnded => Err(ApplyError::RouterEnded("it has stopped".to_owned())),
        };
        self.has_reloaded |= is_current && matches!(answer, Answer::Success);
        let effects = self.tracker.reloaded(reload, result, self.now);
        self.run(effects);
    }

    fn run(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Receive(deadline) => {
                    assert!(self.receive.is_none(), "one receive at a time");
                    assert_eq!(deadline, self.last_heartbeat.map(|at| at + STALE_AFTER));
                    self.receive = Some(deadline);
                }
                Effect::Apply(batch) => self.batches.push(batch.epoch),
                Effect::Reload(reload) => self.reloads.push((reload, true)),
                Effect::ScheduleReload(reload) => self.delayed.push((reload, true)),
                Effect::ReloadSuspects(events) => assert_eq!(events, [event_id(1)]),
                Effect::ScheduleSuspects => self.suspects += 1,
                Effect::Lose(_) => self.lose(),
                Effect::SetProblem(_) => assert!(!self.is_live),
                Effect::GoLive => self.go_live(),
                Effect::Stop(why) => panic!("{why}"),
            }
        }
        self.check();
    }

    fn lose(&mut self) {
        self.notifications += 1;
        self.is_live = false;
        self.has_reloaded = false;
        self.last_heartbeat = None;
        for (_, is_current) in self.reloads.iter_mut().chain(&mut self.delayed) {
            *is_current = false;
        }
    }

    fn go_live(&mut self) {
        assert!(!self.is_live, "it is published once");
        assert!(self.is_listening, "the channel is subscribed");
        assert!(self.has_reloaded, "a reload after the loss has succeeded");
        assert!(self.has_heartbeat(), "a processor was heard in time");
        assert_eq!(self.notifications, 0, "the loss is published before");
        self.is_live = true;
    }

    fn has_heartbeat(&self) -> bool {
        self.last_heartbeat
            .is_some_and(|at| self.now < at + STALE_AFTER)
    }

    fn check(&self) {
        assert!(self.batches.len() <= MAX_BATCHES);
        assert!(self.suspects <= 1, "one reload of suspects is scheduled");
        let waits = self.notifications > 0 || self.batches.len() == MAX_BATCHES;
        assert!(self.receive.is_some() || waits, "the listener is stuck");
    }

    /// From now on nothing fails.
    fn settle(&mut self) {
        while !self.batches.is_empty() || self.notifications > 0 {
            self.input(Input::Applied(0, true));
            self.input(Input::LossNotified);
        }
        if !self.is_listening {
            self.event(Kind::Toggled);
        }
        self.event(Kind::Own);
        while !self.reloads.is_empty() || !self.delayed.is_empty() {
            self.input(Input::ReloadDue(0));
            self.reloaded(0, Answer::Success);
        }
        assert!(self.is_live, "the feed recovers");
    }
}

fn take<T>(items: &mut Vec<T>, index: usize) -> Option<T> {
    let index = index.checked_rem(items.len())?;
    Some(items.remove(index))
}

proptest! {
    /// Each step asserts that the feed is live only after a loss is published, a reload that began
    /// after it has succeeded and a heartbeat has arrived in time; that batches are bounded; and
    /// that the listener never stops receiving. In the end it recovers.
    #[test]
    fn feed_is_never_live_too_early(inputs in proptest::collection::vec(input(), 0..200)) {
        let mut world = World::new();
        for input in inputs {
            world.input(input);
        }
        world.settle();
    }
}
