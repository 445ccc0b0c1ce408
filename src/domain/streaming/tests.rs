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
use crate::domain::odds::restrictions::Restrictions;
use crate::domain::odds::source_status::{SourceState, SourceStatus};
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::testing::market_update;
use crate::domain::streaming::fanout::SourceNotice;

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
    restrictions: Arc<Restrictions>,
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
            restrictions: Arc::default(),
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
        self.restrictions = Arc::new(Restrictions {
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
        let frames = published.states.iter().map(|state| {
            let head = published.restated_at;
            Arc::new(UpdateFrame::restricted(
                state,
                &self.restrictions,
                false,
                head,
            ))
        });
        let status = FeedStatus::Stale;
        let notices = published
            .restated_at
            .map(|_| SourceNotice::new(&event(), &source(), status));
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
            restrictions: self.restrictions.clone(),
            extension: extension.map(|extension| SnapshotExtension {
                epoch: Some(EPOCH),
                ..extension
            }),
        };
        let text = snapshot_message(&snapshot, &view);
        let seq = snapshot.seq;
        let effects = self
            .session
            .on_snapshot(event(), attempt, Some(SnapshotFrame { seq, text }));
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
        let shown = snapshot.markets.iter().map(|state| {
            let shown = self.restrictions.shown(state);
            let market = Shown {
                seq: state.seq,
                payload: serde_json::from_str(&shown.update.to_json()).unwrap(),
                stale: self.restrictions.is_stale(state),
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
        1 => any::<bool>().prop_map(Step::Restrict),
        1 => (conflate(), any::<bool>()).prop_map(|(millis, resume)| Step::Subscribe(millis, resume)),
        3 => Just(Step::Arrive),
        1 => (conflate(), proptest::option::of(0_u8..3)).prop_map(|(millis, lacking)| Step::Reconnect(millis, lacking)),
    ]
}

proptest! {
    #[test]
    fn client_ends_with_what_the_book_shows(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Change(market, status) => world.change(market, status),
                Step::Deliver => world.deliver(),
                Step::Receive => _ = world.receive(),
                Step::Pass(millis) => world.pass(millis),
                Step::Restrict(is_lost) => world.restrict(is_lost),
                Step::Subscribe(millis, resume) => world.subscribe(millis, resume),
                Step::Arrive => world.arrive(),
                Step::Reconnect(millis, lacking) => world.reconnect(millis, lacking),
            }
        }
        if world.lacking.is_some() {
            world.reconnect(0, None);
        }
        world.settle();
        prop_assert_eq!(&world.client.markets, &world.expected());
        // What the client has is enough to resume.
        world.reconnect(0, None);
        world.settle();
        prop_assert_eq!(&world.client.markets, &world.expected());
    }
}
