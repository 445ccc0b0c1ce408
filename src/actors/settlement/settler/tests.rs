use std::time::Duration;

use pretty_assertions::assert_eq;
use serde_json::json;

use super::*;
use crate::actors::settlement::testing::{House, home_won, other};
use crate::testing::until;

/// Collects what is passed to the outbox relay.
struct ProbeRelay(tokio::sync::mpsc::UnboundedSender<usize>);

impl Actor for ProbeRelay {
    type Context = Context<Self>;
}

impl Handler<PublishOutbox> for ProbeRelay {
    type Result = ();

    fn handle(&mut self, rows: PublishOutbox, _: &mut Context<Self>) {
        let _ = self.0.send(rows.0.len());
    }
}

fn start(house: &House) -> (Addr<Settler>, tokio::sync::mpsc::UnboundedReceiver<usize>) {
    let (sender, received) = tokio::sync::mpsc::unbounded_channel();
    let limits = SettlerLimits {
        at_once: 2,
        drain_limit: Duration::from_secs(5),
    };
    let settler = Settler::new(
        house.settler(),
        house.store.clone(),
        ProbeRelay(sender).start().recipient(),
        limits,
        house.clock(),
        house.metrics.clone(),
    );
    (settler.start(), received)
}

#[actix_web::test]
async fn due_markets_are_settled_at_start_and_when_results_arrive() {
    let house = House::open();
    let bet = house.confirmed("U", "home");
    house.receive(home_won(1));
    let (settler, mut published) = start(&house);
    assert_eq!(published.recv().await, Some(1));
    assert_eq!(house.state(bet), "won 2345");
    let timed = |markets| {
        let seconds = house.metrics.market_seconds.clone();
        move || seconds.get_sample_count() == markets
    };
    until("the market is settled", timed(1)).await;
    house.receive(other("cancel", 2, json!({})));
    settler.send(ResultsStored).await.unwrap();
    assert_eq!(published.recv().await, Some(1));
    assert_eq!(house.state(bet), "void 1000");
    until("the market is settled again", timed(2)).await;
}

#[actix_web::test]
async fn late_bets_are_settled() {
    let house = House::open();
    house.confirmed("U", "home");
    house.receive(home_won(1));
    let (_settler, mut published) = start(&house);
    assert_eq!(published.recv().await, Some(1));
    let late = house.confirmed("U", "away");
    assert_eq!(published.recv().await, Some(1));
    assert_eq!(house.state(late), "lost 0");
}

#[actix_web::test]
async fn backlog_is_reported() {
    let mut house = House::open();
    house.settings.max_market = crate::domain::settlement::testing::cents(1);
    house.confirmed("U", "home");
    house.receive(home_won(1));
    let (_settler, _published) = start(&house);
    until("the market is held", || {
        house.metrics.held_markets.get() == 1 && house.metrics.due_markets.get() == 0
    })
    .await;
}

#[actix_web::test]
async fn drained_settler_starts_nothing() {
    let house = House::open();
    let bet = house.confirmed("U", "home");
    let (settler, _published) = start(&house);
    settler.send(Drain).await.unwrap();
    house.receive(home_won(1));
    settler.send(ResultsStored).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(house.state(bet), "CONFIRMED");
}
