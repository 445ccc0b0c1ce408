use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUTS: Timeouts = Timeouts {
    stale_after: Duration::from_secs(10),
    read_timeout: Duration::from_secs(20),
    ping_interval: Some(Duration::from_secs(5)),
};

fn timers(start: Instant) -> FeedTimers {
    let mut timers = FeedTimers::new(TIMEOUTS, start);
    timers.connected(start);
    timers
}

#[test]
fn staleness_is_reported_once_per_silence() {
    let start = Instant::now();
    let mut timers = timers(start);
    assert!(!timers.become_stale(start + 9 * SECOND));
    assert!(timers.become_stale(start + 10 * SECOND));
    assert!(!timers.become_stale(start + 50 * SECOND));
    timers.live(start + 60 * SECOND);
    assert!(!timers.become_stale(start + 69 * SECOND));
    assert!(timers.become_stale(start + 70 * SECOND));
}

/// Prices of a lost supplier become stale too, and a reconnect alone does not make them live.
#[test]
fn reconnect_does_not_make_prices_live() {
    let start = Instant::now();
    let mut timers = timers(start);
    timers.disconnected();
    timers.connected(start + 9 * SECOND);
    timers.received(start + 9 * SECOND);
    assert!(timers.become_stale(start + 10 * SECOND));
}

/// A pong shows that the line works, not that prices can be read.
#[test]
fn feed_is_blind_until_readable_frame() {
    let start = Instant::now();
    let mut timers = timers(start);
    assert!(!timers.is_blind());
    timers.unreadable();
    assert!(timers.is_blind());
    assert!(timers.become_stale(start + 10 * SECOND));
    assert!(timers.is_blind() && timers.is_stale());
    assert!(timers.live(start + 12 * SECOND), "prices were stale");
    assert!(!timers.is_blind() && !timers.is_stale());
    assert!(!timers.live(start + 13 * SECOND));
}

#[test]
fn wait_for_the_bus_is_no_silence() {
    let start = Instant::now();
    let mut timers = timers(start);
    timers.unnamed_refusals(1, start);
    timers.exclude_wait(100 * SECOND);
    let before = start + 109 * SECOND;
    assert!(!timers.become_stale(before));
    assert_eq!(timers.end_unnamed_period(before), None);
    assert!(!timers.is_silent(before));
    assert!(timers.become_stale(start + 110 * SECOND));
    assert_eq!(timers.end_unnamed_period(start + 110 * SECOND), Some(1));
    assert!(timers.is_silent(start + 120 * SECOND));
}

#[test]
fn only_open_connections_are_silent_or_pinged() {
    let start = Instant::now();
    let mut timers = timers(start);
    assert!(!timers.ping_due(start + 4 * SECOND));
    assert!(timers.ping_due(start + 5 * SECOND));
    assert!(!timers.ping_due(start + 9 * SECOND));
    assert!(timers.ping_due(start + 10 * SECOND));
    timers.received(start + 10 * SECOND);
    assert!(!timers.is_silent(start + 29 * SECOND));
    assert!(timers.is_silent(start + 30 * SECOND));
    timers.disconnected();
    assert!(!timers.is_silent(start + 99 * SECOND));
    assert!(!timers.ping_due(start + 99 * SECOND));
}

#[test]
fn format_without_pings_sends_none() {
    let start = Instant::now();
    let timeouts = Timeouts {
        ping_interval: None,
        ..TIMEOUTS
    };
    let mut timers = FeedTimers::new(timeouts, start);
    timers.connected(start);
    assert!(!timers.ping_due(start + 99 * SECOND));
}

/// Refusals during a period belong to the next one, which starts when they are recorded again.
#[test]
fn later_refusals_start_another_period() {
    let start = Instant::now();
    let mut timers = timers(start);
    timers.unnamed_refusals(2, start);
    timers.unnamed_refusals(3, start + 5 * SECOND);
    assert_eq!(timers.end_unnamed_period(start + 9 * SECOND), None);
    let over = start + 10 * SECOND;
    assert_eq!(timers.end_unnamed_period(over), Some(2));
    assert_eq!(timers.end_unnamed_period(over), None);
    timers.unnamed_refusals(3, over);
    assert_eq!(timers.end_unnamed_period(over + 9 * SECOND), None);
    assert_eq!(timers.end_unnamed_period(over + 10 * SECOND), Some(3));
    timers.unnamed_refusals(3, over + 10 * SECOND);
    assert_eq!(timers.end_unnamed_period(over + 99 * SECOND), None);
}

proptest! {
    /// Every refusal is handled: never before its period is over, and at most two periods and two
    /// checks after it.
    #[test]
    fn every_unnamed_refusal_is_handled_in_time(
        steps in proptest::collection::vec(0_u64..3, 1..80)
    ) {
        let start = Instant::now();
        let mut timers = timers(start);
        let mut arrivals = Vec::new();
        let mut handled = 0;
        for (second, refused) in (0_u32..).zip(steps.into_iter().chain([0; 22])) {
            let now = start + second * SECOND;
            arrivals.extend((0..refused).map(|_| second));
            timers.unnamed_refusals(arrivals.len() as u64, now);
            if let Some(count) = timers.end_unnamed_period(now) {
                prop_assert!(count > handled);
                let last = arrivals[count as usize - 1];
                prop_assert!(second - last >= 10);
                handled = count;
                timers.unnamed_refusals(arrivals.len() as u64, now);
            }
            let first_open = arrivals.get(handled as usize);
            prop_assert!(first_open.is_none_or(|arrival| second - arrival <= 22));
        }
        prop_assert_eq!(handled, arrivals.len() as u64);
    }

    /// For any order of frames, waits and checks, staleness and silence follow from the time since
    /// the last readable frame or data, without the waits.
    #[test]
    fn silence_is_time_without_waits(
        steps in proptest::collection::vec((0_u8..4, 0_u32..15), 1..60)
    ) {
        let start = Instant::now();
        let mut timers = timers(start);
        let mut now = start;
        let mut unread = Duration::ZERO;
        let mut silent = Duration::ZERO;
        let mut is_reported = false;
        for (kind, seconds) in steps {
            let passed = seconds * SECOND;
            now += passed;
            if kind == 0 {
                timers.exclude_wait(passed);
            } else {
                unread += passed;
                silent += passed;
            }
            match kind {
                1 => {
                    timers.received(now);
                    silent = Duration::ZERO;
                }
                2 => {
                    timers.received(now);
                    timers.live(now);
                    (unread, silent, is_reported) = (Duration::ZERO, Duration::ZERO, false);
                }
                _ => {}
            }
            let is_stale = unread >= TIMEOUTS.stale_after;
            prop_assert_eq!(timers.become_stale(now), is_stale && !is_reported);
            is_reported |= is_stale;
            prop_assert_eq!(timers.is_silent(now), silent >= TIMEOUTS.read_timeout);
        }
    }
}
