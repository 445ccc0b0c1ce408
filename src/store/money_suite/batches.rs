//! Checks of batched calls.

use pretty_assertions::assert_eq;

use super::concurrency::concurrently;
use super::*;

pub(super) fn placement(
    name: &str,
    number: u128,
    cents: i64,
    key: Option<RequestKey>,
) -> BetPlacement {
    BetPlacement {
        bet: bet(name, bet_id(number), cents),
        source: source(),
        key,
        notice: notice("{}"),
    }
}

fn decision(number: u128, outcome: BetOutcome) -> DecideBet {
    DecideBet {
        bet_id: bet_id(number),
        outcome,
        notice: notice("{}"),
        at: at(1),
    }
}

/// Places bets like the platform: bets without an answer from the batch are placed one by one.
pub(super) fn place(store: &dyn MoneyStore, placements: &[BetPlacement]) -> Vec<BetAnswer> {
    let answers = store.place_bets(placements).unwrap();
    assert_eq!(answers.len(), placements.len());
    let alone = |placement: &BetPlacement| store.place_bet(placement).unwrap();
    answers
        .into_iter()
        .zip(placements)
        .map(|(answer, placement)| answer.unwrap_or_else(|| alone(placement)))
        .collect()
}

fn decide(store: &dyn MoneyStore, decisions: &[DecideBet]) -> Vec<Decided> {
    let answers = store.decide_bets(decisions).unwrap();
    assert_eq!(answers.len(), decisions.len());
    let alone =
        |DecideBet {
             bet_id,
             outcome,
             notice,
             at,
         }: &DecideBet| { store.decide_bet(*bet_id, outcome, notice, *at).unwrap() };
    answers
        .into_iter()
        .zip(decisions)
        .map(|(answer, decision)| answer.unwrap_or_else(|| alone(decision)))
        .collect()
}

pub(crate) fn batched_bets_get_their_own_answers(store: &dyn MoneyStore) {
    assert_eq!(store.place_bets(&[]), Ok(Vec::new()));
    for (name, cents) in [("A", 1_000), ("B", 1_000), ("C", 99)] {
        store.deposit(&order(name, cents, "d")).unwrap();
    }
    let first = place(store, &[placement("B", 9, 10, Some(key("seen", "f")))]).remove(0);
    let answers = place(
        store,
        &[
            placement("A", 1, 100, Some(key("k", "f"))),
            placement("C", 2, 100, None),
            placement("D", 3, 100, Some(key("k", "f"))),
            placement("B", 4, 200, None),
            // The same request again, another request with the same key, and a repeated earlier
            // request.
            placement("A", 5, 100, Some(key("k", "f"))),
            placement("A", 6, 100, Some(key("k", "other"))),
            placement("B", 7, 10, Some(key("seen", "f"))),
            // Another bet of the same user, for the whole remaining balance.
            placement("A", 8, 900, None),
        ],
    );
    let taken = |answer: &BetAnswer| match answer {
        BetAnswer::Placed {
            bet_id,
            new_balance,
            outbox,
            ..
        } => Some((*bet_id, *new_balance, outbox.is_some())),
        _ => None,
    };
    assert_eq!(taken(&answers[0]), Some((bet_id(1), 900, true)));
    assert_eq!(
        answers[1],
        BetAnswer::Refused(crate::domain::bets::bet::BetRefusal::InsufficientFunds)
    );
    assert_eq!(
        answers[2],
        BetAnswer::Refused(crate::domain::bets::bet::BetRefusal::WalletNotFound)
    );
    assert_eq!(taken(&answers[3]), Some((bet_id(4), 790, true)));
    assert_eq!(taken(&answers[4]), Some((bet_id(1), 900, false)));
    assert_eq!(answers[5], BetAnswer::KeyReused);
    assert_eq!(
        (taken(&first), taken(&answers[6])),
        (Some((bet_id(9), 990, true)), Some((bet_id(9), 990, false)))
    );
    assert_eq!(taken(&answers[7]), Some((bet_id(8), 0, true)));
    assert_eq!(
        ["A", "B", "C"].map(|name| balances(store, name)),
        [(0, 1_000), (790, 210), (99, 0)]
    );
    assert_eq!(
        store
            .first_answer(&user("D"), &key("k", "f"))
            .unwrap()
            .as_ref(),
        Some(&answers[2])
    );
    assert_eq!(store.outbox_depth().unwrap().rows, 4);
    // Bets are returned in the order of the requested ids.
    let found = store
        .bets_by_id(&[bet_id(8), bet_id(2), bet_id(1), bet_id(8)])
        .unwrap();
    let found: Vec<_> = found.into_iter().map(|bet| bet.map(|bet| bet.id)).collect();
    assert_eq!(
        found,
        [Some(bet_id(8)), None, Some(bet_id(1)), Some(bet_id(8))]
    );
}

/// If one bet cannot be placed, none is.
pub(crate) fn batched_bets_are_placed_atomically(store: &dyn MoneyStore) {
    for name in ["A", "B"] {
        store.deposit(&order(name, 1_000, "d")).unwrap();
    }
    store
        .reserve(&order("B", 5, &bet_id(2).to_string()))
        .unwrap();
    store
        .place_bets(&[
            placement("A", 1, 100, Some(key("k", "f"))),
            placement("B", 2, 100, None),
        ])
        .unwrap_err();
    assert_eq!(
        (balances(store, "A"), balances(store, "B")),
        ((1_000, 0), (995, 5))
    );
    assert_eq!(
        (
            store.bet(bet_id(1)),
            store.first_answer(&user("A"), &key("k", "f"))
        ),
        (Ok(None), Ok(None))
    );
}

pub(crate) fn batched_decisions_get_their_own_outcomes(store: &dyn MoneyStore) {
    assert_eq!(store.decide_bets(&[]), Ok(Vec::new()));
    for name in ["A", "B"] {
        store.deposit(&order(name, 1_000, "d")).unwrap();
    }
    for (name, number) in [("A", 1), ("A", 2), ("B", 3), ("B", 4)] {
        place(store, &[placement(name, number, 100, None)]);
    }
    store
        .decide_bet(bet_id(4), &rejected(), &notice(""), at(1))
        .unwrap();
    let decided = decide(
        store,
        &[
            decision(1, confirmed()),
            decision(9, confirmed()),
            decision(3, BetOutcome::TimedOut),
            decision(4, confirmed()),
            decision(2, rejected()),
            // Decided again, with another outcome.
            decision(1, rejected()),
        ],
    );
    assert!(
        [0, 2, 4]
            .iter()
            .all(|index| matches!(decided[*index], Decided::Now { .. })),
        "{decided:?}"
    );
    assert_eq!(decided[1], Decided::Unknown);
    assert_eq!(decided[3], Decided::Before(BetStatus::Rejected));
    assert_eq!(decided[5], Decided::Before(BetStatus::Confirmed));
    assert_eq!(
        (balances(store, "A"), balances(store, "B")),
        ((900, 0), (1_000, 0))
    );
    let reasons = [1, 2, 3].map(|number| store.bet(bet_id(number)).unwrap().unwrap().reason);
    assert_eq!(
        reasons,
        [
            None,
            Some("LIMIT_EXCEEDED".to_owned()),
            Some("SUPPLIER_TIMEOUT".to_owned())
        ]
    );
    assert_eq!(store.open_cancels(), Ok(1));
    assert_eq!(store.bet_history(bet_id(3)).unwrap().len(), 2);
}

/// Calls that overlap in users, keys and bets: each key yields one bet, each bet is decided once,
/// and no cent is lost.
pub(crate) fn concurrent_batches_lose_nothing(store: &dyn MoneyStore) {
    const THREADS: usize = 6;
    const ROUNDS: u128 = 12;
    const USERS: [&str; 4] = ["A", "B", "C", "D"];
    for name in USERS {
        store.deposit(&order(name, 1_000, "d")).unwrap();
    }
    let decided = concurrently(THREADS, |thread| {
        let mut random = fastrand::Rng::with_seed(thread as u64);
        let mut decided = 0;
        for round in 0..ROUNDS {
            let placement = |index: u128| {
                let name = random.choice(USERS).unwrap();
                let number = (thread as u128 * ROUNDS + round) * 10 + index;
                placement(
                    name,
                    number,
                    7,
                    random
                        .bool()
                        .then(|| key(&random.u8(0..30).to_string(), "f")),
                )
            };
            let placements: Vec<_> = (0..5).map(placement).collect();
            let mut placed: Vec<_> = place(store, &placements)
                .into_iter()
                .filter_map(|answer| match answer {
                    BetAnswer::Placed { bet_id, .. } => Some(bet_id),
                    _ => None,
                })
                .collect();
            placed.dedup();
            let verdicts = [confirmed(), rejected(), BetOutcome::TimedOut];
            let decision = |id| DecideBet {
                bet_id: id,
                ..decision(0, random.choice(&verdicts).unwrap().clone())
            };
            let decisions: Vec<_> = placed.into_iter().map(decision).collect();
            decided += decide(store, &decisions)
                .iter()
                .filter(|one| matches!(one, Decided::Now { .. }))
                .count();
        }
        decided
    });
    let mut bets = 0;
    for name in USERS {
        let all = store
            .bets(
                &user(name),
                BetFilter::default(),
                Page {
                    before: None,
                    limit: 10_000,
                },
            )
            .unwrap();
        assert!(all.iter().all(|bet| bet.status != BetStatus::Pending));
        let lost = all
            .iter()
            .filter(|bet| bet.status == BetStatus::Confirmed)
            .count() as i64;
        assert_eq!(balances(store, name), (1_000 - 7 * lost, 0));
        bets += all.len();
    }
    assert_eq!(decided.into_iter().sum::<usize>(), bets);
}
