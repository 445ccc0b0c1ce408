//! A platform in separate processes, with two clients and a user who bets all the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::QUIET;
use super::bet_supplier::BetSupplier;
use super::bettor::Bettor;
use super::viewer::Viewer;
use crate::support::{Cluster, DEADLINE, ServerProcess, get_json, until};

/// How many bets on each event must be refused while its price is not trusted.
const REFUSED: usize = 10;

/// What clients see of a failure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The source is lost: its markets are suspended and stale.
    Source,
    /// An engine is away: all prices may be stale, or the source is lost.
    Engine,
}

/// The processes except `ingest`, and those who watch them.
pub struct Scene {
    pub cluster: Cluster,
    pub viewers: [Viewer; 2],
    pub bettor: Bettor,
    pub supplier: BetSupplier,
    events: Vec<String>,
    processor: ServerProcess,
    odds: ServerProcess,
    money: ServerProcess,
}

impl Scene {
    /// Starts everything except `ingest`.
    pub async fn start(variables: &[(&str, &str)], events: &[&str]) -> Scene {
        let cluster = Cluster::new(1, variables).await;
        Scene::start_in(cluster, events).await
    }

    /// Starts `ingest`, and waits until its source is reported and every market is open.
    pub async fn start_ingest(&self) -> ServerProcess {
        let started = Instant::now();
        let ingest = self.cluster.start("ingest").await;
        self.until_open("start", started).await;
        self.until_reported().await;
        ingest
    }

    async fn start_in(mut cluster: Cluster, events: &[&str]) -> Scene {
        let events: Vec<String> = events.iter().map(|event| (*event).to_owned()).collect();
        let supplier = BetSupplier::start();
        cluster.set("SUPPLIER_URL", supplier.url());
        let processor = cluster.start("processor").await;
        let (odds, money) = tokio::join!(
            cluster.start("odds"),
            cluster.start("bets,wallet,confirmation")
        );
        let viewers = [
            Viewer::plain(odds.odds(), &events).await,
            Viewer::extended(odds.odds(), &events).await,
        ];
        let bettor = Bettor::start(&odds, &money, &events).await;
        Scene {
            cluster,
            viewers,
            bettor,
            supplier,
            events,
            processor,
            odds,
            money,
        }
    }

    /// Kills every process, and starts them again.
    pub async fn restart(self) -> Scene {
        let Scene {
            cluster,
            events,
            processor,
            odds,
            money,
            ..
        } = self;
        for mut process in [processor, odds, money] {
            process.kill().await;
        }
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        Scene::start_in(cluster, &events).await
    }

    /// Waits until both clients and REST show that no price is trusted, and until bets on each event
    /// were answered since the clients know. Returns when the clients know.
    pub async fn until_lost(&self, what: &str, since: Instant, fault: Fault) -> Instant {
        let is_known = |viewer: &Viewer| match fault {
            Fault::Source => viewer.shows_lost(&self.events),
            Fault::Engine => viewer.shows_distrust(&self.events),
        };
        self.until_shown(&format!("{what}: clients know"), is_known)
            .await;
        let known = Instant::now();
        self.until_rest(&format!("{what}: REST knows"), |odds| {
            odds["stale"] == true && (fault == Fault::Engine || odds["status"] == "suspended")
        })
        .await;
        let rest_knows = Instant::now();
        self.until_tried(known, REFUSED).await;
        let before = self.bettor.since(since);
        let last = before
            .iter()
            .rfind(|attempt| attempt.is_accepted())
            .map(|attempt| attempt.sent - since);
        eprintln!(
            "{what}: clients know after {:.2?}, REST after {:.2?}; last bet accepted after {last:.2?}; answers since clients know: {:?}",
            known - since,
            rest_knows - since,
            self.bettor.answers(known)
        );
        known
    }

    /// Waits until both clients and REST show every market as open, and a bet on each is accepted.
    /// Returns when the clients see it.
    pub async fn until_open(&self, what: &str, since: Instant) -> Instant {
        self.until_open_of(what, since, &self.events).await
    }

    /// Waits until a report about the source has arrived: one that was never reported is judged by
    /// its updates alone.
    async fn until_reported(&self) {
        until("the source is reported", || async {
            let live = "odds_proc_sources{state=\"live\"}";
            let count = self.processor.metric("processor", live).await;
            count.filter(|count| *count >= 1.0)
        })
        .await;
    }

    /// The same for some of the events.
    pub async fn until_open_of(&self, what: &str, since: Instant, events: &[String]) -> Instant {
        self.until_shown(&format!("{what}: clients see open markets"), |viewer| {
            viewer.shows_open(events)
        })
        .await;
        let known = Instant::now();
        for event in events {
            let url = self.url(event);
            until(&format!("{what}: REST shows open markets"), || async {
                let (_, odds) = get_json(&url).await;
                (odds[0]["status"] == "open" && odds[0]["stale"] != true).then_some(())
            })
            .await;
            until(&format!("{what}: a bet on {event}"), || async {
                let bets = self.bettor.since(since);
                let is_accepted = bets
                    .iter()
                    .any(|bet| bet.event == *event && bet.is_accepted());
                is_accepted.then_some(())
            })
            .await;
        }
        eprintln!(
            "{what}: clients see open markets after {:.2?}, bets are accepted after {:.2?}",
            known - since,
            since.elapsed()
        );
        known
    }

    /// Waits until this many bets on each event were tried since a moment.
    pub async fn until_tried(&self, since: Instant, wanted: usize) {
        until(&format!("{wanted} bets on each event"), || async {
            let mut tried: BTreeMap<String, usize> = BTreeMap::new();
            for bet in self.bettor.since(since) {
                *tried.entry(bet.event).or_default() += 1;
            }
            let is_tried = |event| tried.get(event).is_some_and(|count| *count >= wanted);
            self.events.iter().all(is_tried).then_some(())
        })
        .await;
    }

    /// Waits until what both clients show satisfies a condition.
    pub async fn until_shown(&self, what: &str, wanted: impl Fn(&Viewer) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !self.viewers.iter().all(&wanted) {
            let shown = || self.viewers.each_ref().map(Viewer::describe).join("\n");
            assert!(
                Instant::now() < deadline,
                "timed out after {DEADLINE:?}: {what}\n{}\n{:?}",
                shown(),
                self.bettor.answers(deadline - DEADLINE)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until what REST shows of every market satisfies a condition.
    async fn until_rest(&self, what: &str, wanted: impl Fn(&Value) -> bool) {
        for event in &self.events {
            let url = self.url(event);
            until(what, || async {
                let (status, odds) = get_json(&url).await;
                (status == 200 && wanted(&odds[0])).then_some(())
            })
            .await;
        }
    }

    /// Panics if the quiet market was shown in another way than before, or refused a bet.
    pub async fn check_quiet(&self, what: &str, since: Instant) {
        self.until_tried(Instant::now(), 10).await;
        let mut bets = self.bettor.since(since);
        bets.retain(|bet| bet.event == QUIET);
        let refused: Vec<_> = bets
            .iter()
            .filter(|bet| !bet.is_accepted())
            .map(|bet| (bet.sent - since, &bet.answer))
            .collect();
        for viewer in &self.viewers {
            assert_eq!(viewer.history(QUIET, since), [], "{what}; {refused:?}");
        }
        assert!(refused.is_empty(), "{what}: {refused:?}");
        eprintln!(
            "{what}: all {} bets on the quiet market are accepted",
            bets.len()
        );
        self.check();
    }

    fn url(&self, event: &str) -> String {
        format!("http://{}/v1/events/{event}/odds", self.odds.odds())
    }

    /// Panics if a client saw a violation of the protocol.
    pub fn check(&self) {
        self.viewers.iter().for_each(Viewer::check);
    }
}
