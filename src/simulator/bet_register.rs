//! What the supplier knows about bets: which it took, which it rejected, which were cancelled. A
//! bet is decided once.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::confirm::{self, ConfirmResponse};
use crate::domain::string_enum::string_enum;

/// The most bets that are known; behind them the oldest are forgotten.
const MAX_BETS: usize = 100_000;
/// The most bytes that their ids may hold.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Why a bet is rejected that was cancelled.
pub const CANCELLED: &str = "cancelled";
/// Why a bet is rejected otherwise.
pub const REJECTED: &str = "supplier_reject_mock";

string_enum! {
    /// What the supplier's books say of a bet.
    BookedStatus, "status in the supplier's books", {
        /// The supplier took it.
        Confirmed = "CONFIRMED",
        /// It did not.
        Rejected = "REJECTED",
        /// It is no bet any more, or will never be one.
        Cancelled = "CANCELLED",
    }
}

/// The answer of `GET /supplier/bets/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BookedBet {
    /// The bet.
    pub bet_id: String,
    /// What it is.
    pub status: BookedStatus,
    /// How often a confirmation of it was asked for and came to the books.
    pub asked: u64,
}

/// A question of `POST /supplier/cancel`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CancelRequest {
    /// The bet.
    #[serde(rename = "betId")]
    pub bet_id: String,
}

/// The books.
#[derive(Debug)]
pub struct BetRegister {
    reject_share: f64,
    most_bets: usize,
    bets: HashMap<String, Entry>,
    oldest_first: VecDeque<String>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    status: BookedStatus,
    asked: u64,
}

impl BetRegister {
    /// Empty books of a supplier that rejects a share of all bets, 0 to 1.
    pub fn new(reject_share: f64) -> BetRegister {
        let most_bets = MAX_BETS;
        BetRegister {
            reject_share,
            most_bets,
            bets: HashMap::new(),
            oldest_first: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Decides a bet, or says again what was decided.
    pub fn confirm(&mut self, bet_id: &str) -> ConfirmResponse {
        let rejected = confirm::is_rejected(bet_id, self.reject_share);
        let entry = self.entry(
            bet_id,
            if rejected {
                BookedStatus::Rejected
            } else {
                BookedStatus::Confirmed
            },
        );
        entry.asked += 1;
        let reason = match entry.status {
            BookedStatus::Confirmed => None,
            BookedStatus::Rejected => Some(REJECTED),
            BookedStatus::Cancelled => Some(CANCELLED),
        };
        ConfirmResponse::new(bet_id, reason)
    }

    /// Cancels a bet, whatever it is; also one that is not known, so that a confirmation which
    /// comes later finds it so.
    pub fn cancel(&mut self, bet_id: &str) {
        self.entry(bet_id, BookedStatus::Cancelled).status = BookedStatus::Cancelled;
    }

    /// What is known of a bet.
    pub fn bet(&self, bet_id: &str) -> Option<BookedBet> {
        let Entry { status, asked } = *self.bets.get(bet_id)?;
        Some(BookedBet {
            bet_id: bet_id.to_owned(),
            status,
            asked,
        })
    }

    fn entry(&mut self, bet_id: &str, first: BookedStatus) -> &mut Entry {
        if !self.bets.contains_key(bet_id) {
            self.bytes += bet_id.len();
            self.oldest_first.push_back(bet_id.to_owned());
            while self.oldest_first.len() > self.most_bets || self.bytes > MAX_BYTES {
                let Some(oldest) = self.oldest_first.pop_front() else {
                    break;
                };
                self.bytes -= oldest.len();
                self.bets.remove(&oldest);
            }
        }
        self.bets.entry(bet_id.to_owned()).or_insert(Entry {
            status: first,
            asked: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::simulator::confirm::ConfirmStatus;

    #[test]
    fn a_bet_is_decided_once_and_a_cancelled_one_is_never_taken() {
        let mut books = BetRegister::new(0.0);
        assert_eq!(books.bet("a"), None);
        assert_eq!(books.confirm("a"), books.confirm("a"));
        let booked =
            |books: &BetRegister, bet: &str| serde_json::to_string(&books.bet(bet)).unwrap();
        assert_eq!(
            booked(&books, "a"),
            r#"{"betId":"a","status":"CONFIRMED","asked":2}"#
        );
        books.cancel("a");
        books.cancel("never seen");
        for bet in ["a", "never seen"] {
            let answer = books.confirm(bet);
            assert_eq!(
                (answer.status, answer.reason),
                (ConfirmStatus::Rejected, Some(CANCELLED))
            );
        }
        assert_eq!(
            booked(&books, "a"),
            r#"{"betId":"a","status":"CANCELLED","asked":3}"#
        );
        assert_eq!(
            booked(&books, "never seen"),
            r#"{"betId":"never seen","status":"CANCELLED","asked":1}"#
        );
        assert_eq!(BetRegister::new(1.0).confirm("a").reason, Some(REJECTED));
    }

    #[test]
    fn the_oldest_are_forgotten_when_there_are_too_many_or_their_ids_are_too_long() {
        let mut books = BetRegister {
            most_bets: 3,
            ..BetRegister::new(0.0)
        };
        for bet in ["a", "b", "a", "c", "d"] {
            books.confirm(bet);
        }
        assert_eq!(
            (books.bets.len(), books.oldest_first.len(), books.bytes),
            (3, 3, 3)
        );
        assert!(books.bet("a").is_none() && books.bet("b").is_some());
        let mut books = BetRegister::new(0.0);
        for bet in 0..3_000 {
            books.cancel(&format!("{bet}{}", "x".repeat(16_000)));
        }
        assert!(
            books.bytes <= MAX_BYTES
                && books.bets.len() == books.oldest_first.len()
                && books.bets.len() > 900
        );
    }

    proptest! {
        #[test]
        fn what_was_decided_stays_until_it_is_cancelled(steps in proptest::collection::vec((0..5_u8, any::<bool>()), 0..60)) {
            let mut books = BetRegister::new(0.5);
            let mut cancelled = std::collections::HashSet::new();
            let mut answers: HashMap<u8, ConfirmResponse> = HashMap::new();
            for (bet, is_cancel) in steps {
                let id = format!("bet-{bet}");
                if is_cancel {
                    books.cancel(&id);
                    cancelled.insert(bet);
                } else {
                    let answer = books.confirm(&id);
                    if cancelled.contains(&bet) {
                        prop_assert_eq!(answer.reason, Some(CANCELLED));
                    } else {
                        prop_assert_eq!(answers.entry(bet).or_insert_with(|| answer.clone()), &answer);
                    }
                }
            }
        }
    }
}
