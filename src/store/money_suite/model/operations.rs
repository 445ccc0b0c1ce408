//! Operations and answers, in a form that the model and the databases share.

use proptest::prelude::*;

use super::*;
use crate::domain::bets::bet::BetRefusal;
use crate::store::StoreError;
use crate::store::movements::{Moved, Movement};

pub(super) const USERS: u8 = 2;
pub(super) const BETS: u8 = 6;
const REFERENCES: u8 = 3;
const KEYS: u8 = 3;
/// Seconds from the placement of a bet to its deadline.
pub(super) const TO_DECIDE: i64 = 10;

/// An operation.
#[derive(Clone, Debug)]
pub(super) enum What {
    Deposit {
        user: u8,
        reference: u8,
        cents: i64,
    },
    Withdraw {
        user: u8,
        reference: u8,
        cents: i64,
    },
    Reserve {
        user: u8,
        reference: u8,
        cents: i64,
    },
    Settle {
        user: u8,
        reference: u8,
        by: HoldResolution,
    },
    /// A movement with a key.
    Once {
        movement: Box<What>,
        key: (u8, u8),
    },
    /// A caller other than the bet tries to end the reservation of a bet.
    SettleOfBet {
        user: u8,
        bet: u8,
        by: HoldResolution,
    },
    Expire {
        older_than: i64,
        limit: usize,
    },
    Place {
        user: u8,
        bet: u8,
        cents: i64,
        key: Option<(u8, u8)>,
    },
    Refuse {
        user: u8,
        key: (u8, u8),
    },
    FirstAnswer {
        user: u8,
        key: (u8, u8),
    },
    Decide {
        bet: u8,
        outcome: BetOutcome,
    },
    /// Like the sweeper.
    DecideOverdue {
        limit: usize,
    },
    /// Takes outbox rows and marks some of them as published.
    Publish {
        limit: usize,
        publish: usize,
        lease: i64,
    },
    /// Takes cancel requests and completes some of them.
    Cancel {
        limit: usize,
        done: usize,
        pause: i64,
    },
}

/// An operation, `pause` seconds after the previous one.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub what: What,
    pub pause: u8,
}

/// An answer, without ids.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Balance(i64, i64),
    Reservation(ReservationStatus, i64, Option<i64>),
    Refused(&'static str),
    Count(usize),
    /// Bet, new balance, and whether the bet is new.
    Placed(u8, i64, bool),
    KeyReused,
    BetRefused(&'static str),
    None,
    Decided,
    Before(BetStatus),
    Unknown,
    /// The bets of the outbox rows or cancel requests that were taken, with topics or attempts.
    Rows(Vec<(u8, &'static str)>),
    Cancels(Vec<(u8, u32)>),
}

/// Random operations; some are repeated, at once or later.
pub(super) fn any_operations() -> impl Strategy<Value = Vec<Operation>> {
    let one = (any_what(), 0u8..4).prop_map(|(what, pause)| Operation { what, pause });
    let again = proptest::collection::vec(
        (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        0..12,
    );
    (proptest::collection::vec(one, 1..50), again).prop_map(|(mut operations, again)| {
        for (which, place) in again {
            let one = operations[which.index(operations.len())].clone();
            operations.insert(place.index(operations.len() + 1), one);
        }
        operations
    })
}

fn any_what() -> impl Strategy<Value = What> {
    let user = 0..USERS;
    let reference = 0..REFERENCES;
    let bet = 0..BETS;
    let cents = prop_oneof![8 => 1i64..40, 1 => Just(i64::MAX), 1 => Just(1_000)];
    let key = (0..KEYS, prop_oneof![9 => Just(0u8), 1 => Just(1u8)]);
    let by = prop_oneof![
        Just(HoldResolution::Commit),
        Just(HoldResolution::Refund),
        Just(HoldResolution::Expire)
    ];
    let outcome = prop_oneof![
        Just(confirmed()),
        Just(rejected()),
        Just(BetOutcome::TimedOut)
    ];
    let few = 0usize..4;
    let movement = (
        0..4u8,
        user.clone(),
        reference.clone(),
        cents.clone(),
        by.clone(),
    )
        .prop_map(|(kind, user, reference, cents, by)| match kind {
            0 => What::Deposit {
                user,
                reference,
                cents,
            },
            1 => What::Withdraw {
                user,
                reference,
                cents,
            },
            2 => What::Reserve {
                user,
                reference,
                cents,
            },
            _ => What::Settle {
                user,
                reference,
                by,
            },
        });
    // All or none, because rows with the same time have no defined order.
    let all = prop_oneof![1 => Just(0usize), 5 => Just(1_000)];
    prop_oneof![
        3 => (user.clone(), reference.clone(), cents.clone())
            .prop_map(|(user, reference, cents)| What::Deposit { user, reference, cents }),
        2 => (user.clone(), reference.clone(), cents.clone())
            .prop_map(|(user, reference, cents)| What::Withdraw { user, reference, cents }),
        3 => (user.clone(), reference.clone(), cents)
            .prop_map(|(user, reference, cents)| What::Reserve { user, reference, cents }),
        3 => (user.clone(), reference, by.clone())
            .prop_map(|(user, reference, by)| What::Settle { user, reference, by }),
        5 => (movement, key.clone()).prop_map(|(movement, key)| What::Once { movement: Box::new(movement), key }),
        1 => (user.clone(), bet.clone(), by).prop_map(|(user, bet, by)| What::SettleOfBet { user, bet, by }),
        1 => (0i64..20, all.clone()).prop_map(|(older_than, limit)| What::Expire { older_than, limit }),
        5 => (user.clone(), bet.clone(), 1i64..30, proptest::option::of(key.clone()))
            .prop_map(|(user, bet, cents, key)| What::Place { user, bet, cents, key }),
        1 => (user.clone(), key.clone()).prop_map(|(user, key)| What::Refuse { user, key }),
        1 => (user, key).prop_map(|(user, key)| What::FirstAnswer { user, key }),
        4 => (bet, outcome).prop_map(|(bet, outcome)| What::Decide { bet, outcome }),
        1 => all.clone().prop_map(|limit| What::DecideOverdue { limit }),
        1 => (few.clone(), few.clone(), 0i64..10)
            .prop_map(|(limit, publish, lease)| What::Publish { limit, publish, lease }),
        1 => (all, few, 0i64..10).prop_map(|(limit, done, pause)| What::Cancel { limit, done, pause }),
    ]
}

pub(super) fn order_of(names: &Names, user: u8, cents: i64, text: u8, now: i64) -> TransferRequest {
    TransferRequest {
        at: at(now),
        ..order(&names.user(user), cents, &format!("r{text}"))
    }
}

/// The key of a request, with its fingerprint.
pub(super) fn key_of((number, fingerprint): (u8, u8)) -> RequestKey {
    key(&format!("k{number}"), &format!("f{fingerprint}"))
}

impl What {
    /// Runs the operation on a database.
    pub(super) fn on(
        &self,
        store: &dyn MoneyStore,
        names: &Names,
        now: i64,
    ) -> Result<Answer, StoreError> {
        let order = |user, cents, text| order_of(names, user, cents, text, now);
        let number = |bet: BetId| {
            (0..BETS)
                .find(|number| names.bet(*number) == bet)
                .unwrap_or(u8::MAX)
        };
        let notice = OutboxMessage {
            payload: String::new(),
            leased_until: at(now + 3),
            trace: None,
        };
        let answered = |answer| match answer {
            BetAnswer::Placed {
                bet_id,
                new_balance,
                outbox,
                ..
            } => Answer::Placed(number(bet_id), new_balance, outbox.is_some()),
            BetAnswer::Refused(refusal) => Answer::BetRefused(refusal.code()),
            BetAnswer::KeyReused => Answer::KeyReused,
        };
        match self {
            What::Deposit {
                user,
                reference,
                cents,
            } => moved(store.deposit(&order(*user, *cents, *reference))),
            What::Withdraw {
                user,
                reference,
                cents,
            } => moved(store.withdraw(&order(*user, *cents, *reference))),
            What::Reserve {
                user,
                reference,
                cents,
            } => held(store.reserve(&order(*user, *cents, *reference))),
            What::Settle {
                user,
                reference: text,
                by,
            } => held(store.settle(
                &user_of(names, *user),
                &reference(&format!("r{text}")),
                *by,
                at(now),
            )),
            What::Once { movement, key } => {
                let movement = movement.as_movement(names, now);
                match store.apply_once(&movement, &key_of(*key)) {
                    Ok(Moved::Wallet(wallet)) => moved(Ok(wallet)),
                    Ok(Moved::Reservation(reservation)) => held(Ok(reservation)),
                    Err(error) => refused(error),
                }
            }
            What::SettleOfBet { user, bet, by } => {
                let text = reference(&names.bet(*bet).to_string());
                held(store.settle(&user_of(names, *user), &text, *by, at(now)))
            }
            What::Expire { older_than, limit } => Ok(Answer::Count(store.expire_reservations(
                at(now - older_than),
                *limit,
                at(now),
            )?)),
            What::Place {
                user,
                bet: number,
                cents,
                key,
            } => {
                let bet = Bet {
                    placed_at: at(now),
                    decide_by: at(now + TO_DECIDE),
                    ..bet(&names.user(*user), names.bet(*number), *cents)
                };
                Ok(
                    match place_bet(store, &bet, key.map(key_of).as_ref(), &notice) {
                        // The bet already exists, and nothing has changed.
                        Err(StoreError::Refused(_)) => Answer::Refused("taken"),
                        answer => answered(answer?),
                    },
                )
            }
            What::Refuse { user, key } => {
                let refusal = BetRefusal::EventNotFound {
                    event: "E".to_owned(),
                };
                store
                    .refuse_bet(&user_of(names, *user), &key_of(*key), &refusal, at(now))
                    .map(answered)
            }
            What::FirstAnswer { user, key } => {
                let first = store.first_answer(&user_of(names, *user), &key_of(*key))?;
                Ok(first.map_or(Answer::None, answered))
            }
            What::Decide { bet, outcome } => store
                .decide_bet(names.bet(*bet), outcome, &notice, at(now))
                .map(decided),
            What::DecideOverdue { limit } => {
                let overdue = store.overdue_bets(at(now), *limit)?;
                for bet in &overdue {
                    store.decide_bet(bet.id, &BetOutcome::TimedOut, &notice, at(now))?;
                }
                Ok(Answer::Count(overdue.len()))
            }
            What::Publish {
                limit,
                publish,
                lease,
            } => {
                let rows = store.take_outbox(at(now), at(now + lease), *limit)?;
                let publish: Vec<_> = rows.iter().take(*publish).map(|row| row.id).collect();
                store.published(&publish)?;
                let entry =
                    |row: &OutboxRow| (row.key.parse().map_or(u8::MAX, number), row.topic.as_str());
                Ok(Answer::Rows(rows.iter().map(entry).collect()))
            }
            What::Cancel { limit, done, pause } => {
                let mut taken = store.take_cancels(at(now), at(now + pause), *limit)?;
                taken.sort_by_key(|cancel| cancel.bet_id);
                for cancel in taken.iter().take(*done) {
                    store.cancelled(cancel.bet_id, at(now))?;
                }
                Ok(Answer::Cancels(
                    taken
                        .iter()
                        .map(|cancel| (number(cancel.bet_id), cancel.attempts))
                        .collect(),
                ))
            }
        }
    }
}

impl What {
    fn as_movement(&self, names: &Names, now: i64) -> Movement {
        let order = |user, cents, text| order_of(names, user, cents, text, now);
        match *self {
            What::Deposit {
                user,
                reference,
                cents,
            } => Movement::Deposit(order(user, cents, reference)),
            What::Withdraw {
                user,
                reference,
                cents,
            } => Movement::Withdraw(order(user, cents, reference)),
            What::Reserve {
                user,
                reference,
                cents,
            } => Movement::Reserve(order(user, cents, reference)),
            What::Settle {
                user,
                reference: text,
                by,
            } => Movement::Settle {
                user_id: user_of(names, user),
                reference: reference(&format!("r{text}")),
                settlement: by,
                at: at(now),
            },
            ref other => panic!("{other:?} is not a movement"),
        }
    }
}

fn user_of(names: &Names, number: u8) -> UserId {
    user(&names.user(number))
}

fn moved(outcome: Result<Wallet, WalletError>) -> Result<Answer, StoreError> {
    match outcome {
        Ok(wallet) => Ok(Answer::Balance(
            wallet.balance.available,
            wallet.balance.reserved,
        )),
        Err(error) => refused(error),
    }
}

fn held(outcome: Result<Reservation, WalletError>) -> Result<Answer, StoreError> {
    let seconds = |moment: Timestamp| (moment.micros() - at(0).micros()) / 1_000_000;
    match outcome {
        Ok(held) => Ok(Answer::Reservation(
            held.status,
            seconds(held.created_at),
            held.settled_at.map(seconds),
        )),
        Err(error) => refused(error),
    }
}

fn refused(error: WalletError) -> Result<Answer, StoreError> {
    Ok(Answer::Refused(match error {
        WalletError::WalletNotFound => "no wallet",
        WalletError::InsufficientFunds => "too little",
        WalletError::BalanceTooHigh => "too much",
        WalletError::ReservationNotFound => "no reservation",
        WalletError::AlreadySettled(status) => status.as_str(),
        WalletError::HeldByBet => "held by bet",
        WalletError::IdempotencyConflict => "other amount",
        WalletError::KeyReused => "key reused",
        WalletError::Store(error) => return Err(error),
    }))
}

fn decided(decided: Decided) -> Answer {
    match decided {
        Decided::Now { .. } => Answer::Decided,
        Decided::Before(status) => Answer::Before(status),
        Decided::Unknown => Answer::Unknown,
    }
}
