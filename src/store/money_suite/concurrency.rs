//! Checks with concurrent calls.

use std::collections::BTreeSet;
use std::sync::Barrier;

use pretty_assertions::assert_eq;

use super::*;

/// Runs `work` in several threads that start together; returns their results.
pub(crate) fn concurrently<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = &Barrier::new(threads);
    let work = &work;
    std::thread::scope(|scope| {
        let begin = |index| {
            scope.spawn(move || {
                barrier.wait();
                work(index)
            })
        };
        let threads: Vec<_> = (0..threads).map(begin).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

pub(crate) fn contended_wallet_never_goes_negative(store: &dyn MoneyStore) {
    const THREADS: usize = 64;
    store.deposit(&order("A", 100, "d")).unwrap();
    // 192 requests for 1 each compete for 100, in three ways; reserved money is committed.
    let outcomes = concurrently(THREADS, |index| {
        let withdrawn = store
            .withdraw(&order("A", 1, &format!("w{index}")))
            .map(|_| ());
        let text = format!("r{index}");
        let held = store.reserve(&order("A", 1, &text)).map(|_| ());
        if held.is_ok() {
            settle(store, "A", &text, HoldResolution::Commit).unwrap();
        }
        let bet = bet("A", bet_id(index as u128), 1);
        let placed = match place_bet(store, &bet, None, &notice("")).unwrap() {
            BetAnswer::Placed { new_balance, .. } => {
                assert!(new_balance >= 0);
                Ok(())
            }
            _ => Err(WalletError::InsufficientFunds),
        };
        [withdrawn, held, placed]
    });
    let done = outcomes
        .iter()
        .flatten()
        .filter(|outcome| outcome.is_ok())
        .count();
    let refused = outcomes
        .iter()
        .flatten()
        .filter(|outcome| **outcome == Err(WalletError::InsufficientFunds))
        .count();
    assert_eq!((done, refused), (100, 3 * THREADS - 100));
    let bets = store
        .bets(
            &user("A"),
            BetFilter::default(),
            Page {
                before: None,
                limit: 1_000,
            },
        )
        .unwrap()
        .len();
    assert_eq!(balances(store, "A"), (0, bets as i64));
}

pub(crate) fn concurrent_reference_is_one_movement(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    let deposits = concurrently(16, |_| store.deposit(&order("A", 10, "d2")).unwrap());
    assert!(
        deposits.iter().all(|wallet| *wallet == deposits[0]),
        "{deposits:?}"
    );
    let withdrawals = concurrently(16, |_| store.withdraw(&order("A", 10, "w")).unwrap());
    assert!(
        withdrawals.iter().all(|wallet| *wallet == withdrawals[0]),
        "{withdrawals:?}"
    );
    let held = concurrently(16, |_| store.reserve(&order("A", 10, "r")).unwrap());
    assert!(
        held.iter().all(|reservation| *reservation == held[0]),
        "{held:?}"
    );
    let ended = concurrently(16, |_| {
        store
            .settle(&user("A"), &reference("r"), HoldResolution::Commit, at(2))
            .unwrap()
    });
    assert!(
        ended.iter().all(|reservation| *reservation == ended[0]),
        "{ended:?}"
    );
    assert_eq!(
        (balances(store, "A"), transfers(store, "A").len()),
        ((990, 0), 5)
    );
}

pub(crate) fn concurrent_bet_key_is_one_bet(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    let key = key("k", "f");
    let answers = concurrently(100, |index| {
        // Each request has its own bet; only one of them becomes the answer.
        match place_bet(
            store,
            &bet("A", bet_id(index as u128), 7),
            Some(&key),
            &notice(""),
        )
        .unwrap()
        {
            BetAnswer::Placed {
                bet_id,
                price,
                new_balance,
                outbox,
            } => ((bet_id, price, new_balance), outbox),
            other => panic!("{other:?}"),
        }
    });
    assert!(
        answers.iter().all(|(answer, _)| *answer == answers[0].0),
        "{answers:?}"
    );
    assert_eq!(
        answers
            .iter()
            .filter(|(_, outbox)| outbox.is_some())
            .count(),
        1
    );
    assert_eq!(
        store
            .bets(
                &user("A"),
                BetFilter::default(),
                Page {
                    before: None,
                    limit: 10
                }
            )
            .unwrap()
            .len(),
        1
    );
    assert_eq!(reservations(store, "A").len(), 1);
    assert_eq!(
        (balances(store, "A"), store.outbox_depth().unwrap().rows),
        ((993, 7), 1)
    );

    // Without a wallet there is no row to lock, and the first answer must still be the only one.
    let refused = concurrently(16, |index| {
        if index % 2 == 0 {
            store.deposit(&order("B", 1_000, "d")).unwrap();
        }
        place_bet(
            store,
            &bet("B", bet_id(1_000 + index as u128), 7),
            Some(&key),
            &notice(""),
        )
        .unwrap()
    });
    let first = store.first_answer(&user("B"), &key).unwrap().unwrap();
    for answer in refused {
        match (&answer, &first) {
            (BetAnswer::Placed { bet_id, .. }, BetAnswer::Placed { bet_id: first, .. }) => {
                assert_eq!(bet_id, first)
            }
            _ => assert_eq!(answer, first),
        }
    }
}

pub(crate) fn one_of_commit_and_refund_wins(store: &dyn MoneyStore) {
    const RESERVATIONS: usize = 20;
    store.deposit(&order("A", 1_000, "d")).unwrap();
    for number in 0..RESERVATIONS {
        store.reserve(&order("A", 10, &number.to_string())).unwrap();
    }
    let outcomes = concurrently(6, |index| -> Vec<_> {
        let settlement = [
            HoldResolution::Commit,
            HoldResolution::Refund,
            HoldResolution::Expire,
        ][index % 3];
        (0..RESERVATIONS)
            .map(|number| settle(store, "A", &number.to_string(), settlement))
            .collect()
    });
    let mut committed = 0;
    for (number, held) in reservations(store, "A").iter().enumerate() {
        for outcome in outcomes.iter().map(|outcomes| &outcomes[number]) {
            let as_it_is = *outcome == Ok(held.status)
                || *outcome == Err(WalletError::AlreadySettled(held.status));
            assert!(as_it_is, "{held:?} {outcome:?}");
        }
        committed += i64::from(held.status == ReservationStatus::Committed);
    }
    assert_eq!(balances(store, "A"), (1_000 - 10 * committed, 0));
    assert_eq!(transfers(store, "A").len(), 1 + 2 * RESERVATIONS);
}

pub(crate) fn one_of_concurrent_decisions_wins(store: &dyn MoneyStore) {
    const BETS: u128 = 20;
    delivery::placed(store, BETS);
    let outcomes = concurrently(6, |index| -> Vec<_> {
        let outcome = [confirmed(), rejected(), BetOutcome::TimedOut][index % 3].clone();
        (0..BETS)
            .map(|number| {
                store
                    .decide_bet(bet_id(number), &outcome, &notice(""), at(1))
                    .unwrap()
            })
            .collect()
    });
    for number in 0..BETS {
        let mine: Vec<_> = outcomes
            .iter()
            .map(|outcomes| outcomes[number as usize])
            .collect();
        let status = store.bet(bet_id(number)).unwrap().unwrap().status;
        assert_eq!(
            mine.iter()
                .filter(|decided| matches!(decided, Decided::Now { .. }))
                .count(),
            1,
            "{mine:?}"
        );
        assert_eq!(
            mine.iter()
                .filter(|decided| **decided == Decided::Before(status))
                .count(),
            5,
            "{mine:?}"
        );
        assert_eq!(store.bet_history(bet_id(number)).unwrap().len(), 2);
    }
    assert_eq!(store.outbox_depth().unwrap().rows, 2 * BETS as u64);
}

pub(crate) fn concurrent_first_deposits_create_one_wallet(store: &dyn MoneyStore) {
    let wallets: BTreeSet<_> = concurrently(16, |index| {
        store
            .deposit(&order("A", 1, &index.to_string()))
            .unwrap()
            .wallet_id
    })
    .into_iter()
    .collect();
    assert_eq!((wallets.len(), balances(store, "A")), (1, (16, 0)));
}

pub(crate) fn concurrent_takers_share_the_outbox(store: &dyn MoneyStore) {
    let rows = delivery::placed(store, 60);
    for number in 0..60 {
        store
            .decide_bet(bet_id(number), &BetOutcome::TimedOut, &notice(""), at(1))
            .unwrap();
    }
    let taken = concurrently(6, |_| {
        let mut rows = Vec::new();
        let mut cancels = Vec::new();
        // Rows locked by another taker are skipped, so an empty result does not mean the end.
        for _ in 0..30 {
            rows.extend(
                store
                    .take_outbox(at(5), at(9), 7)
                    .unwrap()
                    .into_iter()
                    .map(|row| row.id),
            );
            cancels.extend(
                store
                    .take_cancels(at(5), at(9), 7)
                    .unwrap()
                    .into_iter()
                    .map(|cancel| cancel.bet_id),
            );
        }
        (rows, cancels)
    });
    let (all_rows, cancels): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
    let all_rows = all_rows.concat();
    let cancels = cancels.concat();
    assert_eq!((all_rows.len(), cancels.len()), (2 * rows.len(), 60));
    assert_eq!(
        all_rows.into_iter().collect::<BTreeSet<_>>().len(),
        2 * rows.len()
    );
    assert_eq!(cancels.into_iter().collect::<BTreeSet<_>>().len(), 60);
}

/// Random operations on a few users, references and bets, so that they collide. Whatever the
/// answers, the rules hold during and after the run.
pub(crate) fn random_concurrent_operations_keep_the_rules(store: &dyn MoneyStore) {
    const USERS: [&str; 2] = ["A", "B"];
    let deposited: i64 = 2 * 50;
    for name in USERS {
        store.deposit(&order(name, 50, "start")).unwrap();
    }
    let moved = concurrently(8, |thread| {
        let mut random = fastrand::Rng::with_seed(thread as u64);
        for step in 0..60 {
            let name = random.choice(USERS).unwrap();
            let text = random.u8(0..12).to_string();
            let number = random.u128(0..8) + if name == "A" { 0 } else { 100 };
            match random.u8(0..8) {
                0 => drop(store.deposit(&order(name, 1, &text)).unwrap()),
                1 => drop(store.withdraw(&order(name, 5, &text))),
                2 => drop(store.reserve(&order(name, 10, &text))),
                3 => drop(settle(store, name, &text, HoldResolution::Commit)),
                4 => drop(settle(store, name, &text, HoldResolution::Refund)),
                5 => drop(place_bet(
                    store,
                    &bet(name, bet_id(number), 7),
                    Some(&key(&text, "f")),
                    &notice(""),
                )),
                6 => {
                    let outcome = random
                        .choice([confirmed(), rejected(), BetOutcome::TimedOut])
                        .unwrap();
                    store
                        .decide_bet(bet_id(number), &outcome, &notice(""), at(1))
                        .unwrap();
                }
                _ => drop(store.expire_reservations(at(1), 3, at(2)).unwrap()),
            }
            if step % 20 == 0 {
                assert_clean(store);
            }
        }
        thread
    });
    assert_eq!(moved.len(), 8);
    let mut total = 0;
    for name in USERS {
        let (available, reserved) = balances(store, name);
        assert!(available >= 0 && reserved >= 0);
        total += available + reserved;
        for transfer in transfers(store, name) {
            total -= match transfer.kind.as_str() {
                "deposit" if transfer.reference.as_str() != "start" => transfer.amount.cents(),
                "withdraw" | "commit" => -transfer.amount.cents(),
                _ => 0,
            };
        }
    }
    assert_eq!(total, deposited);
}
