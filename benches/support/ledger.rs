//! `ledger verify` on the database of a bench.

use std::process::Command;

use super::Outcome;
use super::engines::Folder;
use super::table::Row;

/// The number of violations that `ledger verify` reports, of which there must be none.
pub fn row(folder: &Folder) -> Outcome<Row> {
    let found = violations(folder)?;
    Ok(Row::new("violations that `ledger verify` found", found, "").at_most(0.0))
}

fn violations(folder: &Folder) -> Outcome<f64> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sports-bet"));
    let output = command
        .args(["ledger", "verify"])
        .current_dir(folder.path())
        .envs(folder.variables())
        .output()?;
    if output.status.success() {
        return Ok(0.0);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    eprintln!("{text}{errors}");
    Ok(text.lines().count().max(1) as f64)
}
