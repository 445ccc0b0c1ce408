use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::*;
use crate::bus::{NewRecord, Subscription};
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::odds::update::testing::update;
use crate::testing::until;

/// A topic that can be followed once it is up.
struct ProbeTopic {
    events: Mutex<Option<mpsc::Receiver<ReadEvent>>>,
    /// How often following fails.
    failures: AtomicUsize,
}

struct ProbeReader(mpsc::Receiver<ReadEvent>);

impl TopicReader for ProbeReader {
    fn next(&mut self) -> BoxFuture<'_, Result<ReadEvent, BusError>> {
        async { self.0.recv().await.ok_or(BusError::Closed) }.boxed()
    }
}

impl Topic for ProbeTopic {
    fn name(&self) -> &str {
        "t"
    }

    fn publish(&self, _: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        ready(Err(BusError::Closed)).boxed()
    }

    fn subscribe(&self, _: &str) -> Result<Box<dyn Subscription>, BusError> {
        Err(BusError::Closed)
    }

    fn follow(&self, group: &str) -> Result<Box<dyn TopicReader>, BusError> {
        assert_eq!(group, "live");
        let left = self.failures.load(Ordering::SeqCst);
        if left > 0 {
            self.failures.store(left - 1, Ordering::SeqCst);
            return Err(BusError::Unavailable("no threads".to_owned()));
        }
        match self.events.lock().take() {
            Some(events) => Ok(Box::new(ProbeReader(events))),
            None => Err(BusError::Closed),
        }
    }

    fn depth(&self) -> usize {
        0
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), BusError>> {
        ready(Ok(())).boxed()
    }
}

/// Books that record what they apply; the first batch fails.
#[derive(Clone, Default)]
struct ProbeBooks(Arc<Mutex<Vec<PositionedUpdate>>>);

impl Actor for ProbeBooks {
    type Context = Context<Self>;
}

impl Handler<InOrder<ApplyUpdates>> for ProbeBooks {
    type Result = ();

    fn handle(&mut self, batch: InOrder<ApplyUpdates>, _: &mut Context<Self>) {
        let mut applied = self.0.lock();
        if applied.is_empty() {
            drop(batch.done);
        } else {
            let _ = batch.done.send(Ok(()));
        }
        applied.extend(batch.message.0);
    }
}

fn record(offset: u64, payload: String) -> Record {
    Record {
        partition: 3,
        offset,
        published_at: None,
        record: NewRecord {
            key: "MATCH_001".into(),
            payload: payload.into(),
            headers: Vec::new(),
        },
    }
}

/// What was not committed at the start is applied before the follower counts as caught up;
/// unreadable records, failures and late books change nothing for later ones.
#[actix_web::test]
async fn follower_applies_held_then_published() {
    let (events, received) = mpsc::channel(9);
    let topic = Arc::new(ProbeTopic {
        events: Mutex::new(Some(received)),
        failures: AtomicUsize::new(1),
    });
    let books = ProbeBooks::default();
    let applied = books.0.clone();
    let metrics = OddsMetrics::new().unwrap();
    let follower = TopicFollower::new(
        topic,
        "live".to_owned(),
        books.start().recipient(),
        Plausibility::any_time(),
        metrics.clone(),
    );
    let caught_up = follower.caught_up();
    follower.start();
    let update = |version| update(1, 1, version);
    let held = vec![record(7, update(1).to_json())];
    events.send(ReadEvent::Held(held)).await.unwrap();
    until("held", || !applied.lock().is_empty()).await;
    assert!(!*caught_up.borrow());
    events.send(ReadEvent::CaughtUp).await.unwrap();
    until("caught up", || *caught_up.borrow()).await;
    let published = vec![
        record(8, "no json".to_owned()),
        record(9, update(2).to_json()),
    ];
    events.send(ReadEvent::Published(published)).await.unwrap();
    until("published", || applied.lock().len() == 2).await;
    let positions: Vec<_> = applied.lock().iter().map(|it| it.position).collect();
    assert_eq!(positions, [7, 9]);
    assert_eq!(metrics.followed.get(), 3);
    let refused = metrics
        .followed_refused
        .with_label_values(&["follower", "malformed"]);
    assert_eq!(refused.get(), 1);
}
