//! Expectations of a process whose engine is unavailable.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{ServerProcess, get_text, until};

/// A password that must never appear.
pub const SECRET: &str = "hunter2-and-more";
/// How long the process is observed.
const WATCH: Duration = Duration::from_secs(6);
/// A larger share of a core while idle indicates a busy loop. The target is 5 % in a release build,
/// where the worst case uses 4.3 %; this build uses up to 7 %, and more on a busy machine.
const MAX_CPU: f64 = 0.12;
/// The first retries are close together, and each cause is logged once.
const MAX_LINES: usize = 12;

/// A check that must be down, and the texts that it and the log must contain.
pub struct ExpectUnavailable<'a> {
    pub role: &'a str,
    pub check: &'a str,
    pub says: &'a [&'a str],
    pub logs: &'a [&'a str],
}

pub fn assert_no_secret(text: &str) {
    assert!(!text.contains("hunter2"), "a secret: {text}");
}

impl ServerProcess {
    /// The readiness response of a role.
    pub async fn healthz(&self, role: &str) -> (u16, String) {
        get_text(&format!("http://{}/healthz", self.health[role])).await
    }
}

impl ExpectUnavailable<'_> {
    /// The reason why the check is down; `None` if it is not.
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

    /// Waits until readiness reports the cause.
    pub async fn assert_down(&self, process: &ServerProcess) {
        let last = std::sync::Mutex::new(None);
        let asking = until("readiness that reports the cause", || async {
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
                "{} is {:?}, expected {:?}: {}",
                self.check,
                last.lock().unwrap(),
                self.says,
                process.log()
            );
        }
        let reason = last.lock().unwrap().clone().unwrap_or_default();
        println!("{} down: {reason}", self.check);
    }

    /// Asserts that the process reports the cause, stays alive, and stays idle.
    pub async fn assert_waits_idle(&self, process: &ServerProcess) {
        self.assert_down(process).await;
        until("a log line that reports the cause", || async {
            self.logs
                .iter()
                .all(|word| process.log().contains(word))
                .then_some(())
        })
        .await;
        let (status, body) = get_text(&format!("http://{}/livez", process.health[self.role])).await;
        assert_eq!(status, 200, "{body}");

        let lines = process.log().lines().count();
        let used = cpu(process.id());
        let begin = Instant::now();
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
            "ready before the cause was fixed: {log}"
        );
    }

    /// After the cause is fixed, waits until the same process is ready again.
    pub async fn assert_recovers(&self, process: &ServerProcess) {
        let mended = Instant::now();
        until("the engine is used again", || async {
            self.reason(process).await.is_none().then_some(())
        })
        .await;
        println!(
            "{}/{}: ready {:.1?} after the fix",
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

/// The CPU time a process has used, user and system, in seconds.
fn cpu(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name is in parentheses and may contain anything; user and system time are fields 12 and
    // 13 after it.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<_> = rest.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // A hundred ticks per second on every Linux.
    ticks as f64 / 100.0
}
