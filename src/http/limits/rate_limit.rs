//! A rate limit: each key has a bucket of requests that is filled at a constant rate.

use std::num::NonZeroU32;
use std::time::Duration;

use actix_web::http::header::{HeaderName, HeaderValue};
use governor::clock::{Clock, MonotonicClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::{Quota, RateLimiter};
use strum::{IntoStaticStr, VariantNames};

use super::buckets::{Buckets, MAX_BUCKETS};
use crate::config::settings::RequestRate;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit");

/// The longest wait that charges after the fact add up to.
const MAX_DEBT: Duration = Duration::from_secs(60);

/// What a rate limit counts. The label `class` of refused requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum RequestClass {
    /// All requests of an address.
    Address,
    /// Requests of a caller that only read.
    Read,
    /// Requests of a caller that change something.
    Write,
    /// Sockets that a caller opens.
    Socket,
}

impl RequestClass {
    /// The metric label, and the name of the policy in headers.
    pub(crate) fn label(self) -> &'static str {
        self.into()
    }

    /// The setting of the limit.
    pub(super) fn setting(self) -> &'static str {
        match self {
            RequestClass::Address => "RATE_LIMIT_ADDRESS",
            RequestClass::Read => "RATE_LIMIT_READ",
            RequestClass::Write => "RATE_LIMIT_WRITE",
            RequestClass::Socket => "RATE_LIMIT_SOCKETS",
        }
    }

    fn counted(self) -> &'static str {
        match self {
            RequestClass::Address => "requests from this address",
            RequestClass::Read => "reads of this caller",
            RequestClass::Write => "writes of this caller",
            RequestClass::Socket => "sockets of this caller",
        }
    }
}

/// A request above a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many {}: at most {burst} within {window} s; retry in {retry_after} s", .class.counted())]
pub struct RateLimitExceeded {
    /// The limit.
    pub(super) class: RequestClass,
    /// How many requests a full bucket holds.
    burst: u32,
    /// How many seconds it takes to fill an empty bucket.
    window: u32,
    /// In how many seconds the next request is accepted.
    pub(crate) retry_after: u64,
}

impl RateLimitExceeded {
    /// The headers of draft-ietf-httpapi-ratelimit-headers: the policy, and what is left of it.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let policy = self.class.label();
        let texts = [
            (
                POLICY,
                format!("\"{policy}\";q={};w={}", self.burst, self.window),
            ),
            (
                REMAINING,
                format!("\"{policy}\";r=0;t={}", self.retry_after),
            ),
        ];
        texts
            .into_iter()
            .filter_map(|(name, text)| Some((name, text.try_into().ok()?)))
    }
}

/// A rate limit with a bucket for each key.
pub(super) struct RateLimit<C: Clock = MonotonicClock> {
    limiter: RateLimiter<u64, Buckets, C, NoOpMiddleware<C::Instant>>,
    /// The state of the limiter.
    buckets: Buckets,
    /// When the limiter was created: the times of the buckets count from here.
    start: C::Instant,
    quota: Quota,
    class: RequestClass,
}

impl RateLimit {
    /// The limit of a rate; `None` if there is none.
    pub(super) fn new(class: RequestClass, rate: RequestRate) -> Option<RateLimit> {
        RateLimit::with_clock(class, rate, MAX_BUCKETS, MonotonicClock)
    }
}

impl<C: Clock> RateLimit<C> {
    /// As [`RateLimit::new`], with this clock and at most this many buckets.
    pub(super) fn with_clock(
        class: RequestClass,
        rate: RequestRate,
        max_buckets: usize,
        clock: C,
    ) -> Option<RateLimit<C>> {
        let per_second = NonZeroU32::new(rate.per_second)?;
        let burst = NonZeroU32::new(rate.burst)?;
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let buckets = Buckets::new(max_buckets);
        Some(RateLimit {
            start: clock.now(),
            limiter: RateLimiter::new(quota, buckets.clone(), clock),
            buckets,
            quota,
            class,
        })
    }

    /// Takes a request from the bucket of a key.
    pub(super) fn check(&self, key: u64) -> Result<(), RateLimitExceeded> {
        self.limiter.check_key(&key).map_err(|refused| {
            let now = self.limiter.clock().now();
            RateLimitExceeded {
                class: self.class,
                burst: self.quota.burst_size().get(),
                window: seconds(self.quota.burst_size_replenished_in()),
                retry_after: seconds(refused.wait_time_from(now)).into(),
            }
        })
    }

    /// Takes `requests` more from the bucket of a key after the fact. The next requests wait until
    /// they are made up for, at most `MAX_DEBT`.
    pub(super) fn charge(&self, key: u64, requests: u32) {
        let interval = self.quota.replenish_interval();
        let cost = interval.saturating_mul(requests);
        let now = self.limiter.clock().now().duration_since(self.start);
        // An empty bucket is full again after this time, and accepts a request one interval later.
        let empty = self.quota.burst_size_replenished_in() - interval;
        let latest = now + Nanos::from(empty + MAX_DEBT);
        self.buckets.charge(key, cost.into(), now, latest);
    }

    /// Forgets the keys whose bucket is full.
    pub(super) fn sweep(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.limiter.len()
    }
}

/// Whole seconds, rounded up; at least one.
fn seconds(duration: Duration) -> u32 {
    let whole = duration.as_millis().div_ceil(1_000).max(1);
    u32::try_from(whole).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
