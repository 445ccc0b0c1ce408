//! Makes a fault again and again, and sums up what clients see of it: a row of the table in
//! `docs/failure-modes.md`, which `make faults` prints.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::bettor::Attempt;
use super::scene::{Fault, Scene};
use crate::support::{Database, until};

/// A lost source is known to clients within this time. Not a failure of the test, because a busy
/// machine is late: the row says so.
const SOURCE_LIMIT: Duration = Duration::from_secs(5);

/// A step of a fault.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// It begins.
    Begin,
    /// It ends.
    End,
}

/// What one run of a fault showed.
struct Run {
    until_known: Duration,
    until_live: Duration,
    /// From when both clients know until the fault ends.
    known: [Instant; 2],
    /// The bets that were sent and answered meanwhile.
    tried: Vec<Attempt>,
}

impl Scene {
    /// Makes a fault `FAULT_RUNS` times, which is once by default. `make` carries out a step, and
    /// returns the moment from which the clients' times count. Panics if a run went wrong.
    pub async fn repeat(
        &self,
        name: &str,
        fault: Fault,
        mut make: impl AsyncFnMut(Step) -> Instant,
    ) {
        let mut runs = Vec::new();
        for number in 1..=wanted_runs() {
            let what = format!("{name}, run {number}");
            let began = make(Step::Begin).await;
            let known = self.until_lost(&what, began, fault).await;
            let tried = self.bettor.since(known);
            let ending = Instant::now();
            let ended = make(Step::End).await;
            let live = self.until_open(&what, ended).await;
            runs.push(Run {
                until_known: known - began,
                until_live: live - ended,
                known: [known, ending],
                tried,
            });
        }
        self.until_settled().await;
        self.judge(name, fault, &runs);
    }

    /// Waits until the supplier knows of every bet that was placed so far.
    async fn until_settled(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let undecided = format!(
            "SELECT (SELECT count(*) FROM bets WHERE status = 'PENDING_CONFIRMATION' AND placed_at <= {at})
                + (SELECT count(*) FROM supplier_cancels WHERE done_at IS NULL AND created_at <= {at}) AS number",
            at = format_args!("to_timestamp({})", now.as_secs_f64()),
        );
        let database = Database::of_cluster(&self.cluster);
        let accepted = self.bettor.accepted();
        until("the supplier knows of every bet", || async {
            let are_heard = accepted.iter().all(|bet| self.supplier.has_heard(bet));
            (are_heard && database.number(&undecided) == 0).then_some(())
        })
        .await;
    }

    fn judge(&self, name: &str, fault: Fault, runs: &[Run]) {
        let tried: Vec<&Attempt> = runs.iter().flat_map(|run| &run.tried).collect();
        let taken = tried.iter().filter(|bet| bet.is_accepted()).count();
        let heard = runs
            .iter()
            .flat_map(|run| self.supplier.placed_between(run.known[0], run.known[1]));
        let heard: Vec<_> = heard.collect();
        let row = Row {
            name,
            limit: (fault == Fault::Source).then_some(SOURCE_LIMIT),
            until_known: runs.iter().map(|run| run.until_known).collect(),
            tried: tried.len(),
            taken,
            heard: heard.len(),
            until_live: runs.iter().map(|run| run.until_live).collect(),
        };
        eprintln!("{row}");
        save(&row);
        if let Err(wrong) = verdict(&tried, &heard) {
            panic!("{name}: {wrong}");
        }
    }
}

/// What is wrong with a fault: the bets that were tried while the clients knew, and those of which
/// the supplier has heard.
fn verdict(tried: &[&Attempt], heard: &[Uuid]) -> Result<(), String> {
    let taken: Vec<_> = tried.iter().filter(|bet| bet.is_accepted()).collect();
    if !taken.is_empty() || !heard.is_empty() {
        return Err(format!(
            "bets were taken after the clients knew: {taken:?}; by the supplier: {heard:?}"
        ));
    }
    let others: Vec<_> = tried.iter().filter(|bet| !bet.is_refused()).collect();
    if others.is_empty() {
        Ok(())
    } else {
        Err(format!("unexpected answers: {others:?}"))
    }
}

/// `FAULT_RUNS`: how often each fault is made.
fn wanted_runs() -> usize {
    std::env::var("FAULT_RUNS").map_or(1, |runs| runs.parse().unwrap())
}

/// Adds a row to the file `FAULT_ROWS`, if there is one.
fn save(row: &Row) {
    let Some(path) = std::env::var_os("FAULT_ROWS") else {
        return;
    };
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path);
    file.unwrap()
        .write_all(format!("{row}\n").as_bytes())
        .unwrap();
}

/// All runs of a fault.
struct Row<'a> {
    name: &'a str,
    /// The clients should know within this time.
    limit: Option<Duration>,
    until_known: Vec<Duration>,
    /// The bets that were tried while the clients knew, and how many the platform took by the
    /// clients' records, and by the supplier's.
    tried: usize,
    taken: usize,
    heard: usize,
    until_live: Vec<Duration>,
}

impl Row<'_> {
    /// In how many runs clients knew too late; `None` if they always knew in time.
    fn late(&self) -> Option<String> {
        let limit = self.limit?;
        let late = self
            .until_known
            .iter()
            .filter(|time| **time > limit)
            .count();
        (late > 0).then(|| format!(" **ABOVE {} s IN {late} RUNS**", limit.as_secs()))
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [known, known_worst] = median_and_worst(&self.until_known);
        let [live, live_worst] = median_and_worst(&self.until_live);
        let Row {
            name,
            tried,
            taken,
            heard,
            ..
        } = self;
        let runs = self.until_known.len();
        let late = self.late().unwrap_or_default();
        write!(
            out,
            "| {name} | {runs} | {known:.1} s | {known_worst:.1} s{late} | {taken} of {tried} | {heard} | {live:.1} s | {live_worst:.1} s |"
        )
    }
}

/// In seconds.
fn median_and_worst(times: &[Duration]) -> [f64; 2] {
    let mut seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    let middle = seconds.len() / 2;
    let median = match seconds.len() % 2 {
        0 => (seconds[middle - 1] + seconds[middle]) / 2.0,
        _ => seconds[middle],
    };
    [median, seconds[seconds.len() - 1]]
}

#[test]
fn row_has_median_and_worst() {
    let seconds = |all: &[u64]| all.iter().copied().map(Duration::from_secs).collect();
    let mut row = Row {
        name: "Redis is killed",
        limit: None,
        until_known: seconds(&[4, 1, 2, 9]),
        tried: 40,
        taken: 0,
        heard: 1,
        until_live: seconds(&[3, 1, 2]),
    };
    let expected = "| Redis is killed | 4 | 3.0 s | 9.0 s | 0 of 40 | 1 | 2.0 s | 3.0 s |";
    assert_eq!(row.to_string(), expected);
    row.limit = Some(SOURCE_LIMIT);
    let marked = expected.replace("9.0 s", "9.0 s **ABOVE 5 s IN 1 RUNS**");
    assert_eq!(row.to_string(), marked);
    row.until_known.pop();
    assert!(!row.to_string().contains("ABOVE"));
}

/// `make faults` fails for each of these.
#[test]
fn late_bets_are_found() {
    let answered = |answer: &str| Attempt {
        event: "MATCH_001".to_owned(),
        sent: Instant::now(),
        answer: answer.to_owned(),
        bet_id: None,
    };
    let refused = answered("409 MARKET_STALE");
    assert_eq!(verdict(&[&refused], &[]), Ok(()));
    let wrong = |tried: &[&Attempt], heard: &[Uuid]| verdict(tried, heard).unwrap_err();
    let taken = answered("200");
    assert!(wrong(&[&refused, &taken], &[]).starts_with("bets were taken"));
    assert!(wrong(&[&refused], &[Uuid::now_v7()]).starts_with("bets were taken"));
    let other = answered("409 ODDS_CHANGED");
    assert!(wrong(&[&refused, &other], &[]).starts_with("unexpected answers"));
}
