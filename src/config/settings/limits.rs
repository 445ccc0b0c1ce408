//! Settings of rate limits.

use std::str::FromStr;

use clap::Args;

/// Maximum rate, in requests per second.
const MAX_RATE: u32 = 1_000_000;
/// Maximum burst, in requests.
const MAX_BURST: u32 = 10_000_000;

/// Requests per second, after a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRate {
    /// The rate; 0 for no limit.
    pub per_second: u32,
    /// How many requests are accepted at once, after a pause.
    pub burst: u32,
}

impl FromStr for RequestRate {
    type Err = String;

    fn from_str(text: &str) -> Result<RequestRate, String> {
        let (rate, burst) = text.split_once(':').unwrap_or((text, text));
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let per_second = number(rate).filter(|rate| *rate <= MAX_RATE);
        let burst = number(burst).filter(|burst| *burst <= MAX_BURST);
        match (per_second, burst) {
            (Some(0), Some(0)) => Ok(RequestRate {
                per_second: 0,
                burst: 0,
            }),
            (Some(per_second), Some(burst)) if per_second > 0 && burst > 0 => {
                Ok(RequestRate { per_second, burst })
            }
            _ => Err(format!(
                "a number of requests per second up to {MAX_RATE} like 100, or with a burst like 100:500; 0 for no limit"
            )),
        }
    }
}

/// Rate limits of the public ports.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits of clients")]
pub struct RateLimitSettings {
    /// Maximum requests per second from one client address (IPv6: one /64) to each port, or with a
    /// burst as RATE:BURST; 0 for no limit. A failed authentication counts as ten. 2000:10000 by
    /// default, with loopback exempt
    #[arg(long, env, value_name = "RATE")]
    pub rate_limit_address: Option<RequestRate>,
    /// Maximum requests per second of one caller that only read: a user, an API key, or an address
    /// without either. 1000:5000 by default, with loopback exempt
    #[arg(long, env, value_name = "RATE")]
    pub rate_limit_read: Option<RequestRate>,
    /// Maximum requests per second of one caller that change something. 1000:5000 by default, with
    /// loopback exempt
    #[arg(long, env, value_name = "RATE")]
    pub rate_limit_write: Option<RequestRate>,
    /// Maximum sockets per second that one caller opens. 100:2000 by default, with loopback exempt
    #[arg(long, env, value_name = "RATE")]
    pub rate_limit_sockets: Option<RequestRate>,
    /// Maximum sessions of one user or API key; 0 for no limit. 1000 by default, with loopback
    /// exempt
    #[arg(long, env, value_parser = crate::config::values::whole(0_usize, 10_000_000))]
    pub ws_max_sessions_per_caller: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_may_have_a_burst() {
        let read = |text: &str| {
            text.parse::<RequestRate>()
                .map(|rate| (rate.per_second, rate.burst))
        };
        assert_eq!(read("100"), Ok((100, 100)));
        assert_eq!(read("100:500"), Ok((100, 500)));
        assert_eq!(read("100:5"), Ok((100, 5)));
        assert_eq!(read("0"), Ok((0, 0)));
        for wrong in [
            "",
            "x",
            "-1",
            "1.5",
            "100:",
            ":5",
            "100:0",
            "0:5",
            "100:5:5",
            "1000001",
            "1:10000001",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
