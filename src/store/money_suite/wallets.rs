//! Checks of wallets, transfers and reservations.

use pretty_assertions::assert_eq;

use super::*;
use crate::domain::wallet::ledger::{Account, TransferKind};

const ALL: [HoldResolution; 3] = [
    HoldResolution::Commit,
    HoldResolution::Refund,
    HoldResolution::Expire,
];

pub(crate) fn movements_require_a_wallet(store: &dyn MoneyStore) {
    assert_eq!(store.wallet(&user("A")), Ok(None));
    assert_eq!(
        store.withdraw(&order("A", 1, "x")),
        Err(WalletError::WalletNotFound)
    );
    assert_eq!(
        store.reserve(&order("A", 1, "x")),
        Err(WalletError::WalletNotFound)
    );
    for settlement in ALL {
        assert_eq!(
            settle(store, "A", "x", settlement),
            Err(WalletError::WalletNotFound)
        );
    }
    assert_eq!(transfers(store, "A"), []);
    assert_eq!(reservations(store, "A"), []);
    assert_eq!(store.expire_reservations(at(100), 10, at(100)), Ok(0));
}

pub(crate) fn deposit_creates_wallet_and_is_idempotent(store: &dyn MoneyStore) {
    let first = store.deposit(&order("A", 500, "d1")).unwrap();
    assert_eq!(
        first.balance,
        Balance {
            available: 500,
            reserved: 0
        }
    );
    assert_eq!(store.wallet(&user("A")).unwrap(), Some(first.clone()));
    let second = store.deposit(&order("A", 20, "d2")).unwrap();
    assert_eq!(
        second,
        Wallet {
            balance: Balance {
                available: 520,
                reserved: 0
            },
            ..first
        }
    );
    // A later repetition gets the first answer and moves nothing.
    let again = TransferRequest {
        at: at(1_000),
        ..order("A", 500, "d1")
    };
    assert_eq!(store.deposit(&again).unwrap(), first);
    assert_eq!(
        store.deposit(&order("A", 501, "d1")),
        Err(WalletError::IdempotencyConflict)
    );
    assert_eq!(balances(store, "A"), (520, 0));

    let made = transfers(store, "A");
    assert_eq!(made.len(), 2);
    let expected = Transfer {
        id: made[0].id,
        kind: TransferKind::Deposit,
        debit: Account::Cash,
        credit: Account::Available,
        amount: amount(500),
        reference: reference("d1"),
        balance: first.balance,
        at: at(0),
    };
    assert_eq!(made[0], expected);
}

pub(crate) fn withdrawal_is_idempotent_and_never_overdraws(store: &dyn MoneyStore) {
    store.deposit(&order("A", 500, "d")).unwrap();
    assert_eq!(
        store.withdraw(&order("A", 501, "w")),
        Err(WalletError::InsufficientFunds)
    );
    // A rejection without a key is not stored, since money may have arrived meanwhile.
    let first = store.withdraw(&order("A", 300, "w")).unwrap();
    assert_eq!(
        first.balance,
        Balance {
            available: 200,
            reserved: 0
        }
    );
    store.deposit(&order("A", 7, "d2")).unwrap();
    assert_eq!(store.withdraw(&order("A", 300, "w")).unwrap(), first);
    assert_eq!(
        store.withdraw(&order("A", 299, "w")),
        Err(WalletError::IdempotencyConflict)
    );
    store.withdraw(&order("A", 207, "w2")).unwrap();
    assert_eq!(balances(store, "A"), (0, 0));
    // A repetition succeeds even if the balance is now too low.
    assert_eq!(store.withdraw(&order("A", 300, "w")).unwrap(), first);
    assert_eq!(
        store.withdraw(&order("A", 1, "w3")),
        Err(WalletError::InsufficientFunds)
    );
    assert_eq!(transfers(store, "A").len(), 4);
}

pub(crate) fn reservation_is_idempotent_and_current(store: &dyn MoneyStore) {
    store.deposit(&order("A", 100, "d")).unwrap();
    assert_eq!(
        store.reserve(&order("A", 101, "r")),
        Err(WalletError::InsufficientFunds)
    );
    let held = store.reserve(&order("A", 80, "r")).unwrap();
    let expected = Reservation {
        id: held.id,
        reference: reference("r"),
        amount: amount(80),
        status: ReservationStatus::Pending,
        created_at: at(0),
        settled_at: None,
    };
    assert_eq!(held, expected);
    assert_eq!(balances(store, "A"), (20, 80));
    let again = TransferRequest {
        at: at(50),
        ..order("A", 80, "r")
    };
    assert_eq!(store.reserve(&again).unwrap(), held);
    assert_eq!(
        store.reserve(&order("A", 79, "r")),
        Err(WalletError::IdempotencyConflict)
    );
    assert_eq!(
        store.withdraw(&order("A", 21, "w")),
        Err(WalletError::InsufficientFunds),
        "reserved money is not available"
    );

    let ended = store
        .settle(&user("A"), &reference("r"), HoldResolution::Refund, at(3))
        .unwrap();
    assert_eq!(
        ended,
        Reservation {
            status: ReservationStatus::Refunded,
            settled_at: Some(at(3)),
            ..held
        }
    );
    assert_eq!(store.reserve(&again).unwrap(), ended);
    assert_eq!(balances(store, "A"), (100, 0));
    assert_eq!(transfers(store, "A").len(), 3);
}

pub(crate) fn reservation_ends_only_once(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    assert_eq!(
        settle(store, "A", "none", HoldResolution::Commit),
        Err(WalletError::ReservationNotFound)
    );
    for (index, first) in ALL.into_iter().enumerate() {
        let text = format!("r{index}");
        store.reserve(&order("A", 10, &text)).unwrap();
        assert_eq!(settle(store, "A", &text, first), Ok(first.status()));
        let after = (
            store.wallet(&user("A")).unwrap(),
            transfers(store, "A"),
            reservations(store, "A"),
        );
        for second in ALL {
            let expected = match second == first {
                true => Ok(first.status()),
                false => Err(WalletError::AlreadySettled(first.status())),
            };
            assert_eq!(settle(store, "A", &text, second), expected);
        }
        assert_eq!(
            (
                store.wallet(&user("A")).unwrap(),
                transfers(store, "A"),
                reservations(store, "A")
            ),
            after
        );
    }
    assert_eq!(balances(store, "A"), (990, 0));
    let kinds: Vec<_> = transfers(store, "A")
        .into_iter()
        .map(|transfer| transfer.kind.as_str())
        .collect();
    assert_eq!(
        kinds,
        [
            "deposit", "reserve", "commit", "reserve", "refund", "reserve", "expire"
        ]
    );
}

pub(crate) fn references_are_per_user_and_kind(store: &dyn MoneyStore) {
    for name in ["A", "B"] {
        store.deposit(&order(name, 100, "x")).unwrap();
        store.withdraw(&order(name, 10, "x")).unwrap();
        store.reserve(&order(name, 5, "x")).unwrap();
    }
    assert_eq!(
        settle(store, "B", "x", HoldResolution::Commit),
        Ok(ReservationStatus::Committed)
    );
    assert_eq!(
        (balances(store, "A"), balances(store, "B")),
        ((85, 5), (85, 0))
    );
    // References are case-sensitive.
    store.deposit(&order("A", 1, "X")).unwrap();
    assert_eq!(store.wallet(&user("a")), Ok(None));
}

pub(crate) fn balance_cannot_exceed_maximum(store: &dyn MoneyStore) {
    store.deposit(&order("A", i64::MAX, "d")).unwrap();
    assert_eq!(
        store.deposit(&order("A", 1, "d2")),
        Err(WalletError::BalanceTooHigh)
    );
    store.reserve(&order("A", i64::MAX - 1, "r")).unwrap();
    assert_eq!(balances(store, "A"), (1, i64::MAX - 1));
    // Reserved money counts, because it may be refunded.
    assert_eq!(
        store.deposit(&order("A", 1, "d2")),
        Err(WalletError::BalanceTooHigh)
    );
    assert_eq!(
        settle(store, "A", "r", HoldResolution::Refund),
        Ok(ReservationStatus::Refunded)
    );
    store.withdraw(&order("A", i64::MAX, "w")).unwrap();
    assert_eq!(balances(store, "A"), (0, 0));
    store.deposit(&order("A", i64::MAX, "d3")).unwrap();
    // All balances together exceed 64 bits: the sums of the rules must not overflow.
    store.deposit(&order("B", i64::MAX, "d")).unwrap();
    assert_clean(store);
    assert_eq!(
        store
            .deposit(&order("A", i64::MAX, "d"))
            .unwrap()
            .balance
            .available,
        i64::MAX
    );
}

pub(crate) fn old_reservations_expire_except_bets(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    for second in 0..5 {
        store
            .reserve(&TransferRequest {
                at: at(second),
                ..order("A", 10, &format!("r{second}"))
            })
            .unwrap();
    }
    let bet = Bet {
        decide_by: at(1_000),
        ..bet("A", bet_id(1), 100)
    };
    place_bet(store, &bet, None, &notice("")).unwrap();
    assert_eq!(
        settle(store, "A", "r1", HoldResolution::Commit),
        Ok(ReservationStatus::Committed)
    );
    assert_eq!(
        store.expire_reservations(at(0), 10, at(9)),
        Ok(0),
        "a reservation of the exact time stays"
    );
    assert_eq!(
        store.expire_reservations(at(4), 1, at(9)),
        Ok(1),
        "not more than the limit"
    );
    assert_eq!(store.expire_reservations(at(4), 10, at(9)), Ok(2));
    assert_eq!(store.expire_reservations(at(4), 10, at(9)), Ok(0));
    let stored: Vec<_> = reservations(store, "A")
        .into_iter()
        .map(|held| {
            (
                held.reference.to_string(),
                held.status.as_str(),
                held.settled_at,
            )
        })
        .collect();
    let expected = [
        ("r0".to_owned(), "EXPIRED", Some(at(9))),
        ("r1".to_owned(), "COMMITTED", Some(at(2))),
        ("r2".to_owned(), "EXPIRED", Some(at(9))),
        ("r3".to_owned(), "EXPIRED", Some(at(9))),
        ("r4".to_owned(), "PENDING", None),
        (bet.id.to_string(), "PENDING", None),
    ];
    assert_eq!(stored, expected);
    assert_eq!(
        store.expire_reservations(at(100_000), 10, at(100_000)),
        Ok(1),
        "r4, but never that of the bet"
    );
    assert_eq!(balances(store, "A"), (890, 100));
}

pub(crate) fn transfers_are_read_in_pages(store: &dyn MoneyStore) {
    for number in 1..=7 {
        store
            .deposit(&order("A", number, &number.to_string()))
            .unwrap();
        store.deposit(&order("B", 1, &number.to_string())).unwrap();
    }
    let mut read = Vec::new();
    let mut before = None;
    loop {
        let page = store
            .transfers(&user("A"), Page { before, limit: 3 })
            .unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        read.extend(page.into_iter().map(|transfer| transfer.amount.cents()));
    }
    assert_eq!(read, [7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(
        store
            .transfers(
                &user("A"),
                Page {
                    before: None,
                    limit: 0
                }
            )
            .unwrap(),
        []
    );
}

pub(crate) fn reservations_are_read_in_pages(store: &dyn MoneyStore) {
    store.deposit(&order("A", 100, "d")).unwrap();
    for number in 0..6 {
        store.reserve(&order("A", 1, &number.to_string())).unwrap();
    }
    for text in ["1", "4"] {
        settle(store, "A", text, HoldResolution::Commit).unwrap();
    }
    let pages = |status, limit| {
        let mut read = Vec::new();
        let mut before = None;
        loop {
            let page = store
                .reservations(&user("A"), status, Page { before, limit })
                .unwrap();
            let Some(last) = page.last() else {
                return read.join(" ");
            };
            before = Some(last.id);
            read.extend(page.into_iter().map(|held| held.reference.to_string()));
        }
    };
    assert_eq!(pages(None, 4), "5 4 3 2 1 0");
    assert_eq!(pages(Some(ReservationStatus::Pending), 3), "5 3 2 0");
    assert_eq!(pages(Some(ReservationStatus::Committed), 1), "4 1");
    assert_eq!(pages(Some(ReservationStatus::Expired), 1), "");
}
