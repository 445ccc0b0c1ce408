//! The supplier's record of bets: which it confirmed, rejected or cancelled. Each bet is decided
//! once.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::confirm::{self, ConfirmResponse};

/// Maximum number of recorded bets; above it, the oldest are evicted.
const MAX_BETS: usize = 100_000;
/// Maximum total size of their ids, in bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The reject reason for a cancelled bet.
pub(crate) const CANCELLED: &str = "cancelled";
/// The reject reason for any other bet.
pub(crate) const REJECTED: &str = "supplier_reject_mock";

/// The supplier's recorded status of a bet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum BookedStatus {
    /// The supplier confirmed it.
    Confirmed,
    /// The supplier rejected it.
    Rejected,
    /// It was cancelled, possibly before it was placed.
    Cancelled,
}

/// The response of `GET /supplier/bets/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BookedBet {
    /// The bet id.
    pub bet_id: String,
    /// The recorded status.
    pub status: BookedStatus,
    /// The number of confirmation requests that were recorded.
    pub asked: u64,
}

/// The request body of `POST /supplier/cancel`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct CancelRequest {
    /// The bet id.
    #[serde(rename = "betId")]
    pub bet_id: String,
}

/// The supplier's record of bets.
#[derive(Debug)]
pub(crate) struct BetRegister {
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
    /// Creates an empty register of a supplier that rejects this fraction of all bets, 0 to 1.
    pub(crate) fn new(reject_share: f64) -> BetRegister {
        let most_bets = MAX_BETS;
        BetRegister {
            reject_share,
            most_bets,
            bets: HashMap::new(),
            oldest_first: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Decides a bet, or repeats the earlier decision.
    pub(crate) fn confirm(&mut self, bet_id: &str) -> ConfirmResponse {
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

    /// Cancels a bet in any status. An unknown bet is recorded as cancelled, so that a later
    /// confirmation request is rejected.
    pub(crate) fn cancel(&mut self, bet_id: &str) {
        self.entry(bet_id, BookedStatus::Cancelled).status = BookedStatus::Cancelled;
    }

    /// The record of a bet.
    pub(crate) fn bet(&self, bet_id: &str) -> Option<BookedBet> {
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
    fn decision_is_final_and_cancelled_is_rejected() {
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

    /// The oldest bets are evicted if there are too many or if their ids are too long.
    #[test]
    fn oldest_bets_are_evicted() {
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
        fn decision_stays_until_cancelled(steps in proptest::collection::vec((0..5_u8, any::<bool>()), 0..60)) {
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
