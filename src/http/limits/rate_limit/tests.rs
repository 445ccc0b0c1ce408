use governor::clock::FakeRelativeClock;
use pretty_assertions::assert_eq;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

struct Timed {
    limit: RateLimit<FakeRelativeClock>,
    clock: FakeRelativeClock,
}

impl Timed {
    fn new(per_second: u32, burst: u32, max_buckets: usize) -> Timed {
        let clock = FakeRelativeClock::default();
        // A bucket of time 0 would be a full one.
        clock.advance(SECOND);
        let rate = RequestRate { per_second, burst };
        let class = RequestClass::Read;
        Timed {
            limit: RateLimit::with_clock(class, rate, max_buckets, clock.clone()).unwrap(),
            clock,
        }
    }

    /// How many of `requests` are accepted.
    fn accepted(&self, key: u64, requests: u32) -> u32 {
        (0..requests)
            .map(|_| u32::from(self.limit.check(key).is_ok()))
            .sum()
    }
}

#[test]
fn burst_is_followed_by_the_rate() {
    let timed = Timed::new(10, 25, 100);
    assert_eq!(timed.accepted(1, 40), 25);
    assert_eq!(timed.accepted(2, 40), 25, "keys are counted separately");
    timed.clock.advance(SECOND);
    assert_eq!(timed.accepted(1, 40), 10);
    timed.clock.advance(60 * SECOND);
    assert_eq!(timed.accepted(1, 40), 25);
}

#[test]
fn no_rate_is_no_limit() {
    let rate = RequestRate {
        per_second: 0,
        burst: 0,
    };
    assert!(RateLimit::new(RequestClass::Read, rate).is_none());
}

#[test]
fn refusal_says_when_to_retry() {
    let timed = Timed::new(1, 3, 100);
    assert_eq!(timed.accepted(1, 3), 3);
    timed.limit.charge(1, 4);
    let refused = timed.limit.check(1).unwrap_err();
    assert_eq!(refused.retry_after, 5);
    assert_eq!(
        refused.to_string(),
        "too many reads of this caller: at most 3 within 3 s; retry in 5 s"
    );
    let headers: Vec<_> = refused
        .headers()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    assert_eq!(
        headers,
        [
            r#"ratelimit-policy: "read";q=3;w=3"#,
            r#"ratelimit: "read";r=0;t=5"#
        ]
    );
    timed.clock.advance(4 * SECOND);
    assert_eq!(timed.accepted(1, 1), 0);
    timed.clock.advance(SECOND);
    assert_eq!(timed.accepted(1, 1), 1);
}

/// Also if the bucket is too empty for the charge: otherwise guesses at the rate of the limit would
/// cost one request each.
#[test]
fn charge_after_the_fact_is_made_up_for() {
    let timed = Timed::new(10, 10, 100);
    let mut guesses = 0;
    for _ in 0..1_000 {
        let accepted = timed.accepted(1, 1);
        if accepted > 0 {
            timed.limit.charge(1, 9);
        }
        guesses += accepted;
        timed.clock.advance(SECOND / 10);
    }
    // In 100 seconds of 10 requests, 10 for each guess.
    assert!((100..=101).contains(&guesses), "{guesses}");
}

/// Its bucket may have been forgotten between the request and its charge.
#[test]
fn forgotten_key_is_charged() {
    let timed = Timed::new(10, 10, 100);
    timed.limit.charge(1, 9);
    assert_eq!(timed.accepted(1, 20), 1);
    timed.clock.advance(60 * SECOND);
    timed.limit.sweep();
    assert_eq!(timed.limit.len(), 0);
    timed.limit.charge(1, 8);
    assert_eq!(timed.accepted(1, 20), 2);
    // A bucket that is full, but not forgotten yet.
    timed.clock.advance(60 * SECOND);
    timed.limit.charge(1, 9);
    assert_eq!(timed.accepted(1, 20), 1);
}

#[test]
fn debt_is_at_most_a_minute() {
    for (per_second, burst) in [(1, 3), (1, 500), (2_000, 10_000)] {
        let timed = Timed::new(per_second, burst, 100);
        for _ in 0..10_000 {
            timed.limit.charge(1, 100);
        }
        let refused = timed.limit.check(1).unwrap_err();
        assert_eq!(refused.retry_after, 60, "{per_second}:{burst}");
        timed.limit.charge(1, 100);
        timed.clock.advance(60 * SECOND);
        assert_eq!(timed.accepted(1, 2), 1, "{per_second}:{burst}");
    }
}

#[test]
fn charged_keys_are_bounded() {
    let timed = Timed::new(10, 10, 1_600);
    for key in 0..100_000_u64 {
        timed
            .limit
            .charge(key.wrapping_mul(0x9e37_79b9_7f4a_7c15), 1);
    }
    assert!(timed.limit.len() <= 1_600, "{}", timed.limit.len());
}

#[test]
fn quiet_keys_are_forgotten() {
    let timed = Timed::new(10, 20, 1_000);
    assert_eq!(timed.accepted(1, 20), 20);
    for key in 2..=100 {
        timed.accepted((key << 57) | key, 1);
    }
    assert_eq!(timed.limit.len(), 100);
    timed.clock.advance(SECOND);
    timed.limit.sweep();
    assert_eq!(timed.limit.len(), 1, "the bucket of 1 is not full yet");
    assert_eq!(timed.accepted(1, 20), 10);
    timed.clock.advance(60 * SECOND);
    timed.limit.sweep();
    assert_eq!(timed.limit.len(), 0);
}

#[test]
fn keys_are_bounded_and_limited_ones_stay() {
    let timed = Timed::new(10, 10, 1_600);
    let limited = u64::MAX;
    assert_eq!(timed.accepted(limited, 10), 10);
    for other in 0..100_000_u64 {
        // Spread over all shards.
        timed.accepted(other.wrapping_mul(0x9e37_79b9_7f4a_7c15), 1);
    }
    assert!(timed.limit.len() <= 1_600, "{}", timed.limit.len());
    assert_eq!(timed.accepted(limited, 10), 0);
}

proptest! {
    /// However requests, charges and pauses are interleaved: no key gets more than the burst and
    /// the rate allow, and a refused one is accepted after the time that it was told.
    #[test]
    fn rate_is_never_exceeded(
        per_second in 1_u32..50,
        burst in 1_u32..50,
        steps in proptest::collection::vec((0_u64..3, 0_u32..4, 0_u64..500), 1..200),
    ) {
        let timed = Timed::new(per_second, burst, 100);
        let mut taken = [0_u64; 3];
        let mut elapsed = 0;
        for (key, charge, pause) in steps {
            match timed.limit.check(key) {
                Ok(()) => {
                    taken[key as usize] += 1;
                    timed.limit.charge(key, charge);
                }
                Err(refused) => {
                    timed.clock.advance(Duration::from_secs(refused.retry_after));
                    elapsed += 1_000 * refused.retry_after;
                    prop_assert!(timed.limit.check(key).is_ok());
                    taken[key as usize] += 1;
                }
            }
            let allowed = u64::from(burst) + elapsed * u64::from(per_second) / 1_000 + 1;
            prop_assert!(taken[key as usize] <= allowed, "{taken:?} {allowed}");
            timed.clock.advance(Duration::from_millis(pause));
            elapsed += pause;
        }
    }
}
