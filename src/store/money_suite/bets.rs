//! Checks of bets.

use pretty_assertions::assert_eq;

use super::*;
use crate::domain::bets::bet::{BetRefusal, BetStep};
use crate::store::StoreError;

fn placed(answer: BetAnswer) -> (BetId, i64, Option<i64>) {
    match answer {
        BetAnswer::Placed {
            bet_id,
            price,
            new_balance,
            outbox,
        } => {
            assert_eq!(price, bet("A", bet_id, 1).price);
            (bet_id, new_balance, outbox)
        }
        other => panic!("{other:?}"),
    }
}

/// All state that an operation could change: balances, transfers, reservations, bets, outbox and
/// cancel requests.
fn everything(store: &dyn MoneyStore) -> String {
    let bets = store
        .bets(
            &user("A"),
            BetFilter::default(),
            Page {
                before: None,
                limit: 100,
            },
        )
        .unwrap();
    let steps: Vec<_> = bets
        .iter()
        .map(|bet| store.bet_history(bet.id).unwrap())
        .collect();
    let wallet = (
        store.wallet(&user("A")).unwrap(),
        transfers(store, "A"),
        reservations(store, "A"),
    );
    format!(
        "{wallet:?} {bets:?} {steps:?} {:?} {:?}",
        store.outbox_depth().unwrap(),
        store.open_cancels().unwrap()
    )
}

pub(crate) fn placed_bet_has_all_its_records(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    let bet = bet("A", bet_id(1), 400);
    let (id, new_balance, outbox) = placed(place_bet(store, &bet, None, &notice("{}")).unwrap());
    assert_eq!((id, new_balance), (bet.id, 600));
    assert_eq!(balances(store, "A"), (600, 400));
    assert_eq!(store.bet(bet.id).unwrap(), Some(bet.clone()));
    let step = BetStep {
        from: None,
        to: BetStatus::Pending,
        reason: None,
        at: at(0),
    };
    assert_eq!(store.bet_history(bet.id).unwrap(), [step]);
    let held = reservations(store, "A").remove(0);
    assert_eq!(
        (held.reference.to_string(), held.amount.cents()),
        (bet.id.to_string(), 400)
    );
    let row = OutboxRow {
        trace: None,
        id: outbox.unwrap(),
        topic: OutboxTopic::Placed,
        key: bet.id.to_string(),
        payload: "{}".to_owned(),
    };
    assert_eq!(store.take_outbox(at(5), at(6), 10).unwrap(), [row]);
    assert_eq!(store.bet(bet_id(99)), Ok(None));
    assert_eq!(store.bet_history(bet_id(99)), Ok(vec![]));
}

pub(crate) fn bet_key_keeps_its_first_answer(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    store.deposit(&order("B", 1_000, "d")).unwrap();
    let key = key("k", "home at 1.528");
    assert_eq!(store.first_answer(&user("A"), &key), Ok(None));
    let first = place_bet(store, &bet("A", bet_id(1), 400), Some(&key), &notice("")).unwrap();
    assert!(placed(first.clone()).2.is_some());
    store.deposit(&order("A", 5, "d2")).unwrap();
    let after = everything(store);
    let again = |id| place_bet(store, &bet("A", bet_id(id), 400), Some(&key), &notice("")).unwrap();
    for _ in 0..2 {
        assert_eq!(placed(again(2)), (bet_id(1), 600, None));
        assert_eq!(
            store.first_answer(&user("A"), &key).unwrap(),
            Some(again(3))
        );
    }
    let other = RequestKey {
        fingerprint: "away at 4".to_owned(),
        ..key.clone()
    };
    assert_eq!(
        place_bet(store, &bet("A", bet_id(4), 1), Some(&other), &notice("")),
        Ok(BetAnswer::KeyReused)
    );
    assert_eq!(
        store.first_answer(&user("A"), &other),
        Ok(Some(BetAnswer::KeyReused))
    );
    assert_eq!(everything(store), after);
    // The first answer stays, whether the bet is decided or not.
    store
        .decide_bet(bet_id(1), &rejected(), &notice(""), at(1))
        .unwrap();
    assert_eq!(placed(again(5)), (bet_id(1), 600, None));
    // Keys are per user.
    assert_eq!(
        placed(place_bet(store, &bet("B", bet_id(6), 400), Some(&key), &notice("")).unwrap()).0,
        bet_id(6)
    );
}

pub(crate) fn wallet_rejection_is_stored_with_key(store: &dyn MoneyStore) {
    let no_wallet = key("k1", "f");
    let poor = key("k2", "f");
    let place = |id, key| place_bet(store, &bet("A", bet_id(id), 100), key, &notice("")).unwrap();
    let refused = BetAnswer::Refused(BetRefusal::WalletNotFound);
    assert_eq!(place(1, Some(&no_wallet)), refused);
    assert_eq!(place(1, None), refused);
    store.deposit(&order("A", 99, "d")).unwrap();
    assert_eq!(place(1, Some(&no_wallet)), refused, "the key has an answer");
    let too_poor = BetAnswer::Refused(BetRefusal::InsufficientFunds);
    assert_eq!(place(1, Some(&poor)), too_poor);
    assert_eq!(place(1, None), too_poor);
    store.deposit(&order("A", 1, "d2")).unwrap();
    assert_eq!(place(1, Some(&poor)), too_poor, "the key has an answer");
    assert_eq!(
        store.first_answer(&user("A"), &poor).unwrap(),
        Some(too_poor)
    );
    assert_eq!(balances(store, "A"), (100, 0));
    assert_eq!(
        (store.outbox_depth().unwrap(), store.bet(bet_id(1)).unwrap()),
        (OutboxDepth::default(), None)
    );
    assert_eq!(
        placed(place(1, None)).1,
        0,
        "without a key the request is new"
    );
}

pub(crate) fn first_rejection_is_stored_for_key(store: &dyn MoneyStore) {
    let key = key("k", "f");
    let price = "3.2".parse().unwrap();
    let first = BetRefusal::OddsChanged { odd_value: price };
    let second = BetRefusal::StakeTooLow {
        limit_cents: amount(9),
    };
    let refuse = |key: &RequestKey, refusal: &BetRefusal| {
        store.refuse_bet(&user("A"), key, refusal, at(0)).unwrap()
    };
    assert_eq!(refuse(&key, &first), BetAnswer::Refused(first.clone()));
    assert_eq!(refuse(&key, &second), BetAnswer::Refused(first.clone()));
    let other = RequestKey {
        fingerprint: "g".to_owned(),
        ..key.clone()
    };
    assert_eq!(refuse(&other, &second), BetAnswer::KeyReused);
    store.deposit(&order("A", 1_000, "d")).unwrap();
    let answer = place_bet(store, &bet("A", bet_id(1), 100), Some(&key), &notice("")).unwrap();
    assert_eq!(answer, BetAnswer::Refused(first));
    let taken = super::key("k2", "f");
    place_bet(store, &bet("A", bet_id(1), 100), Some(&taken), &notice("")).unwrap();
    assert_eq!(placed(refuse(&taken, &second)), (bet_id(1), 900, None));
}

pub(crate) fn same_bet_is_not_placed_twice(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    place_bet(store, &bet("A", bet_id(1), 100), None, &notice("")).unwrap();
    let after = everything(store);
    // The client repeats the request because it lost the connection before the answer.
    let again = place_bet(store, &bet("A", bet_id(1), 100), None, &notice("")).unwrap();
    assert_eq!(placed(again), (bet_id(1), 900, None));
    // Another stake, a new key, or another user: we never create such a request.
    store.deposit(&order("B", 1_000, "d")).unwrap();
    for (name, cents, key) in [
        ("A", 99, None),
        ("A", 100, Some(key("k", "f"))),
        ("B", 100, None),
    ] {
        let refused = place_bet(
            store,
            &bet(name, bet_id(1), cents),
            key.as_ref(),
            &notice(""),
        );
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
    }
    assert_eq!(store.first_answer(&user("A"), &key("k", "f")), Ok(None));
    assert_eq!(everything(store), after);
}

pub(crate) fn bet_never_takes_over_a_reservation(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    store
        .reserve(&order("A", 100, &bet_id(1).to_string()))
        .unwrap();
    let after = everything(store);
    let refused = place_bet(
        store,
        &bet("A", bet_id(1), 100),
        Some(&key("k", "f")),
        &notice(""),
    );
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
    assert_eq!(everything(store), after);
}

pub(crate) fn bet_is_decided_once(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    let unknown = store.decide_bet(bet_id(9), &confirmed(), &notice(""), at(1));
    assert_eq!(unknown, Ok(Decided::Unknown));
    for (number, outcome) in [(1, confirmed()), (2, rejected()), (3, BetOutcome::TimedOut)] {
        let bet = bet("A", bet_id(number), 100);
        place_bet(store, &bet, None, &notice("")).unwrap();
        let before = balances(store, "A");
        let decided = store
            .decide_bet(bet.id, &outcome, &notice("told"), at(1))
            .unwrap();
        let Decided::Now { outbox } = decided else {
            panic!("{decided:?}")
        };
        let row = store.take_outbox(at(5), at(6), 10).unwrap().pop().unwrap();
        assert_eq!(
            (row.id, row.topic, row.payload.as_str()),
            (outbox, OutboxTopic::Confirmed, "told")
        );
        let expected = Bet {
            status: outcome.status(),
            reason: outcome.reason().map(str::to_owned),
            provider_ref: outcome.provider_ref().map(str::to_owned),
            decided_at: Some(at(1)),
            ..bet.clone()
        };
        assert_eq!(store.bet(bet.id).unwrap().unwrap(), expected);
        let back = if outcome.status() == BetStatus::Confirmed {
            0
        } else {
            100
        };
        assert_eq!(balances(store, "A"), (before.0 + back, before.1 - 100));
        let steps = store.bet_history(bet.id).unwrap();
        let step = BetStep {
            from: Some(BetStatus::Pending),
            to: outcome.status(),
            reason: expected.reason.clone(),
            at: at(1),
        };
        assert_eq!(steps[1..], [step]);
        let after = everything(store);
        for again in [confirmed(), rejected(), BetOutcome::TimedOut] {
            let decided = store.decide_bet(bet.id, &again, &notice(""), at(2));
            assert_eq!(decided, Ok(Decided::Before(outcome.status())));
        }
        assert_eq!(everything(store), after);
    }
}

pub(crate) fn timed_out_bet_is_cancelled(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    for (number, outcome) in [(1, confirmed()), (2, rejected()), (3, BetOutcome::TimedOut)] {
        place_bet(store, &bet("A", bet_id(number), 100), None, &notice("")).unwrap();
        store
            .decide_bet(bet_id(number), &outcome, &notice(""), at(10))
            .unwrap();
    }
    assert_eq!(store.open_cancels(), Ok(1));
    assert_eq!(store.take_cancels(at(9), at(20), 10), Ok(vec![]));
    assert_eq!(
        store.take_cancels(at(10), at(20), 10),
        Ok(vec![Cancel {
            bet_id: bet_id(3),
            attempts: 1
        }])
    );
}

pub(crate) fn only_the_bet_ends_its_reservation(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    place_bet(store, &bet("A", bet_id(1), 100), None, &notice("")).unwrap();
    let text = bet_id(1).to_string();
    let after = everything(store);
    for settlement in [
        HoldResolution::Commit,
        HoldResolution::Refund,
        HoldResolution::Expire,
    ] {
        assert_eq!(
            settle(store, "A", &text, settlement),
            Err(WalletError::HeldByBet)
        );
    }
    assert_eq!(
        store.reserve(&order("A", 100, &text)).unwrap().status,
        ReservationStatus::Pending
    );
    assert_eq!(everything(store), after);
    store
        .decide_bet(bet_id(1), &confirmed(), &notice(""), at(1))
        .unwrap();
    // After the decision, it behaves like any other reservation.
    assert_eq!(
        settle(store, "A", &text, HoldResolution::Commit),
        Ok(ReservationStatus::Committed)
    );
    let already = WalletError::AlreadySettled(ReservationStatus::Committed);
    assert_eq!(
        settle(store, "A", &text, HoldResolution::Refund),
        Err(already)
    );
}

pub(crate) fn bets_are_read_in_pages(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    store.deposit(&order("B", 1_000, "d")).unwrap();
    for number in 0..6 {
        place_bet(store, &bet("A", bet_id(number), 1), None, &notice("")).unwrap();
        place_bet(store, &bet("B", bet_id(100 + number), 1), None, &notice("")).unwrap();
    }
    for number in [1, 4] {
        store
            .decide_bet(bet_id(number), &confirmed(), &notice(""), at(1))
            .unwrap();
    }
    let pages = |status, limit| {
        let filter = BetFilter {
            status,
            outcome: None,
        };
        let mut read = Vec::new();
        let mut before = None;
        loop {
            let page = store
                .bets(&user("A"), filter, Page { before, limit })
                .unwrap();
            let Some(last) = page.last() else { return read };
            before = Some(last.id);
            read.extend(
                page.iter()
                    .map(|bet| bet.id.0.as_u128() - bet_id(0).0.as_u128()),
            );
        }
    };
    assert_eq!(pages(None, 4), [5, 4, 3, 2, 1, 0]);
    assert_eq!(pages(Some(BetStatus::Pending), 3), [5, 3, 2, 0]);
    assert_eq!(pages(Some(BetStatus::Confirmed), 1), [4, 1]);
    assert_eq!(pages(Some(BetStatus::Rejected), 1), []);
}

pub(crate) fn overdue_bets_are_past_their_deadline(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    for (number, seconds) in [(1, 12), (2, 10), (3, 11), (4, 9)] {
        let bet = Bet {
            decide_by: at(seconds),
            ..bet("A", bet_id(number), 1)
        };
        place_bet(store, &bet, None, &notice("")).unwrap();
    }
    store
        .decide_bet(bet_id(4), &confirmed(), &notice(""), at(1))
        .unwrap();
    let overdue = |seconds, limit| -> Vec<_> {
        store
            .overdue_bets(at(seconds), limit)
            .unwrap()
            .into_iter()
            .map(|bet| bet.id)
            .collect()
    };
    assert_eq!(overdue(9, 10), []);
    assert_eq!(
        overdue(10, 10),
        [bet_id(2)],
        "overdue at the exact deadline"
    );
    assert_eq!(overdue(99, 10), [bet_id(2), bet_id(3), bet_id(1)]);
    assert_eq!(overdue(99, 2), [bet_id(2), bet_id(3)]);
}

pub(crate) fn every_bet_reads_back_exactly(store: &dyn MoneyStore) {
    let name = "São Paulo ' \" \\ 👤";
    store.deposit(&order(name, 1_000, "d ' é")).unwrap();
    let unusual = Bet {
        event_id: EventId::new("1.197 ' São Paulo").unwrap(),
        market: MarketKey {
            name: MarketName::new("goals '").unwrap(),
            line: "-0.25".parse().ok(),
        },
        selection: SelectionId::new("über 2½").unwrap(),
        price: "1000".parse().unwrap(),
        placed_at: Timestamp::from_micros(at(0).micros() + 1).unwrap(),
        decide_by: Timestamp::from_micros(at(0).micros() + 123_457).unwrap(),
        ..bet(name, bet_id(1), 1_000)
    };
    let payload = "{\"a\":\"' ü \\u0000\"}";
    place_bet(
        store,
        &unusual,
        Some(&key("k ' 👤", "{\"f\": '")),
        &notice(payload),
    )
    .unwrap();
    assert_eq!(store.bet(unusual.id).unwrap(), Some(unusual.clone()));
    assert_eq!(
        store.take_outbox(at(5), at(6), 1).unwrap()[0].payload,
        payload
    );
    let first = store
        .first_answer(&user(name), &key("k ' 👤", "{\"f\": '"))
        .unwrap();
    assert!(matches!(first, Some(BetAnswer::Placed { price, .. }) if price == unusual.price));
    let reason = "it's « no »".to_owned();
    let outcome = BetOutcome::Rejected {
        reason,
        provider_ref: String::new(),
    };
    store
        .decide_bet(unusual.id, &outcome, &notice(payload), at(1))
        .unwrap();
    let decided = store.bet(unusual.id).unwrap().unwrap();
    assert_eq!(
        (decided.reason.as_deref(), decided.provider_ref),
        (outcome.reason(), None)
    );
}
