//! Records what is built: the commit, and which TLS library connects to PostgreSQL and Kafka.

use std::process::Command;

/// What the binary is built from. A change to it runs this program again.
const SOURCES: [&str; 7] = [
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "migrations",
    "web",
    "docs/api",
];

fn main() {
    println!("cargo:rerun-if-env-changed=SPORTS_BET_COMMIT");
    SOURCES
        .iter()
        .for_each(|path| println!("cargo:rerun-if-changed={path}"));
    println!("cargo:rustc-env=SPORTS_BET_COMMIT={}", commit());
    println!("cargo:rustc-env=SPORTS_BET_TLS={}", tls());
}

/// From the variable of the same name, for builds without a repository, or from git. Debug builds
/// have none: each commit would compile the whole crate again.
fn commit() -> String {
    if let Some(commit) = variable("SPORTS_BET_COMMIT") {
        return commit;
    }
    if variable("PROFILE").as_deref() != Some("release") {
        return "unknown (debug build)".to_owned();
    }
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let changed = git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat());
    match changed {
        Some(_) => format!("{commit}-modified"),
        None => commit,
    }
}

fn tls() -> &'static str {
    if variable("CARGO_FEATURE_TLS_VENDORED").is_some() {
        "bundled OpenSSL"
    } else if variable("CARGO_FEATURE_TLS_SYSTEM").is_some() {
        "system OpenSSL"
    } else {
        "none"
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The output of a git command; `None` if it is empty or the command fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
