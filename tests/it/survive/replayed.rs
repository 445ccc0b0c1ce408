//! The same updates replayed, reordered, duplicated, and mixed with garbage lead to the same state.

mod state;
mod updates;

use std::collections::{BTreeMap, BTreeSet};

use pretty_assertions::assert_eq;

use self::state::{Broadcasts, State, SubscribedClient};
use self::updates::{Garbage, Scenario};
use crate::support::{Cluster, KeyAndPayload, OddsTopic, ServerProcess, records};

const EVENTS: usize = 40;
const UPDATES: usize = 4_000;

/// A processor and an odds role with a private topic.
struct Pair {
    cluster: Cluster,
    topic: OddsTopic,
}

impl Pair {
    async fn new() -> Pair {
        let cluster = Cluster::new(1, &[]).await;
        let topic = OddsTopic::make(&cluster.folder).await;
        Pair { cluster, topic }
    }

    /// Starts a processor with this group name prefix, and waits until its groups have processed
    /// everything.
    async fn process(&self, groups: &str) -> ServerProcess {
        let live = format!("{}-live-{groups}", self.topic.name);
        let store = format!("{}-store-{groups}", self.topic.name);
        let mut all: Vec<_> = self
            .cluster
            .variables()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        all.extend([
            ("KAFKA_GROUP_LIVE", live.as_str()),
            ("KAFKA_GROUP_STORE", &store),
            ("ROLE", "processor"),
        ]);
        let processor = ServerProcess::start(self.cluster.folder.path(), &all).await;
        processor.until_ready().await;
        self.done(groups).await;
        processor
    }

    async fn done(&self, groups: &str) {
        self.topic
            .until_done(&format!("{}-store-{groups}", self.topic.name))
            .await;
        self.topic
            .until_done(&format!("{}-live-{groups}", self.topic.name))
            .await;
    }

    fn state(&self) -> State {
        State::of(&self.cluster.folder)
    }

    fn dead_letters(&self) -> Vec<sports_bet_platform::bus::Record> {
        let brokers = self
            .cluster
            .folder
            .sandbox()
            .value("KAFKA_BROKERS")
            .unwrap();
        records(brokers, &format!("{}_dlq", self.topic.name))
    }
}

async fn stop(mut processor: ServerProcess) {
    processor.signal("TERM").await;
    assert!(processor.ended().await.success(), "{}", processor.log());
}

/// Reading the whole topic again changes no state, and publishes nothing old.
#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn replaying_the_topic_publishes_nothing_old() {
    let scenario = Scenario::new(EVENTS, UPDATES);
    let pair = Pair::new().await;
    let odds = pair.cluster.start_at_once("odds").await;
    pair.topic.publish(scenario.records()).await;
    let first = pair.process("first").await;
    let state = pair.state();
    assert_eq!(state.without_seq(), scenario.state());
    assert_eq!(state.history, scenario.history());
    state.assert_cache_agrees();

    odds.until_ready().await;
    let mut client = SubscribedClient::everything(&odds, &scenario).await;
    stop(first).await;

    // The same database, the same Redis, and new groups that start at the beginning of the topic.
    let mut broadcasts = Broadcasts::of(&pair.cluster.folder);
    let again = pair.process("again").await;
    assert_eq!(pair.state(), state);
    let marks = scenario.marks(1);
    pair.topic.publish(marks.clone()).await;
    pair.done("again").await;
    client.until_marked(&marks).await;
    // Redis held all of it already: only the marks are published.
    broadcasts.until_marked(&marks);
    assert_eq!(broadcasts.received().len(), marks.len());
    assert_eq!(client.updates, marks.len());
    let state = pair.state();
    stop(again).await;

    // Redis has lost everything.
    state::flush(&pair.cluster.folder);
    let mut broadcasts = Broadcasts::of(&pair.cluster.folder);
    let fresh = pair.process("fresh").await;
    assert_eq!(pair.state(), state);
    let marks = scenario.marks(2);
    pair.topic.publish(marks.clone()).await;
    pair.done("fresh").await;
    client.until_marked(&marks).await;
    broadcasts.until_marked(&marks);
    // Only states that the markets have or had at the end are published, each at most once.
    let changes = broadcasts.received();
    assert_eq!(
        changes.iter().collect::<BTreeSet<_>>().len(),
        changes.len(),
        "a change was published twice"
    );
    let known: BTreeSet<_> = state.books().chain(pair.state().books()).collect();
    for one in changes {
        assert!(
            known.contains(one),
            "published, but never the state of its market: {one:?}"
        );
    }
    println!(
        "{} updates read three times; {} changes published after the flush",
        UPDATES,
        changes.len()
    );
    assert_eq!(pair.dead_letters().len(), 0);
    stop(fresh).await;
}

/// Updates shuffled across events, duplicated, and mixed with garbage lead to the same state.
#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn shuffled_duplicated_topic_gives_same_state() {
    let scenario = Scenario::new(EVENTS, UPDATES);
    let garbage = Garbage::among(UPDATES * 2 / 100);

    let shuffled = Pair::new().await;
    shuffled.topic.publish(scenario.shuffled(1)).await;
    stop(shuffled.process("one").await).await;
    let state = shuffled.state();
    assert_eq!(state.without_seq(), scenario.state());
    assert_eq!(state.history, scenario.history());
    state.assert_cache_agrees();
    assert_eq!(shuffled.dead_letters().len(), 0);

    let spoilt = Pair::new().await;
    let all = garbage.scattered_into(scenario.duplicated(2, UPDATES / 10));
    assert_eq!(all.len(), UPDATES + UPDATES / 10 + garbage.records.len());
    spoilt.topic.publish(all).await;
    stop(spoilt.process("one").await).await;
    let with_garbage = spoilt.state();
    assert_eq!(with_garbage.without_seq(), state.without_seq());
    assert_eq!(with_garbage.history, state.history);
    assert_eq!(with_garbage.hot(), state.hot());
    with_garbage.assert_cache_agrees();

    assert_dead_letters(&spoilt, &garbage);
    println!(
        "{} dead letters of {} records",
        garbage.records.len(),
        UPDATES * 112 / 100
    );
}

/// Exactly the garbage is there, each record once and unchanged, with its position and reason.
fn assert_dead_letters(pair: &Pair, garbage: &Garbage) {
    let brokers = pair
        .cluster
        .folder
        .sandbox()
        .value("KAFKA_BROKERS")
        .unwrap();
    let letters = pair.dead_letters();
    let count = |all: &mut dyn Iterator<Item = KeyAndPayload>| {
        let mut counted: BTreeMap<KeyAndPayload, usize> = BTreeMap::new();
        all.for_each(|one| *counted.entry(one).or_default() += 1);
        counted
    };
    let record = |record: &sports_bet_platform::bus::Record| {
        (record.record.key.to_vec(), record.record.payload.to_vec())
    };
    let wanted = count(&mut garbage.records.iter().map(|(record, _)| record.clone()));
    assert_eq!(count(&mut letters.iter().map(record)), wanted);

    let sources: BTreeMap<_, _> = records(brokers, &pair.topic.name)
        .into_iter()
        .map(|one| ((one.partition, one.offset), record(&one)))
        .collect();
    let reasons: BTreeMap<_, _> = garbage.records.iter().cloned().collect();
    let mut places = BTreeSet::new();
    for letter in &letters {
        let header = |name: &str| {
            letter
                .header(name)
                .unwrap_or_else(|| panic!("no header {name}: {letter:?}"))
        };
        assert_eq!(header("reason"), reasons[&record(letter)], "{letter:?}");
        assert_eq!(header("source_topic"), pair.topic.name);
        let place = (
            header("source_partition").parse().unwrap(),
            header("source_offset").parse().unwrap(),
        );
        assert_eq!(sources[&place], record(letter), "{place:?}");
        assert!(places.insert(place), "twice: {place:?}");
        let at: sports_bet_platform::domain::timestamp::Timestamp =
            header("received_at").parse().unwrap();
        assert!(at <= sports_bet_platform::domain::timestamp::Timestamp::now());
        assert!(!header("detail").is_empty());
    }
}
