use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::*;
use crate::actors::settlement::testing::{House, home_won, other};
use crate::domain::settlement::testing::{by, cents};
use crate::store::money::OutboxStore;

#[test]
fn every_bet_is_paid_once() {
    let house = House::open();
    // More than a page and a batch, several of one user.
    let winners: Vec<_> = (0..7)
        .map(|number| house.confirmed(&format!("U{}", number % 3), "home"))
        .collect();
    let loser = house.confirmed("U9", "away");
    house.receive(home_won(1));
    assert_eq!(house.settle(), Some(Attempt::Finished));
    assert_eq!(house.settle(), None, "nothing more is due");
    for bet in &winners {
        assert_eq!(house.state(*bet), "won 2345");
    }
    assert_eq!(house.state(loser), "lost 0");
    assert_eq!(house.available("U0"), 5_000 + 3 * 1_345);
    assert_eq!(house.available("U9"), 4_000);
    house.receive(home_won(1));
    assert_eq!(house.settle(), None, "a known record changes nothing");
    house.assert_clean();
    let count = |outcome: &str| house.metrics.bets.with_label_values(&[outcome]).get();
    assert_eq!((count("won"), count("lost")), (7, 1));
    assert_eq!(house.metrics.paid_cents.get(), 7 * 2_345);
}

#[test]
fn settlements_are_published() {
    let house = House::open();
    let bet = house.confirmed("U", "home");
    house.receive(home_won(1));
    house.settle();
    house.receive(other("rollback_settlement", 2, json!({})));
    house.settle();
    let rows = house.published.lock();
    let payloads: Vec<Value> = rows
        .iter()
        .map(|row| serde_json::from_str(&row.payload).unwrap())
        .collect();
    let ts = &payloads[0]["ts"];
    assert_eq!(
        payloads,
        [
            json!({"betId": bet, "userId": "U", "status": "SETTLED", "outcome": "won", "payoutCents": 2345,
                "differenceCents": 2345, "n": 1, "ts": ts}),
            json!({"betId": bet, "userId": "U", "status": "CONFIRMED", "payoutCents": 0, "differenceCents": -2345,
                "n": 2, "ts": ts}),
        ]
    );
    // The rows are in the outbox, leased to this process.
    assert_eq!(house.store.outbox_depth().unwrap().rows, 2 + 2);
    assert!(rows.iter().all(|row| row.topic == OutboxTopic::Settled));
    assert_eq!(house.metrics.taken_back_cents.get(), 2_345);
}

#[test]
fn later_result_replaces_an_earlier_one() {
    let house = House::open();
    let bets: Vec<_> = (0..5)
        .map(|number| house.confirmed(&format!("U{number}"), "home"))
        .collect();
    house.receive(home_won(1));
    house.settle();
    house.receive(other("cancel", 2, json!({})));
    assert_eq!(house.settle(), Some(Attempt::Finished));
    for bet in &bets {
        assert_eq!(house.state(*bet), "void 1000");
    }
    house.receive(other("rollback_cancel", 3, json!({})));
    house.settle();
    assert_eq!(house.state(bets[4]), "won 2345");
    house.assert_clean();
}

/// A settlement that is interrupted after any number of pages goes on where it stopped.
#[test]
fn interrupted_settlement_goes_on() {
    let house = House::open();
    let bets: Vec<_> = (0..8)
        .map(|number| house.confirmed(&format!("U{number}"), "home"))
        .collect();
    house.receive(home_won(1));
    let mut attempts = 0;
    loop {
        let pages = std::cell::Cell::new(0);
        let stops_after_a_page = || pages.replace(pages.get() + 1) == 1;
        match house.settle_until(&stops_after_a_page) {
            Some(Attempt::Superseded) => attempts += 1,
            Some(Attempt::Finished) => break,
            other => panic!("{other:?}"),
        }
        house.assert_clean();
        // The lease of the process that stopped.
        house.wait(30);
    }
    assert!(attempts > 0);
    for bet in &bets {
        assert_eq!(house.state(*bet), "won 2345");
    }
}

#[test]
fn new_record_ends_a_settlement() {
    let house = House::open();
    let bet = house.confirmed("U", "home");
    house.receive(home_won(1));
    let settler = house.settler();
    let lease = settler.lease().unwrap().unwrap();
    house.receive(other("cancel", 2, json!({})));
    let attempt = settler.settle(&lease, &|_| {}, &|| false).unwrap();
    assert_eq!(attempt, Attempt::Superseded);
    assert_eq!(house.state(bet), "CONFIRMED");
    assert_eq!(house.settle(), Some(Attempt::Finished));
    assert_eq!(house.state(bet), "void 1000");
}

#[test]
fn market_with_pending_bets_stays_due() {
    let house = House::open();
    let confirmed = house.confirmed("U", "home");
    let pending = house.place("U", "home");
    house.receive(home_won(1));
    assert_eq!(house.settle(), Some(Attempt::Incomplete));
    assert_eq!(house.state(confirmed), "won 2345");
    assert_eq!(house.settle(), None, "it is tried again a moment later");
    house.confirm(pending);
    house.wait(1);
    assert_eq!(house.settle(), Some(Attempt::Finished));
    assert_eq!(house.state(pending), "won 2345");
}

#[test]
fn bet_confirmed_after_its_result_is_settled() {
    let house = House::open();
    house.confirmed("U", "home");
    house.receive(home_won(1));
    house.settle();
    let late = house.confirmed("U", "home");
    assert_eq!(house.settle(), None);
    let now = *house.now.lock();
    assert_eq!(house.store.reopen_markets(now, 10).unwrap(), 1);
    assert_eq!(house.settle(), Some(Attempt::Finished));
    assert_eq!(house.state(late), "won 2345");
}

#[test]
fn market_above_the_limit_waits_for_an_operator() {
    let mut house = House::open();
    house.settings.max_market = cents(4_689);
    let bets: Vec<_> = (0..2)
        .map(|number| house.confirmed(&format!("U{number}"), "home"))
        .collect();
    house.receive(home_won(1));
    assert_eq!(house.settle(), Some(Attempt::Finished));
    assert_eq!(house.state(bets[0]), "CONFIRMED");
    let backlog = house.store.settlement_backlog().unwrap();
    assert_eq!((backlog.held_markets, backlog.due_markets), (1, 0));
    house.receive(by("operator:Ann", home_won(2)));
    assert_eq!(house.settle(), Some(Attempt::Finished));
    assert_eq!(house.state(bets[0]), "won 2345");
    assert_eq!(house.store.settlement_backlog().unwrap().held_markets, 0);
    house.assert_clean();
}

/// The limit counts what was paid before.
#[test]
fn limit_counts_bets_that_are_settled() {
    let mut house = House::open();
    house.settings.max_market = cents(4_690);
    house.confirmed("A", "home");
    house.confirmed("B", "home");
    house.receive(home_won(1));
    assert_eq!(house.settle(), Some(Attempt::Finished));
    let late = house.confirmed("C", "home");
    house.store.reopen_markets(*house.now.lock(), 10).unwrap();
    house.settle();
    assert_eq!(house.state(late), "CONFIRMED", "7035 are above the limit");
    assert_eq!(house.store.settlement_backlog().unwrap().held_markets, 1);
}

#[test]
fn other_rules_settle_open_bets() {
    let mut house = House::open();
    house.settings.rules.sources = Default::default();
    let bet = house.confirmed("U", "home");
    house.receive(home_won(1));
    assert_eq!(house.settle(), Some(Attempt::Finished));
    assert_eq!(house.state(bet), "CONFIRMED", "nobody is trusted");
    house.settler().apply_rules().unwrap();
    assert_eq!(house.settle(), None, "the rules are the same");
    house.settings.rules = crate::domain::settlement::testing::rules();
    house.settler().apply_rules().unwrap();
    assert_eq!(house.settle(), Some(Attempt::Finished));
    assert_eq!(house.state(bet), "won 2345");
}

#[test]
fn contradiction_waits_for_an_operator() {
    let house = House::open();
    let bet = house.confirmed("U", "home");
    house.receive(home_won(1));
    house.receive(other(
        "settlement",
        1,
        json!({"selections": [{"id": "home", "result": "lost"}]}),
    ));
    assert_eq!(house.settle(), Some(Attempt::Finished));
    assert_eq!(house.state(bet), "CONFIRMED");
    let backlog = house.store.settlement_backlog().unwrap();
    assert_eq!((backlog.held_bets, backlog.conflicts), (1, 1));
    house.receive(home_won(2));
    house.settle();
    assert_eq!(house.state(bet), "won 2345");
    assert_eq!(house.store.settlement_backlog().unwrap().held_bets, 0);
}

#[test]
fn bets_on_unnamed_selections_are_counted() {
    let house = House::open();
    let stays = house.confirmed("U", "other");
    house.confirmed("V", "home");
    house.receive(home_won(1));
    house.settle();
    assert_eq!(house.state(stays), "CONFIRMED");
    assert_eq!(house.store.settlement_backlog().unwrap().missing_bets, 1);
}
