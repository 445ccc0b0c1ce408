//! Prints what the benches have left behind as one table: the last thing that `make bench` does.

mod support;

/// In the order in which they are run.
const BENCHES: [&str; 10] = [
    "fanout", "idle", "latency", "drain", "rest", "slow", "start", "scale", "money", "pure",
];

fn main() -> support::Outcome<()> {
    support::table::print_all(&BENCHES)
}
