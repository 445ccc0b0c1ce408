//! Limits how often an image is requested on an open connection.

use std::time::Duration;

use crate::domain::timestamp::Timestamp;

/// Minimum time between image requests. An image repairs markets left in doubt by a lost change.
/// The first request is immediate; the interval doubles up to six times while the images themselves
/// contain unreadable parts.
const INTERVAL: Duration = Duration::from_secs(10);
const MAX_DOUBLINGS: u32 = 6;

/// The image requests of one decoder.
#[derive(Default)]
pub(super) struct ImageRequests {
    /// The earliest time of the next request.
    next: Option<Timestamp>,
    /// Consecutive images that did not help.
    failures: u32,
}

impl ImageRequests {
    /// Records an image, and whether another one is needed after it.
    pub(super) fn record_image(&mut self, needs_another: bool) {
        self.failures = if needs_another {
            self.failures.saturating_add(1)
        } else {
            0
        };
    }

    /// Whether an image may be requested now. Without a time there is no limit.
    pub(super) fn is_allowed(&self, now: Option<Timestamp>) -> bool {
        now.zip(self.next).is_none_or(|(now, next)| now >= next)
    }

    /// Records that an image was requested.
    pub(super) fn record_request(&mut self, now: Option<Timestamp>) {
        let interval = INTERVAL * (1 << self.failures.min(MAX_DOUBLINGS));
        let micros = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX);
        self.next = now.and_then(|now| Timestamp::from_micros(now.micros().saturating_add(micros)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Timestamp::from_micros(1_700_000_000_000_000 + seconds * 1_000_000)
    }

    /// The seconds until the next request, if one is sent now.
    fn interval(requests: &mut ImageRequests) -> i64 {
        requests.record_request(at(0));
        (0..)
            .find(|seconds| requests.is_allowed(at(*seconds)))
            .unwrap()
    }

    #[test]
    fn interval_doubles_until_an_image_helps() {
        let mut requests = ImageRequests::default();
        assert!(requests.is_allowed(at(0)), "the first one is immediate");
        let mut intervals = Vec::new();
        for _ in 0..9 {
            intervals.push(interval(&mut requests));
            requests.record_image(true);
        }
        assert_eq!(intervals, [10, 20, 40, 80, 160, 320, 640, 640, 640]);
        requests.record_image(false);
        assert_eq!(interval(&mut requests), 10);
    }

    #[test]
    fn unknown_time_sets_no_limit() {
        let mut requests = ImageRequests::default();
        requests.record_request(at(0));
        assert!(requests.is_allowed(None));
        requests.record_request(None);
        assert!(requests.is_allowed(at(0)));
    }
}
