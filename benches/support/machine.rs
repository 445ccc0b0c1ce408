//! Cores, CPU time and memory, from Linux's `/proc`.

use std::sync::OnceLock;
use std::time::Duration;

use rlimit::Resource;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Outcome;

/// The number of cores this process may use, read before it pins itself to one of them.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, |cores| cores.get()))
}

/// The core of the measured server: its own if there is more than one.
pub fn server_core() -> usize {
    cores() - 1
}

/// The core of the clients, the supplier and the bench itself.
pub const CLIENT_CORE: usize = 0;

/// Pins this thread, and everything it starts from now on, to one core.
pub fn pin(core: usize) -> Outcome<()> {
    cores();
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets this thread, and everything it starts from now on, run on all cores again.
pub fn unpin() -> Outcome<()> {
    let mut set = CpuSet::new();
    (0..cores()).for_each(|core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

/// The CPU time a process has used, in steps of 10 ms; `self` is this process.
pub fn cpu(process: &str) -> Outcome<Duration> {
    /// Milliseconds per kernel clock tick, on every current Linux.
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

/// The CPU time used on all cores by all processes since boot.
pub fn busy() -> Outcome<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .ok_or("no line for all cores")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq steal; the guest columns after them are already
    // included in user.
    let working = ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(place, _)| !matches!(place, 3 | 4));
    Ok(Duration::from_millis(
        working.map(|(_, ticks)| ticks * 10).sum(),
    ))
}

/// A memory figure of a process, such as `VmRSS` or `VmHWM`, in KiB.
pub fn memory(process: &str, name: &str) -> Outcome<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .ok_or("no such memory figure")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Raises the open-file limit of this process, and of everything it starts, to the wanted number or
/// as far as allowed. Returns the limit.
pub fn open_files(wanted: u64) -> Outcome<u64> {
    let (_, hard) = Resource::NOFILE.get()?;
    // Raises the hard limit too, if permitted.
    let most = if hard >= wanted || Resource::NOFILE.set(wanted, wanted).is_err() {
        hard
    } else {
        wanted
    };
    Resource::NOFILE.set(most, most)?;
    Ok(most)
}

/// One line that describes the machine.
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
