//! Which sequence numbers of a book a client can resume from.
//!
//! A client that has everything up to a number resumes with the markets whose number is larger. That
//! is complete only if the number means the same here as where the client got it.

/// What a book knows about its numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Continuity {
    /// The last number that was loaded.
    loaded: u64,
    /// The first number after that. What was published between the two, and never stored, is not
    /// known here.
    first: Option<u64>,
    /// The last number that every process gives to the same change.
    shared: u64,
    /// Whether the book may lack markets that are stored.
    is_partial: bool,
}

impl Continuity {
    /// The book was loaded up to `seq`; `stored` is the number in the store.
    pub(super) fn load(&mut self, seq: u64, stored: u64) {
        *self = Continuity {
            loaded: seq,
            first: None,
            shared: if seq == stored { seq } else { 0 },
            is_partial: false,
        };
    }

    /// A change got the number `seq`; `published` is its number in other processes.
    pub(super) fn advance(&mut self, seq: u64, published: u64) {
        self.first.get_or_insert(seq);
        if seq == published {
            self.shared = seq;
        }
    }

    /// The numbers between `before` and `after` may be those of lost records: a client cannot resume
    /// from them.
    pub(super) fn skip(&mut self, before: u64, after: u64) {
        self.loaded = before;
        self.first = Some(after);
    }

    /// The next number is `seq`, which every process gives to the same change. Numbers since the load
    /// may be those of lost records.
    pub(super) fn skip_to(&mut self, seq: u64) {
        self.first = Some(seq);
        self.shared = seq;
    }

    /// The continuity of a book that may lack stored markets: a client can resume from no number.
    pub fn of_partial_book(self) -> Continuity {
        Continuity {
            is_partial: true,
            ..self
        }
    }

    /// Whether a client that has everything up to `since` misses only changes with larger numbers;
    /// `head` is the book's last number.
    pub fn covers(&self, since: u64, head: u64) -> bool {
        let is_known = since <= self.loaded || self.first.is_some_and(|first| since >= first);
        is_known && since <= head && !self.is_partial
    }

    /// Whether every process gives the change with the book's last number, `head`, this number, and
    /// all changes up to it are in the book.
    pub fn is_shared(&self, head: u64) -> bool {
        self.shared == head && !self.is_partial
    }
}

/// Books and their copies are compared by their content.
impl PartialEq for Continuity {
    fn eq(&self, _: &Continuity) -> bool {
        true
    }
}

impl Eq for Continuity {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::domain::ids::EventId;
    use crate::domain::odds::book::{Book, LOST_NUMBERS, MarketState};
    use crate::domain::odds::update::testing::{market_update, update};

    #[test]
    fn lost_numbers_are_not_covered() {
        let mut old = Book::new(EventId::new("MATCH_001").unwrap());
        old.apply(update(1, 1, 1), 9).unwrap();
        let stored = old.snapshot().markets;
        // The process is killed after it has published 13, which is never stored.
        old.apply(update(1, 2, 2), 12).unwrap();
        let mut book = Book::new(EventId::new("MATCH_001").unwrap());
        book.restore(stored);
        let covers = |book: &Book, since| {
            let snapshot = book.snapshot();
            snapshot.continuity.covers(since, snapshot.seq)
        };
        assert!(covers(&book, 0) && covers(&book, 10) && !covers(&book, 13));
        book.continue_from(20);
        assert!(covers(&book, 10) && !covers(&book, 13) && covers(&book, 20));
        book.apply(update(1, 3, 3), 29).unwrap();
        assert!(!covers(&book, 13) && covers(&book, 20) && covers(&book, 30));
        assert!(!covers(&book, 31), "a number that was never given");
    }

    /// A record with a number in between may have been shown, and was lost.
    #[test]
    fn skipped_numbers_are_not_covered() {
        let covers = |book: &Book, since| {
            let snapshot = book.snapshot();
            snapshot.continuity.covers(since, snapshot.seq)
        };
        let market = |name: &str, seq| {
            let update = market_update("MATCH_001", name, None, 1, 1);
            Arc::new(MarketState { update, seq })
        };
        let mut mirror = Book::new(EventId::new("MATCH_001").unwrap());
        mirror.restore([market("1x2", 90), market("totals", 100)]);
        let jumped = 100 + LOST_NUMBERS;
        let key = market("totals", 0).update.market.clone();
        mirror.agree(&key, jumped).unwrap();
        assert!(covers(&mirror, 100) && !covers(&mirror, 105) && covers(&mirror, jumped));
        let mut loaded = Book::new(EventId::new("MATCH_001").unwrap());
        loaded.restore(mirror.snapshot().markets);
        assert!(covers(&loaded, 90) && !covers(&loaded, 105) && covers(&loaded, jumped));
        assert!(loaded.is_shared());
    }

    #[test]
    fn raised_number_is_not_shared() {
        let mut mirror = Book::new(EventId::new("MATCH_001").unwrap());
        assert!(mirror.is_shared());
        mirror.mirror(update(1, 1, 1), Some(14)).unwrap();
        assert!(mirror.is_shared());
        // Published before 14, but it arrives after it.
        let late = market_update("MATCH_001", "totals", None, 1, 1);
        mirror.mirror(late, Some(12)).unwrap();
        assert_eq!(mirror.snapshot().seq, 15);
        assert!(!mirror.is_shared());
        mirror.mirror(update(1, 2, 2), Some(16)).unwrap();
        assert!(mirror.is_shared());
    }
}
