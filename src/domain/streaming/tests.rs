//! A client of the extended protocol against a book: whatever happens on the way, it ends with what
//! the book shows.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value;

use super::fanout::{Delivery, DeliverySink, Fanout, PushError, SessionId};
use super::protocol::{FeedStatus, SnapshotExtension, SnapshotView, UpdateFrame, snapshot_message};
use super::session::{Attempt, Effect, SessionLimits, SessionState, SnapshotFrame};
use crate::domain::ids::{EventId, Source};
use crate::domain::odds::book::{Book, MarketState, Snapshot};
use crate::domain::odds::restrictions::{CurrentRestrictions, Restrictions};
use crate::domain::odds::source_status::{SourceState, SourceStatus};
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::testing::market_update;
use crate::domain::streaming::fanout::SourceNotice;
use crate::domain::streaming::shown_at::ShownAt;

const LIMITS: SessionLimits = SessionLimits {
    max_subscriptions: 1,
    max_messages_per_second: 1_000_000,
    max_snapshot_bytes_per_second: 1_000_000_000,
    silence_limit: Duration::from_secs(60),
};
const EPOCH: &str = "3f9c";

/// The mailbox of a session: holds two deliveries.
#[derive(Clone, Default)]
struct Mailbox(Rc<RefCell<VecDeque<Delivery>>>);

impl DeliverySink for Mailbox {
    fn push(&self, delivery: Delivery) -> Result<(), PushError> {
        let mut queue = self.0.borrow_mut();
        if queue.len() >= 2 {
            return Err(PushError::Full);
        }
        queue.push_back(delivery);
        Ok(())
    }
}

/// What a client shows of a market.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    seq: u64,
    payload: Value,
    stale: bool,
}

/// A client that follows the rules of the protocol.
#[derive(Default)]
struct Client {
    markets: BTreeMap<String, Shown>,
    since: u64,
    epoch: Option<String>,
}

impl Client {
    fn receive(&mut self, text: &str) {
        let message: Value = serde_json::from_str(text).unwrap();
        match message["type"].as_str().unwrap() {
            "snapshot" => {
                if message["recovered"] != true {
                    self.markets.clear();
                }
                for market in message["markets"].as_array().unwrap() {
                    self.apply(market);
                }
                self.since = message["seq"].as_u64().unwrap();
                self.epoch = message["epoch"].as_str().map(str::to_owned);
            }
            "update" => {
                self.apply(&message);
                let seq = message["seq"].as_u64().unwrap();
                self.since = self.since.max(seq);
                if message["resumable"] == false {
                    self.epoch = None;
                }
            }
            "unsubscribed" => *self = Client::default(),
            "feed" => {}
            other => panic!("{other}"),
        }
    }

    fn apply(&mut self, change: &Value) {
        let payload = change["payload"].clone();
        let market = payload["market"].as_str().unwrap().to_owned();
        let shown = Shown {
            seq: change["seq"].as_u64().unwrap(),
            payload,
            stale: change["stale"] == true,
        };
        if let Some(known) = self.markets.get(&market) {
            let is_restated = change.get("stale").is_some() && shown.seq == known.seq;
            assert!(
                shown.seq > known.seq || is_restated,
                "{known:?} is followed by {shown:?}"
            );
        }
        self.markets.insert(market, shown);
    }
}

/// A change on its way from the book to the clients.
struct Published {
    states: Vec<Arc<MarketState>>,
    restated_at: Option<u64>,
}

struct World {
    now: Instant,
    book: Book,
    restrictions: CurrentRestrictions,
    /// Changes that were not yet encoded.
    published: VecDeque<Published>,
    fanout: Fanout<Mailbox>,
    sessions: u64,
    mailbox: Mailbox,
    session: SessionState,
    /// Snapshots that were taken from the book and have not arrived.
    snapshot: Option<(Attempt, Snapshot)>,
    /// The market that the book of this process lacks, because the store could not be read.
    lacking: Option<u8>,
    client: Client,
}

fn event() -> EventId {
    EventId::new("E").unwrap()
}

fn source() -> Source {
    Source::new("test").unwrap()
}

impl World {
    fn new() -> World {
        let now = Instant::now();
        let mut world = World {
            now,
            book: Book::new(event()),
            restrictions: CurrentRestrictions::default(),
            published: VecDeque::new(),
            fanout: Fanout::default(),
            sessions: 0,
            mailbox: Mailbox::default(),
            session: SessionState::new(LIMITS, now),
            snapshot: None,
            lacking: None,
            client: Client::default(),
        };
        world.reconnect(0, None);
        world
    }

    fn change(&mut self, market: u8, status: MarketStatus) {
        let position = self.book.snapshot().seq;
        let name = format!("m{market}");
        let mut update = market_update("E", &name, None, position as i64 + 1, 1);
        update.status = status;
        let state = self.book.apply(update, position).unwrap();
        self.published.push_back(Published {
            states: vec![state],
            restated_at: None,
        });
    }

    /// The source is lost, or lives again.
    fn restrict(&mut self, is_lost: bool) {
        let state = if is_lost {
            SourceState::Stale
        } else {
            SourceState::Live
        };
        self.restrictions.set(Restrictions {
            sources: [(source(), SourceStatus { state, at: None })].into(),
            ..Restrictions::default()
        });
        let snapshot = self.book.snapshot();
        self.published.push_back(Published {
            states: snapshot.markets,
            restated_at: Some(snapshot.seq),
        });
    }

    /// Encodes the oldest change and offers it to the session.
    fn deliver(&mut self) {
        let Some(published) = self.published.pop_front() else {
            return;
        };
        let restrictions = self.restrictions.get();
        let head = published.restated_at;
        let frames = published
            .states
            .iter()
            .map(|state| Arc::new(UpdateFrame::restricted(state, &restrictions, false, head)));
        let is_lost = restrictions.is_lost(&source());
        let status = if is_lost {
            FeedStatus::Stale
        } else {
            FeedStatus::Live
        };
        let notices = head.map(|head| {
            let at = ShownAt::new(head, &restrictions);
            SourceNotice::new(&event(), &source(), status, at)
        });
        let notices = notices.into_iter().collect();
        let delivery = Delivery::with_notices(notices, frames.collect(), false);
        self.fanout.publish(&event(), &delivery, self.now);
    }

    /// The session handles a delivery; its client receives the messages.
    fn receive(&mut self) -> bool {
        let Some(delivery) = self.mailbox.0.borrow_mut().pop_front() else {
            return false;
        };
        let mut bytes = Vec::new();
        self.session
            .on_delivery(&delivery, |frames| bytes.extend_from_slice(&frames));
        for text in texts(&bytes) {
            self.client.receive(text);
        }
        true
    }

    fn subscribe(&mut self, conflate_ms: u64, resume: bool) {
        let mut message =
            serde_json::json!({"type": "subscribe", "eventId": "E", "conflateMs": conflate_ms});
        if resume {
            message["since"] = self.client.since.into();
            message["epoch"] = self.client.epoch.clone().into();
        }
        let effects = self.session.on_text(&message.to_string(), self.now);
        let [Effect::Subscribe(_, attempt, step)] = effects[..] else {
            panic!("{effects:?}");
        };
        self.fanout
            .subscribe(SessionId(self.sessions), &event(), step);
        self.snapshot = Some((attempt, self.loaded()));
    }

    fn unsubscribe(&mut self) {
        let message = serde_json::json!({"type": "unsubscribe", "eventId": "E"});
        for effect in self.session.on_text(&message.to_string(), self.now) {
            match effect {
                Effect::Unsubscribe(event) => {
                    self.fanout.unsubscribe(SessionId(self.sessions), &event);
                }
                Effect::Send(text) => self.client.receive(&text),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The book as this process has loaded it.
    fn loaded(&self) -> Snapshot {
        let mut snapshot = self.book.snapshot();
        if let Some(market) = self.lacking {
            let name = format!("m{market}");
            let is_loaded = |state: &Arc<MarketState>| state.update.market.to_string() != name;
            snapshot.markets.retain(is_loaded);
            snapshot.continuity = snapshot.continuity.of_partial_book();
        }
        snapshot
    }

    /// The snapshot arrives and is encoded.
    fn arrive(&mut self) {
        let Some((attempt, snapshot)) = self.snapshot.take() else {
            return;
        };
        let extension = self.session.snapshot_extension(&event(), attempt);
        let view = SnapshotView {
            is_stale: false,
            restrictions: self.restrictions.get(),
            extension: extension.map(|extension| SnapshotExtension {
                epoch: Some(EPOCH),
                ..extension
            }),
        };
        let frame = SnapshotFrame {
            shown_at: view.shown_at(&snapshot),
            text: snapshot_message(&snapshot, &view),
        };
        let effects = self.session.on_snapshot(event(), attempt, Some(frame));
        for effect in effects {
            match effect {
                Effect::Send(text) => self.client.receive(&text),
                Effect::SendUpdate(frame, form) => self.client.receive(frame.text(form)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The connection is lost, and the client resumes from what it has, at a process whose book may
    /// lack a market.
    fn reconnect(&mut self, conflate_ms: u64, lacking: Option<u8>) {
        self.lacking = lacking;
        self.fanout.disconnect(SessionId(self.sessions));
        self.sessions += 1;
        self.mailbox = Mailbox::default();
        self.fanout
            .connect(SessionId(self.sessions), self.mailbox.clone());
        self.session = SessionState::new(LIMITS, self.now);
        self.subscribe(conflate_ms, true);
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.fanout.flush_due(self.now);
        self.fanout.offer_again();
    }

    fn settle(&mut self) {
        self.arrive();
        while !self.published.is_empty() {
            self.deliver();
        }
        for _ in 0..4 {
            self.pass(120_000);
            while self.receive() {}
        }
    }

    fn expected(&self) -> BTreeMap<String, Shown> {
        let snapshot = self.book.snapshot();
        let restrictions = self.restrictions.get();
        let shown = snapshot.markets.iter().map(|state| {
            let shown = restrictions.shown(state);
            let market = Shown {
                seq: state.seq,
                payload: serde_json::from_str(&shown.update.to_json()).unwrap(),
                stale: restrictions.is_stale(state),
            };
            (state.update.market.to_string(), market)
        });
        shown.collect()
    }
}

/// The texts of unmasked frames.
fn texts(mut bytes: &[u8]) -> Vec<&str> {
    let mut texts = Vec::new();
    while let [0x81, length, rest @ ..] = bytes {
        let (length, rest) = match *length {
            126 => (
                usize::from(u16::from_be_bytes([rest[0], rest[1]])),
                &rest[2..],
            ),
            length => (usize::from(length), rest),
        };
        texts.push(std::str::from_utf8(&rest[..length]).unwrap());
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty());
    texts
}

#[derive(Clone, Debug)]
enum Step {
    Change(u8, MarketStatus),
    Deliver,
    Receive,
    Pass(u64),
    Restrict(bool),
    Subscribe(u64, bool),
    Unsubscribe,
    Arrive,
    Reconnect(u64, Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let conflate = || prop_oneof![Just(0_u64), Just(50), Just(250), Just(120_000)];
    let status = prop_oneof![Just(MarketStatus::Open), Just(MarketStatus::Suspended)];
    prop_oneof![
        6 => (0_u8..3, status).prop_map(|(market, status)| Step::Change(market, status)),
        6 => Just(Step::Deliver),
        5 => Just(Step::Receive),
        3 => (1_u64..400).prop_map(Step::Pass),
        2 => any::<bool>().prop_map(Step::Restrict),
        2 => (conflate(), any::<bool>()).prop_map(|(millis, resume)| Step::Subscribe(millis, resume)),
        1 => Just(Step::Unsubscribe),
        3 => Just(Step::Arrive),
        1 => (conflate(), proptest::option::of(0_u8..3)).prop_map(|(millis, lacking)| Step::Reconnect(millis, lacking)),
    ]
}

impl World {
    fn take(&mut self, step: Step) {
        match step {
            Step::Change(market, status) => self.change(market, status),
            Step::Deliver => self.deliver(),
            Step::Receive => _ = self.receive(),
            Step::Pass(millis) => self.pass(millis),
            Step::Restrict(is_lost) => self.restrict(is_lost),
            Step::Subscribe(millis, resume) => self.subscribe(millis, resume),
            Step::Unsubscribe => self.unsubscribe(),
            Step::Arrive => self.arrive(),
            Step::Reconnect(millis, lacking) => self.reconnect(millis, lacking),
        }
    }

    /// Takes the steps, lets everything arrive, and compares. What the client has then is enough to
    /// resume.
    fn check(steps: impl IntoIterator<Item = Step>) -> Result<(), TestCaseError> {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.take(step));
        if world.lacking.is_some() {
            world.reconnect(0, None);
        }
        if world.session.subscriptions() == 0 {
            world.subscribe(0, false);
        }
        world.settle();
        prop_assert_eq!(&world.client.markets, &world.expected());
        world.reconnect(0, None);
        world.settle();
        prop_assert_eq!(&world.client.markets, &world.expected());
        Ok(())
    }
}

proptest! {
    #[test]
    fn client_ends_with_what_the_book_shows(steps in proptest::collection::vec(step(), 1..120)) {
        World::check(steps)?;
    }
}

/// A restriction reaches the session after its snapshot. The end of the restriction was held back, and
/// was dropped when the client subscribed again.
#[test]
fn restriction_from_before_a_snapshot_does_not_follow_it() {
    use MarketStatus::Open;
    use Step::{Change, Deliver, Restrict, Subscribe};
    let steps = [
        Change(0, Open),
        Subscribe(50, false),
        Change(0, Open),
        Deliver,
        Deliver,
        Restrict(true),
        Deliver,
        Restrict(false),
        Deliver,
        Subscribe(0, false),
    ];
    World::check(steps).unwrap();
}

/// The end of a restriction reaches the session after its snapshot. The next restriction waited for the
/// slow client, and was dropped when it unsubscribed: a lost source must not be shown as live.
#[test]
fn end_of_restriction_from_before_a_snapshot_does_not_follow_it() {
    use Step::{Arrive, Change, Deliver, Receive, Restrict, Subscribe, Unsubscribe};
    let steps = [
        Change(0, MarketStatus::Open),
        Deliver,
        Arrive,
        Receive,
        Restrict(true),
        Deliver,
        Restrict(false),
        Deliver,
        Restrict(true),
        Deliver,
        Unsubscribe,
        Subscribe(0, false),
    ];
    World::check(steps).unwrap();
}
