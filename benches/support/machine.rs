//! Cores, CPU time and memory, by Linux's `/proc`.

use std::sync::OnceLock;
use std::time::Duration;

use rlimit::Resource;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Outcome;

/// How many cores there are: as many as this process may use before it keeps itself on one of them.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, |cores| cores.get()))
}

/// Where the measured server runs: alone where there is more than one core.
pub fn server_core() -> usize {
    cores() - 1
}

/// Where the clients, the supplier and the bench itself run.
pub const CLIENT_CORE: usize = 0;

/// Keeps this thread, and whatever it starts from now on, on one core.
pub fn pin(core: usize) -> Outcome<()> {
    cores();
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets this thread, and whatever it starts from now on, run on every core again.
pub fn unpin() -> Outcome<()> {
    let mut set = CpuSet::new();
    (0..cores()).for_each(|core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

/// The CPU time that a process has taken; `self` is this one. In steps of 10 ms.
pub fn cpu(process: &str) -> Outcome<Duration> {
    /// Milliseconds of what the kernel counts in, on every Linux of today.
    const TICK: u64 = 10;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .ok_or("no such process")?
        .1
        .split_whitespace()
        .collect();
    let ticks = |at: usize| -> Outcome<u64> { Ok(fields.get(at).ok_or("no such field")?.parse()?) };
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * TICK))
}

/// The CPU time that was taken on all cores by whatever ran on them, since the machine began.
pub fn busy() -> Outcome<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .ok_or("no line of all cores")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq steal; the guests behind are counted as user
    // already.
    let working = ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(place, _)| !matches!(place, 3 | 4));
    Ok(Duration::from_millis(
        working.map(|(_, ticks)| ticks * 10).sum(),
    ))
}

/// A figure of a process's memory, as `VmRSS` or `VmHWM`, in KiB.
pub fn memory(process: &str, name: &str) -> Outcome<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .ok_or("no such figure")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Lets this process, and whatever it starts, open so many files, or as many as it may. Gives how
/// many.
pub fn open_files(wanted: u64) -> Outcome<u64> {
    let (_, hard) = Resource::NOFILE.get()?;
    // Who may raise the hard limit does so.
    let most = if hard >= wanted || Resource::NOFILE.set(wanted, wanted).is_err() {
        hard
    } else {
        wanted
    };
    Resource::NOFILE.set(most, most)?;
    Ok(most)
}

/// One line that names the machine.
pub fn description() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
            .to_owned();
        line.trim_start_matches([' ', '\t', ':']).to_owned()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal:");
    let gib = memory
        .trim_end_matches(" kB")
        .parse::<f64>()
        .unwrap_or_default()
        / 1_048_576.0;
    let processor = field(&read("/proc/cpuinfo"), "model name");
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{} cores of {processor}, {gib:.0} GiB, Linux {}",
        cores(),
        kernel.trim()
    )
}
