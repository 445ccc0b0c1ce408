//! The model.

use std::collections::{BTreeMap, HashMap};

use super::operations::{Answer, BETS, TO_DECIDE, USERS, What, key_of};
use super::*;

/// What a reservation is for: a reference of the test, or a bet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Of {
    Reference(u8),
    Bet(u8),
}

#[derive(Clone, Debug)]
struct Hold {
    cents: i64,
    status: ReservationStatus,
    made: i64,
    ended: Option<i64>,
}

#[derive(Clone, Debug)]
struct ModelBet {
    user: u8,
    cents: i64,
    /// The available balance after the bet was placed.
    balance_after: i64,
    status: BetStatus,
    decide_by: i64,
}

#[derive(Clone, Debug)]
struct Row {
    bet: u8,
    topic: &'static str,
    leased_until: i64,
}

#[derive(Clone, Debug)]
struct ModelCancel {
    attempts: u32,
    next: i64,
    is_done: bool,
}

/// The whole state, as maps.
#[derive(Default)]
pub(super) struct Model {
    wallets: HashMap<u8, (i64, i64)>,
    /// The number of transfers of each user.
    transfers: HashMap<u8, usize>,
    deposits: HashMap<(u8, u8), (i64, Answer)>,
    withdrawals: HashMap<(u8, u8), (i64, Answer)>,
    holds: BTreeMap<(u8, Of), Hold>,
    bets: BTreeMap<u8, ModelBet>,
    /// For each user and key, the fingerprint and the answer.
    keys: HashMap<(u8, u8), (u8, Answer)>,
    /// The same for wallet requests, per operation.
    wallet_keys: HashMap<(&'static str, u8, u8), (u8, Answer)>,
    outbox: Vec<Row>,
    cancels: BTreeMap<u8, ModelCancel>,
}

impl Model {
    /// Runs an operation and returns the expected answer.
    pub(super) fn does(&mut self, what: &What, now: i64) -> Answer {
        match *what {
            What::Deposit {
                user,
                reference,
                cents,
            } => {
                if let Some((first, answer)) = self.deposits.get(&(user, reference)) {
                    return if *first == cents {
                        answer.clone()
                    } else {
                        Answer::Refused("other amount")
                    };
                }
                let (available, reserved) = self.wallets.get(&user).copied().unwrap_or_default();
                if i128::from(available) + i128::from(reserved) + i128::from(cents)
                    > i128::from(i64::MAX)
                {
                    return Answer::Refused("too much");
                }
                let answer = self.now_has(user, (available + cents, reserved));
                self.deposits
                    .insert((user, reference), (cents, answer.clone()));
                answer
            }
            What::Withdraw {
                user,
                reference,
                cents,
            } => {
                let Some((available, reserved)) = self.wallets.get(&user).copied() else {
                    return Answer::Refused("no wallet");
                };
                if let Some((first, answer)) = self.withdrawals.get(&(user, reference)) {
                    return if *first == cents {
                        answer.clone()
                    } else {
                        Answer::Refused("other amount")
                    };
                }
                if available < cents {
                    return Answer::Refused("too little");
                }
                let answer = self.now_has(user, (available - cents, reserved));
                self.withdrawals
                    .insert((user, reference), (cents, answer.clone()));
                answer
            }
            What::Reserve {
                user,
                reference,
                cents,
            } => self.reserve(user, Of::Reference(reference), cents, now),
            What::Settle {
                user,
                reference,
                by,
            } => self.settle(user, Of::Reference(reference), by, now),
            What::Once {
                ref movement,
                key: (key, fingerprint),
            } => {
                let (operation, user) = match **movement {
                    What::Deposit { user, .. } => ("deposit", user),
                    What::Withdraw { user, .. } => ("withdraw", user),
                    What::Reserve { user, .. } => ("reserve", user),
                    What::Settle { user, by, .. } => (by.kind().as_str(), user),
                    ref other => panic!("{other:?} is not a movement"),
                };
                if let Some((first, answer)) = self.wallet_keys.get(&(operation, user, key)) {
                    return if *first == fingerprint {
                        answer.clone()
                    } else {
                        Answer::Refused("key reused")
                    };
                }
                let answer = self.does(movement, now);
                self.wallet_keys
                    .insert((operation, user, key), (fingerprint, answer.clone()));
                answer
            }
            What::SettleOfBet { user, bet, by } => match self.holds.get(&(user, Of::Bet(bet))) {
                Some(hold) if hold.status == ReservationStatus::Pending => {
                    Answer::Refused("held by bet")
                }
                _ => self.settle(user, Of::Bet(bet), by, now),
            },
            What::Expire { older_than, limit } => self.expire(now - older_than, limit, now),
            What::Place {
                user,
                bet,
                cents,
                key,
            } => self.place(user, bet, cents, key, now),
            What::Refuse { user, key } => self.first(user, key).unwrap_or_else(|| {
                self.keep(user, Some(key), Answer::BetRefused("EVENT_NOT_FOUND"))
            }),
            What::FirstAnswer { user, key } => self.first(user, key).unwrap_or(Answer::None),
            What::Decide { bet, ref outcome } => self.decide(bet, outcome, now),
            What::DecideOverdue { limit } => {
                let mut overdue: Vec<_> = self
                    .bets
                    .iter()
                    .filter(|(_, bet)| bet.status == BetStatus::Pending && bet.decide_by <= now)
                    .map(|(number, bet)| (bet.decide_by, *number))
                    .collect();
                overdue.sort();
                overdue.truncate(limit);
                for (_, bet) in &overdue {
                    self.decide(*bet, &BetOutcome::TimedOut, now);
                }
                Answer::Count(overdue.len())
            }
            What::Publish {
                limit,
                publish,
                lease,
            } => {
                let free = self
                    .outbox
                    .iter_mut()
                    .filter(|row| row.leased_until <= now)
                    .take(limit);
                let taken: Vec<_> = free
                    .map(|row| {
                        row.leased_until = now + lease;
                        (row.bet, row.topic)
                    })
                    .collect();
                self.outbox.retain(|row| {
                    !taken
                        .iter()
                        .take(publish)
                        .any(|taken| *taken == (row.bet, row.topic))
                });
                Answer::Rows(taken)
            }
            What::Cancel { limit, done, pause } => self.cancel(limit, done, now, now + pause),
        }
    }

    fn now_has(&mut self, user: u8, balances: (i64, i64)) -> Answer {
        self.wallets.insert(user, balances);
        *self.transfers.entry(user).or_default() += 1;
        Answer::Balance(balances.0, balances.1)
    }

    fn reserve(&mut self, user: u8, of: Of, cents: i64, now: i64) -> Answer {
        let Some((available, reserved)) = self.wallets.get(&user).copied() else {
            return Answer::Refused("no wallet");
        };
        if let Some(hold) = self.holds.get(&(user, of)) {
            return if hold.cents == cents {
                hold.as_answer()
            } else {
                Answer::Refused("other amount")
            };
        }
        if available < cents {
            return Answer::Refused("too little");
        }
        self.now_has(user, (available - cents, reserved + cents));
        let hold = Hold {
            cents,
            status: ReservationStatus::Pending,
            made: now,
            ended: None,
        };
        self.holds.insert((user, of), hold.clone());
        hold.as_answer()
    }

    fn settle(&mut self, user: u8, of: Of, by: HoldResolution, now: i64) -> Answer {
        let Some((available, reserved)) = self.wallets.get(&user).copied() else {
            return Answer::Refused("no wallet");
        };
        let Some(hold) = self.holds.get_mut(&(user, of)) else {
            return Answer::Refused("no reservation");
        };
        let (becomes, back) = match by {
            HoldResolution::Commit => (ReservationStatus::Committed, 0),
            HoldResolution::Refund => (ReservationStatus::Refunded, hold.cents),
            HoldResolution::Expire => (ReservationStatus::Expired, hold.cents),
        };
        if hold.status != ReservationStatus::Pending {
            return if hold.status == becomes {
                hold.as_answer()
            } else {
                Answer::Refused(hold.status.as_str())
            };
        }
        (hold.status, hold.ended) = (becomes, Some(now));
        let answer = hold.as_answer();
        let cents = hold.cents;
        self.now_has(user, (available + back, reserved - cents));
        answer
    }

    fn expire(&mut self, before: i64, limit: usize, now: i64) -> Answer {
        let is_due = |of: Of, hold: &Hold| {
            matches!(of, Of::Reference(_))
                && hold.status == ReservationStatus::Pending
                && hold.made < before
        };
        let due = self
            .holds
            .iter()
            .filter(|((_, of), hold)| is_due(*of, hold))
            .map(|(key, _)| *key);
        let due: Vec<_> = due.take(limit).collect();
        for (user, of) in &due {
            self.settle(*user, *of, HoldResolution::Expire, now);
        }
        Answer::Count(due.len())
    }

    fn place(&mut self, user: u8, bet: u8, cents: i64, key: Option<(u8, u8)>, now: i64) -> Answer {
        if let Some(first) = key.and_then(|key| self.first(user, key)) {
            return first;
        }
        let Some((available, reserved)) = self.wallets.get(&user).copied() else {
            return self.keep(user, key, Answer::BetRefused("WALLET_NOT_FOUND"));
        };
        match self.bets.get(&bet) {
            Some(existing) if existing.user == user && existing.cents == cents && key.is_none() => {
                return Answer::Placed(bet, existing.balance_after, false);
            }
            Some(existing) if existing.user == user => return Answer::Refused("taken"),
            _ if available < cents => {
                return self.keep(user, key, Answer::BetRefused("INSUFFICIENT_FUNDS"));
            }
            Some(_) => return Answer::Refused("taken"),
            None => {}
        }
        self.now_has(user, (available - cents, reserved + cents));
        let hold = Hold {
            cents,
            status: ReservationStatus::Pending,
            made: now,
            ended: None,
        };
        self.holds.insert((user, Of::Bet(bet)), hold);
        let balance_after = available - cents;
        let decide_by = now + TO_DECIDE;
        self.bets.insert(
            bet,
            ModelBet {
                user,
                cents,
                balance_after,
                status: BetStatus::Pending,
                decide_by,
            },
        );
        self.outbox.push(Row {
            bet,
            topic: "bet_placed",
            leased_until: now + 3,
        });
        self.keep(user, key, Answer::Placed(bet, balance_after, true))
    }

    /// Stores the answer to a key, if there is one.
    fn keep(&mut self, user: u8, key: Option<(u8, u8)>, answer: Answer) -> Answer {
        if let Some((number, fingerprint)) = key {
            let kept = match answer {
                Answer::Placed(bet, balance_after, _) => Answer::Placed(bet, balance_after, false),
                ref other => other.clone(),
            };
            self.keys.insert((user, number), (fingerprint, kept));
        }
        answer
    }

    fn first(&self, user: u8, (number, fingerprint): (u8, u8)) -> Option<Answer> {
        let (first, answer) = self.keys.get(&(user, number))?;
        Some(if *first == fingerprint {
            answer.clone()
        } else {
            Answer::KeyReused
        })
    }

    fn decide(&mut self, number: u8, outcome: &BetOutcome, now: i64) -> Answer {
        let Some(bet) = self.bets.get_mut(&number) else {
            return Answer::Unknown;
        };
        if bet.status != BetStatus::Pending {
            return Answer::Before(bet.status);
        }
        let (status, by) = match outcome {
            BetOutcome::Confirmed { .. } => (BetStatus::Confirmed, HoldResolution::Commit),
            BetOutcome::Rejected { .. } | BetOutcome::TimedOut => {
                (BetStatus::Rejected, HoldResolution::Refund)
            }
        };
        bet.status = status;
        let user = bet.user;
        self.settle(user, Of::Bet(number), by, now);
        if *outcome == BetOutcome::TimedOut {
            self.cancels.insert(
                number,
                ModelCancel {
                    attempts: 0,
                    next: now,
                    is_done: false,
                },
            );
        }
        self.outbox.push(Row {
            bet: number,
            topic: "bet_confirmed",
            leased_until: now + 3,
        });
        Answer::Decided
    }

    fn cancel(&mut self, limit: usize, done: usize, now: i64, next: i64) -> Answer {
        let due = self
            .cancels
            .iter_mut()
            .filter(|(_, cancel)| !cancel.is_done && cancel.next <= now)
            .take(limit);
        let taken = due.enumerate().map(|(index, (bet, cancel))| {
            *cancel = ModelCancel {
                attempts: cancel.attempts + 1,
                next,
                is_done: index < done,
            };
            (*bet, cancel.attempts)
        });
        Answer::Cancels(taken.collect())
    }

    /// Compares the database with the model.
    pub(super) fn compare(
        &self,
        store: &dyn MoneyStore,
        names: &Names,
    ) -> Result<(), TestCaseError> {
        for number in 0..USERS {
            let name = names.user(number);
            let wallet = store
                .wallet(&user(&name))
                .map_err(fail)?
                .map(|wallet| wallet.balance);
            let expected = self.wallets.get(&number).copied();
            prop_assert_eq!(
                wallet.map(|balance| (balance.available, balance.reserved)),
                expected
            );
            let moved = transfers(store, &name);
            prop_assert_eq!(
                moved.len(),
                self.transfers.get(&number).copied().unwrap_or(0)
            );
            prop_assert_eq!(
                moved
                    .last()
                    .map(|last| (last.balance.available, last.balance.reserved)),
                expected
            );
            let mut stored: Vec<_> = reservations(store, &name)
                .into_iter()
                .map(|held| (held.reference.to_string(), held.amount.cents(), held.status))
                .collect();
            stored.sort_unstable_by(|one, other| one.0.cmp(&other.0));
            let mine = self.holds.iter().filter(|((user, _), _)| *user == number);
            let mut expected: Vec<_> = mine
                .map(|((_, of), hold)| (of.reference(names), hold.cents, hold.status))
                .collect();
            expected.sort_unstable_by(|one, other| one.0.cmp(&other.0));
            prop_assert_eq!(stored, expected);
        }
        for number in 0..BETS {
            let bet = store.bet(names.bet(number)).map_err(fail)?;
            let stored = bet.map(|bet| (bet.user_id.to_string(), bet.stake.cents(), bet.status));
            let expected = self
                .bets
                .get(&number)
                .map(|bet| (names.user(bet.user), bet.cents, bet.status));
            prop_assert_eq!(stored, expected);
            let steps = match self.bets.get(&number).map(|bet| bet.status) {
                None => 0,
                Some(BetStatus::Pending) => 1,
                Some(BetStatus::Confirmed | BetStatus::Rejected | BetStatus::Settled) => 2,
            };
            prop_assert_eq!(
                store.bet_history(names.bet(number)).map_err(fail)?.len(),
                steps
            );
        }
        for ((user_number, number), (fingerprint, answer)) in &self.keys {
            let what = What::FirstAnswer {
                user: *user_number,
                key: (*number, *fingerprint),
            };
            prop_assert_eq!(
                &what.on(store, names, 0).map_err(fail)?,
                answer,
                "{:?}",
                key_of((*number, *fingerprint))
            );
        }
        prop_assert_eq!(
            store.outbox_depth().map_err(fail)?.rows,
            self.outbox.len() as u64
        );
        let open = self
            .cancels
            .values()
            .filter(|cancel| !cancel.is_done)
            .count();
        prop_assert_eq!(store.open_cancels().map_err(fail)?, open as u64);
        Ok(())
    }
}

impl Of {
    fn reference(self, names: &Names) -> String {
        match self {
            Of::Reference(number) => format!("r{number}"),
            Of::Bet(number) => names.bet(number).to_string(),
        }
    }
}

impl Hold {
    fn as_answer(&self) -> Answer {
        Answer::Reservation(self.status, self.made, self.ended)
    }
}
