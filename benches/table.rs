//! Prints the saved results of all benches as one table: the last step of `make bench`.

mod support;

/// In the order in which they are run.
const BENCHES: [&str; 12] = [
    "fanout",
    "idle",
    "latency",
    "drain",
    "rest",
    "slow",
    "storm",
    "start",
    "scale",
    "money",
    "settlement",
    "pure",
];

fn main() -> support::Outcome<()> {
    support::table::print_all(&BENCHES)
}
