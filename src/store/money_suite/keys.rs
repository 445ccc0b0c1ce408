//! Checks of the idempotency keys of wallet requests.

use std::collections::BTreeSet;

use pretty_assertions::assert_eq;

use super::concurrency::concurrently;
use super::*;
use crate::store::movements::{Moved, Movement};

fn deposit(name: &str, cents: i64, text: &str) -> Movement {
    Movement::Deposit(order(name, cents, text))
}

fn withdraw(name: &str, cents: i64, text: &str) -> Movement {
    Movement::Withdraw(order(name, cents, text))
}

fn reserve(name: &str, cents: i64, text: &str) -> Movement {
    Movement::Reserve(order(name, cents, text))
}

fn end(name: &str, text: &str, settlement: HoldResolution) -> Movement {
    Movement::Settle {
        user_id: user(name),
        reference: reference(text),
        settlement,
        at: at(7),
    }
}

pub(crate) fn wallet_key_gets_its_first_answer(store: &dyn MoneyStore) {
    // Each request is repeated after all others, some with a new reference: a client that sends no
    // reference gets a new one for each request.
    let requests = [
        (deposit("A", 500, "d1"), deposit("A", 500, "d1 again")),
        (withdraw("A", 30, "w1"), withdraw("A", 30, "w1 again")),
        (reserve("A", 20, "r1"), reserve("A", 20, "r1")),
        (reserve("A", 10, "r2"), reserve("A", 10, "r2")),
        (
            end("A", "r1", HoldResolution::Commit),
            end("A", "r1", HoldResolution::Commit),
        ),
        (
            end("A", "r2", HoldResolution::Refund),
            end("A", "r2", HoldResolution::Refund),
        ),
    ];
    let key_of = |number: usize| key(&format!("k{number}"), "f");
    let mut first = Vec::new();
    for (number, (once, _)) in requests.iter().enumerate() {
        first.push(store.apply_once(once, &key_of(number)).unwrap());
    }
    let after = (
        store.wallet(&user("A")).unwrap(),
        transfers(store, "A"),
        reservations(store, "A"),
    );
    for (number, (_, again)) in requests.iter().enumerate() {
        assert_eq!(
            store.apply_once(again, &key_of(number)),
            Ok(first[number].clone()),
            "{again:?}"
        );
        let other = key(&format!("k{number}"), "another request");
        assert_eq!(
            store.apply_once(again, &other),
            Err(WalletError::KeyReused),
            "{again:?}"
        );
    }
    assert_eq!(
        (
            store.wallet(&user("A")).unwrap(),
            transfers(store, "A"),
            reservations(store, "A")
        ),
        after
    );
    assert_eq!(
        (balances(store, "A"), transfers(store, "A").len()),
        ((450, 0), 6)
    );
    // The answer as it was given, not the current state.
    let Moved::Reservation(held) = &first[2] else {
        panic!("{first:?}")
    };
    assert_eq!(
        (held.status, held.created_at, held.settled_at),
        (ReservationStatus::Pending, at(0), None)
    );
    let Moved::Reservation(ended) = &first[4] else {
        panic!("{first:?}")
    };
    assert_eq!(
        (ended.status, ended.settled_at),
        (ReservationStatus::Committed, Some(at(7)))
    );
}

pub(crate) fn wallet_key_keeps_a_rejection(store: &dyn MoneyStore) {
    let nobody = store.apply_once(&withdraw("A", 1, "w"), &key("k", "f"));
    assert_eq!(nobody, Err(WalletError::WalletNotFound));
    store.deposit(&order("A", 100, "d")).unwrap();
    assert_eq!(
        store.apply_once(&withdraw("A", 1, "w"), &key("k", "f")),
        Err(WalletError::WalletNotFound)
    );
    let poor = [withdraw("A", 101, "w2"), reserve("A", 101, "r2")];
    for movement in &poor {
        assert_eq!(
            store.apply_once(movement, &key("poor", "f")),
            Err(WalletError::InsufficientFunds)
        );
    }
    store.deposit(&order("A", 1_000, "d2")).unwrap();
    for movement in &poor {
        assert_eq!(
            store.apply_once(movement, &key("poor", "f")),
            Err(WalletError::InsufficientFunds)
        );
        assert!(store.apply_once(movement, &key("rich", "f")).is_ok());
    }
    let most = deposit("A", i64::MAX, "d3");
    for _ in 0..2 {
        assert_eq!(
            store.apply_once(&most, &key("most", "f")),
            Err(WalletError::BalanceTooHigh)
        );
        let other = store.apply_once(&deposit("A", 1, "d"), &key("other amount", "f"));
        assert_eq!(other, Err(WalletError::IdempotencyConflict));
        let none = store.apply_once(&end("A", "none", HoldResolution::Commit), &key("none", "f"));
        assert_eq!(none, Err(WalletError::ReservationNotFound));
    }
    store
        .apply(&end("A", "r2", HoldResolution::Refund))
        .unwrap();
    for _ in 0..2 {
        let late = store.apply_once(&end("A", "r2", HoldResolution::Commit), &key("late", "f"));
        assert_eq!(
            late,
            Err(WalletError::AlreadySettled(ReservationStatus::Refunded))
        );
    }
    place_bet(store, &bet("A", bet_id(1), 5), None, &notice("")).unwrap();
    for _ in 0..2 {
        let held = store.apply_once(
            &end("A", &bet_id(1).to_string(), HoldResolution::Refund),
            &key("bet", "f"),
        );
        assert_eq!(held, Err(WalletError::HeldByBet));
    }
    assert_eq!(balances(store, "A"), (994, 5));
}

pub(crate) fn wallet_keys_do_not_collide(store: &dyn MoneyStore) {
    for name in ["A", "B"] {
        store
            .apply_once(&deposit(name, 100, "x"), &key("k", "f"))
            .unwrap();
        store
            .apply_once(&withdraw(name, 10, "x"), &key("k", "f"))
            .unwrap();
        store
            .apply_once(&reserve(name, 5, "x"), &key("k", "f"))
            .unwrap();
        store
            .apply_once(&end(name, "x", HoldResolution::Commit), &key("k", "f"))
            .unwrap();
        let refund = store.apply_once(&end(name, "x", HoldResolution::Refund), &key("k", "f"));
        assert_eq!(
            refund,
            Err(WalletError::AlreadySettled(ReservationStatus::Committed))
        );
        let placed = place_bet(
            store,
            &bet(name, BetId::new(), 5),
            Some(&key("k", "f")),
            &notice(""),
        )
        .unwrap();
        assert!(
            matches!(
                placed,
                BetAnswer::Placed {
                    outbox: Some(_),
                    ..
                }
            ),
            "{placed:?}"
        );
        assert_eq!(balances(store, name), (80, 5));
    }
    // Keys are case-sensitive.
    store
        .apply_once(&deposit("A", 100, "y"), &key("K", "f"))
        .unwrap();
    assert_eq!(balances(store, "A"), (180, 5));
}

pub(crate) fn wallet_key_and_reference_work_together(store: &dyn MoneyStore) {
    let first = store.apply(&deposit("A", 100, "d")).unwrap();
    // Another key with the same reference is the same movement.
    assert_eq!(
        store.apply_once(&deposit("A", 100, "d"), &key("k1", "f")),
        Ok(first.clone())
    );
    assert_eq!(
        store.apply_once(&deposit("A", 100, "d"), &key("k2", "f")),
        Ok(first.clone())
    );
    // A request without a key finds the movement made with one.
    let second = store
        .apply_once(&deposit("A", 7, "d2"), &key("k3", "f"))
        .unwrap();
    assert_eq!(store.apply(&deposit("A", 7, "d2")), Ok(second));
    assert_eq!(
        (balances(store, "A"), transfers(store, "A").len()),
        ((107, 0), 2)
    );
}

/// 16 concurrent requests, each with its own reference, as from a client that sends none; also for
/// a user without a wallet.
pub(crate) fn concurrent_wallet_key_is_one_movement(store: &dyn MoneyStore) {
    let same = |movement: fn(usize) -> Movement| {
        let key = key("k", "f");
        let answers = concurrently(16, |index| store.apply_once(&movement(index), &key));
        let mut different = Vec::new();
        for answer in answers {
            if !different.contains(&answer) {
                different.push(answer);
            }
        }
        assert_eq!(different.len(), 1, "{different:?}");
        different.remove(0)
    };
    same(|index| deposit("A", 100, &format!("d{index}"))).unwrap();
    same(|index| withdraw("A", 30, &format!("w{index}"))).unwrap();
    same(|_| reserve("A", 20, "r")).unwrap();
    same(|_| end("A", "r", HoldResolution::Commit)).unwrap();
    assert_eq!(
        (balances(store, "A"), transfers(store, "A").len()),
        ((50, 0), 4)
    );
    let refused = same(|index| withdraw("B", 1, &format!("w{index}")));
    assert_eq!(refused, Err(WalletError::WalletNotFound));
    // Two different requests with the same key at the same time: only one of them is executed.
    let one = key("mixed", "one");
    let other = key("mixed", "other");
    let answers = concurrently(16, |index| {
        let cents = if index % 2 == 0 { 1 } else { 2 };
        store.apply_once(
            &deposit("A", cents, &format!("m{index}")),
            if index % 2 == 0 { &one } else { &other },
        )
    });
    let done: BTreeSet<_> = answers
        .iter()
        .enumerate()
        .filter(|(_, answer)| answer.is_ok())
        .map(|(i, _)| i % 2)
        .collect();
    let reused = answers
        .iter()
        .filter(|answer| **answer == Err(WalletError::KeyReused))
        .count();
    assert_eq!((done.len(), reused, transfers(store, "A").len()), (1, 8, 5));
}
