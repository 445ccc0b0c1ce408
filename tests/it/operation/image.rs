//! `docker/Dockerfile`, as far as it can be checked without Docker. `make check-image` also compiles
//! what it copies.

use std::collections::BTreeSet;
use std::path::Path;

use pretty_assertions::assert_eq;

use super::file;

/// The instructions with their arguments; comments removed, continued lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = file("docker/Dockerfile");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (name, rest) = line.split_once(' ').unwrap();
            let words: Vec<_> = rest.split_whitespace().collect();
            (name.to_owned(), words.join(" "))
        })
        .collect()
}

fn all<'a>(of: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let found = of.iter().filter(|(instruction, _)| instruction == name);
    found.map(|(_, rest)| rest.as_str()).collect()
}

/// The numeric user of the image.
pub fn user() -> String {
    let instructions = instructions();
    let [user] = all(&instructions, "USER")[..] else {
        panic!("not one USER");
    };
    user.to_owned()
}

#[test]
fn image_builds_from_lock_file() {
    let instructions = instructions();
    let builds = all(&instructions, "RUN");
    let build = builds.iter().find(|run| run.contains("cargo build"));
    let build = build.unwrap();
    for part in [
        "--locked",
        "--release",
        "--features tls-system",
        "--bin sports-bet",
    ] {
        assert!(build.contains(part), "{part}: {build}");
    }
    let copied = all(&instructions, "COPY");
    let manifests = |copy: &&str| copy.starts_with("Cargo.toml Cargo.lock ");
    assert!(copied.iter().any(manifests), "{copied:?}");
}

#[test]
fn image_names_versions_of_bases() {
    let instructions = instructions();
    let bases = all(&instructions, "FROM");
    let manifest = file("Cargo.toml");
    let rust = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .unwrap()
        .trim_matches('"');
    let debian = "bookworm";
    assert_eq!(
        bases,
        [
            &*format!("rust:{rust}-slim-{debian} AS build"),
            &*format!("debian:{debian}-slim")
        ]
    );
}

#[test]
fn image_copies_what_exists() {
    let ignored = file(".dockerignore");
    assert!(ignored.lines().any(|line| line == "*"));
    let kept: Vec<_> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = BTreeSet::new();
    for copy in all(&instructions(), "COPY") {
        if copy.starts_with("--from=build ") {
            continue;
        }
        let mut words: Vec<_> = copy.split(' ').collect();
        words.pop();
        sources.extend(words.into_iter().map(str::to_owned));
    }
    for source in &sources {
        assert!(root.join(source).exists(), "{source} does not exist");
        let reaches_docker = kept.iter().any(|kept| Path::new(source).starts_with(kept));
        assert!(reaches_docker, ".dockerignore removes {source}");
    }
    for kept in kept {
        assert!(sources.contains(kept), "{kept} is sent and not copied");
    }
}

#[test]
fn image_runs_as_numeric_user() {
    let user = user();
    assert!(
        user.parse::<u32>().unwrap() >= 10_000,
        "{user} may exist on hosts"
    );
    let instructions = instructions();
    let runs = all(&instructions, "RUN");
    assert!(
        runs.iter()
            .any(|run| run.contains(&format!("useradd --system --uid {user} "))),
        "{runs:?}"
    );
    let last = instructions.iter().rposition(|(name, _)| name == "USER");
    let ran = instructions.iter().rposition(|(name, _)| name == "RUN");
    assert!(last > ran, "a RUN after USER");
}

#[test]
fn image_exposes_each_port_of_settings() {
    let instructions = instructions();
    let exposed: BTreeSet<&str> = all(&instructions, "EXPOSE")
        .into_iter()
        .flat_map(|line| line.split(' '))
        .collect();
    let example = file(".env.example");
    let ports: BTreeSet<&str> = example
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once('='))
        .filter(|(name, _)| name.contains("_PORT_"))
        .map(|(_, port)| port)
        .collect();
    assert_eq!(exposed, ports);
    let variables = all(&instructions, "ENV").join(" ");
    let health = variables.split("HEALTH_PORT=").nth(1).unwrap();
    assert!(ports.contains(health), "{health}");
    let check = all(&instructions, "HEALTHCHECK").join(" ");
    assert!(check.contains("GET /livez ") && check.contains("/$HEALTH_PORT "));
}
