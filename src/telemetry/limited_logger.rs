//! Limits the log lines that clients can cause at will: one per minute and cause, with the number
//! of lines left out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use log::{Level, Log, Metadata, Record};
use parking_lot::Mutex;

use super::role::{self, RoleName};

/// Minimum interval between lines of one cause.
const INTERVAL: Duration = Duration::from_secs(60);

/// The crate that parses requests.
const PARSER: &str = "actix_http::";

/// A logger that limits the lines of certain crates.
pub(crate) struct LimitedLogger<L> {
    inner: L,
    /// The crates' names.
    limited: &'static [&'static str],
    causes: Mutex<HashMap<Cause, Window>>,
}

/// A location in the source code, for each role that runs it, so the number of causes is bounded.
type Cause = (RoleName, String, u32);

struct Window {
    level: Level,
    since: Instant,
    left_out: u64,
    last: String,
}

impl<L: Log> LimitedLogger<L> {
    /// Limits the lines of these crates.
    pub(crate) fn new(inner: L, limited: &'static [&'static str]) -> LimitedLogger<L> {
        LimitedLogger {
            inner,
            limited,
            causes: Mutex::default(),
        }
    }

    fn is_limited(&self, target: &str) -> bool {
        let of_crate = target.split("::").next().unwrap_or(target);
        self.limited.contains(&of_crate)
    }

    /// Logs what was left out in windows that have ended.
    pub(crate) fn report(&self, now: Instant) {
        let mut ended = Vec::new();
        let mut causes = self.causes.lock();
        causes.retain(|(role, target, _), window| {
            if now.duration_since(window.since) < INTERVAL {
                return true;
            }
            if window.left_out > 0 {
                ended.push((
                    *role,
                    target.clone(),
                    window.level,
                    window.left_out,
                    std::mem::take(&mut window.last),
                ));
            }
            false
        });
        drop(causes);
        for (role, target, level, left_out, last) in ended {
            role::within(role, || self.write(level, &target, &last, left_out));
        }
    }

    fn write(&self, level: Level, target: &str, message: &str, left_out: u64) {
        let fields = [("left_out", left_out)];
        let none: [(&str, u64); 0] = [];
        let fields: &dyn log::kv::Source = if left_out > 0 { &fields } else { &none };
        self.inner.log(
            &Record::builder()
                .level(level)
                .target(target)
                .key_values(&fields)
                .args(format_args!("{message}"))
                .build(),
        );
    }

    fn log_at(&self, record: &Record<'_>, now: Instant) {
        if record.level() > Level::Warn || !self.is_limited(record.target()) {
            return self.inner.log(record);
        }
        // An error reported by the protocol parser is the client's fault, not the server's.
        let level = if record.target().starts_with(PARSER) {
            Level::Warn
        } else {
            record.level()
        };
        let message = record.args().to_string();
        let cause = (
            role::current(),
            record.target().to_owned(),
            record.line().unwrap_or(0),
        );
        let mut causes = self.causes.lock();
        let left_out = match causes.get_mut(&cause) {
            Some(window) if now.duration_since(window.since) < INTERVAL => {
                window.left_out += 1;
                window.last = message;
                return;
            }
            Some(window) => {
                window.since = now;
                std::mem::take(&mut window.left_out)
            }
            None => {
                causes.insert(
                    cause,
                    Window {
                        level,
                        since: now,
                        left_out: 0,
                        last: String::new(),
                    },
                );
                0
            }
        };
        drop(causes);
        self.write(level, record.target(), &message, left_out);
    }
}

impl<L: Log> Log for LimitedLogger<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.inner.enabled(record.metadata()) {
            self.log_at(record, Instant::now());
        }
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Log for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            let left_out = record
                .key_values()
                .get("left_out".into())
                .and_then(|count| count.to_u64());
            let line = format!("{} {} {left_out:?}", record.level(), record.args());
            self.0.lock().push(line);
        }

        fn flush(&self) {}
    }

    fn log(logger: &LimitedLogger<Lines>, target: &str, line: u32, message: &str, now: Instant) {
        let mut record = Record::builder();
        record.level(Level::Error).target(target).line(Some(line));
        logger.log_at(&record.args(format_args!("{message}")).build(), now);
    }

    #[test]
    fn each_cause_is_logged_once_a_minute() {
        let logger = LimitedLogger::new(Lines::default(), &["actix_http"]);
        let start = Instant::now();
        for count in 0..1_000 {
            log(&logger, "actix_http::h1", 7, &format!("bad {count}"), start);
        }
        log(&logger, "actix_http::h1", 8, "other", start);
        log(&logger, "actix_https", 7, "not limited", start);
        logger.report(start + INTERVAL / 2);
        log(&logger, "actix_http::h1", 7, "again", start + INTERVAL);
        log(&logger, "actix_http::h1", 7, "more", start + INTERVAL);
        logger.report(start + 2 * INTERVAL);
        logger.report(start + 4 * INTERVAL);
        let lines = logger.inner.0.lock().clone();
        let expected = [
            "WARN bad 0 None",
            "WARN other None",
            "ERROR not limited None",
            "WARN again Some(999)",
            "WARN more Some(1)",
        ];
        assert_eq!(lines, expected);
    }
}
