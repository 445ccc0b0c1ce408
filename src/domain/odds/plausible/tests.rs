use proptest::prelude::*;

use super::*;
use crate::domain::odds::book::Book;
use crate::domain::odds::update::testing::update;

const SKEW: Duration = Duration::from_secs(300);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis((1_762_722_465 + seconds) * 1_000).unwrap()
}

#[test]
fn times_within_skew_are_accepted() {
    let limits = Plausibility::within(SKEW);
    assert_eq!(limits.check(at(300), None, at(0)), Ok(()));
    assert_eq!(
        limits.check(at(301), None, at(0)).unwrap_err().reason(),
        "future"
    );
    let first = "0000-01-01T00:00:00Z".parse().unwrap();
    let last = "9999-12-31T23:59:59.999999Z".parse().unwrap();
    assert_eq!(
        limits.check(first, None, at(0)),
        Ok(()),
        "an old time blocks nothing"
    );
    assert_eq!(
        limits.check(last, None, at(0)).unwrap_err().reason(),
        "future"
    );
    assert_eq!(Plausibility::any_time().check(last, None, at(0)), Ok(()));
}

#[test]
fn implausible_seq_is_refused() {
    let limits = Plausibility::within(SKEW);
    let now = at(0).micros() as u64;
    for seq in [0, 1, now, now + 3_600_000_000] {
        assert_eq!(limits.check(at(0), Some(seq), at(0)), Ok(()), "{seq}");
    }
    for seq in [2 * now, i64::MAX as u64, u64::MAX - 1, u64::MAX] {
        assert_eq!(
            limits.check(at(0), Some(seq), at(0)).unwrap_err().reason(),
            "seq",
            "{seq}"
        );
    }
}

#[test]
fn record_ahead_of_publication_stays_refused() {
    let limits = Plausibility::within(SKEW);
    // Published at 0 with a time an hour ahead; read at once, and by a group with a lag of two
    // hours.
    for now in [at(0), at(7_200)] {
        assert!(limits.check_record(at(3_600), Some(at(0)), now).is_err());
    }
    // A publisher whose clock is ahead as well makes no difference.
    assert!(
        limits
            .check_record(at(3_600), Some(at(3_600)), at(0))
            .is_err()
    );
    // Even with zero skew, an update of the same millisecond as its publication is accepted.
    let micros = |micros| Timestamp::from_micros(at(0).micros() + micros).unwrap();
    let exact = Plausibility::within(Duration::ZERO);
    assert_eq!(exact.check_record(micros(789), Some(at(0)), at(1)), Ok(()));
    assert!(
        exact
            .check_record(micros(1_001), Some(at(0)), at(1))
            .is_err()
    );
    // An invalid record time does not refuse a true update.
    for recorded in [
        None,
        Timestamp::from_micros(0),
        Timestamp::from_millis(1_762_722),
    ] {
        assert_eq!(limits.check_record(at(10), recorded, at(0)), Ok(()));
    }
}

proptest! {
    /// An update of any version is replaced by one with a later time.
    #[test]
    fn later_time_beats_any_version(first in any::<i64>(), second in any::<i64>()) {
        let mut book = Book::new(update(1, 1, 1).event_id);
        book.apply(update(1, 10, first), 0).unwrap();
        prop_assert!(book.apply(update(1, 11, second), 1).is_ok());
    }

    /// Both groups decide the same, whenever each of them reads the record.
    #[test]
    fn every_group_decides_the_same(ahead in -1_000i64..1_000, live in 0i64..100_000, store in 0i64..100_000) {
        let limits = Plausibility::within(SKEW);
        let decide = |now| limits.check_record(at(ahead), Some(at(0)), at(now)).is_ok();
        prop_assert_eq!(decide(live), decide(store));
    }
}
