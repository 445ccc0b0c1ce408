//! The rules on imports that ARCHITECTURE.md states.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The layers, from the bottom up: the directories of `src`. A layer imports only itself and the
/// layers below it.
const LAYERS: [&str; 16] = [
    "domain",
    "telemetry",
    "runtime",
    "config",
    "bus",
    "cache",
    "store",
    "access",
    "supplier",
    "actors",
    "services",
    "http",
    "grpc",
    "simulator",
    "platform",
    "cli",
];
/// Maximum number of lines of a source file, without its tests.
const MAX_FILE_LINES: usize = 450;
/// Maximum number of lines of a function.
const MAX_FUNCTION_LINES: usize = 60;
/// Crates that the domain does not know.
const FRAMEWORKS: [&str; 9] = [
    "actix",
    "actix_web",
    "actix_web_actors",
    "tokio",
    "diesel",
    "rdkafka",
    "redis",
    "prometheus",
    "log",
];

struct Source {
    /// Relative to `src`.
    path: String,
    /// Without tests.
    text: String,
    /// Without tests and comments.
    code: String,
}

fn files_below(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, extension, found);
        } else if path.extension().is_some_and(|of_path| of_path == extension) {
            found.push(path);
        }
    }
}

/// Every source file that is not made of tests.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    files_below(&root, "rs", &mut files);
    let sources: Vec<_> = files
        .iter()
        .filter_map(|file| {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
            let is_test = ["test", "suite", "real_engines", "mock", "generated"];
            if is_test.iter().any(|part| path.contains(part)) {
                return None;
            }
            let text = std::fs::read_to_string(file).unwrap();
            let product = text.split("#[cfg(test)]\nmod ").next().unwrap();
            let code: Vec<_> = product
                .lines()
                .map(|line| line.trim_start())
                .filter(|line| !line.starts_with("//"))
                .collect();
            Some(Source {
                path: path.to_owned(),
                code: code.join("\n"),
                text: product.to_owned(),
            })
        })
        .collect();
    assert!(sources.len() > 150, "only {} files found", sources.len());
    sources
}

fn layer_of(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap()
}

/// The parts of a path after each `prefix`, as `["domain", "odds"]` for `crate::domain::odds`.
fn paths_after<'a>(code: &'a str, prefix: &str) -> Vec<Vec<&'a str>> {
    let starts = code.match_indices(prefix).map(|(at, _)| at + prefix.len());
    starts
        .map(|at| {
            let end = code[at..]
                .find(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != ':');
            code[at..end.map_or(code.len(), |end| at + end)]
                .split("::")
                .collect()
        })
        .collect()
}

#[test]
fn imports_point_downwards() {
    let rank = |layer: &str| LAYERS.iter().position(|known| *known == layer);
    let mut upward = BTreeSet::new();
    for source in sources() {
        let Some(own) = rank(layer_of(&source.path)) else {
            continue;
        };
        for path in paths_after(&source.code, "crate::") {
            if rank(path[0]).is_some_and(|other| other > own) {
                upward.insert((source.path.clone(), path[0].to_owned()));
            }
        }
    }
    assert_eq!(upward, BTreeSet::new());
}

#[test]
fn domain_knows_no_framework_and_no_clock() {
    let mut found = Vec::new();
    for Source { path, code, .. } in sources() {
        if layer_of(&path) != "domain" {
            continue;
        }
        for framework in FRAMEWORKS {
            if code.contains(&format!("use {framework}::"))
                || code.contains(&format!(" {framework}::"))
            {
                found.push(format!("{path}: {framework}"));
            }
        }
        if code.contains("::now()") {
            found.push(format!("{path}: now"));
        }
    }
    assert_eq!(
        found,
        ["domain/timestamp.rs: now"],
        "`Timestamp::now` is called by others only"
    );
}

#[test]
fn actors_of_directories_share_only_messages() {
    let mut found = BTreeSet::new();
    for Source { path, code, .. } in sources() {
        let Some(layer) = path.strip_prefix("actors/").map(layer_of) else {
            continue;
        };
        for path in paths_after(&code, "crate::actors::") {
            // Not actors, but what consumers of several directories are built of.
            let is_shared = path[0] == "consumers";
            if path[0] != layer && !is_shared {
                found.insert((layer.to_owned(), path[..2].join("::")));
            }
        }
    }
    let allowed = [
        ("odds", "streaming::messages"),
        ("settlement", "bets::messages"),
        ("streaming", "access::messages"),
        ("streaming", "odds::messages"),
    ];
    assert_eq!(
        found,
        allowed
            .map(|(layer, to)| (layer.to_owned(), to.to_owned()))
            .into()
    );
}

/// The first line and the length of each function. Relies on rustfmt: the closing brace has the
/// indentation of the first line.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let is_function = |line: &str| {
        let words = line.trim_start().split(' ');
        let mut words = words.skip_while(|word| {
            matches!(*word, "const" | "async" | "extern" | "unsafe")
                || word.starts_with("pub")
                || word.ends_with(')')
        });
        words.next() == Some("fn")
    };
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        if !is_function(line) || line.ends_with(';') || line.ends_with('}') {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let end = lines[first..].iter().position(|line| {
            let (before, after) = line.split_at(indent.min(line.len()));
            before.trim().is_empty()
                && (after == "}" || after.starts_with(") -> ") && after.ends_with(';'))
        });
        let end = end.unwrap_or_else(|| panic!("no end of the function in line {}", first + 1));
        found.push((first + 1, end + 1));
    }
    found
}

#[test]
fn files_and_functions_are_short() {
    let mut found = Vec::new();
    let mut functions_seen = 0;
    for Source { path, text, .. } in sources() {
        let lines = text.lines().count();
        if lines > MAX_FILE_LINES {
            found.push(format!("{path} has {lines} lines"));
        }
        for (line, length) in functions(&text) {
            functions_seen += 1;
            if length > MAX_FUNCTION_LINES {
                found.push(format!("{path}:{line} has {length} lines"));
            }
        }
    }
    assert!(
        functions_seen > 1_000,
        "only {functions_seen} functions found"
    );
    assert!(found.is_empty(), "{found:#?}");
}

/// Snapshots are part of their tests (`insta`'s inline form), so that none can outlive its test.
#[test]
fn snapshots_are_inline() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches"] {
        files_below(&root.join(folder), "snap", &mut found);
        files_below(&root.join(folder), "new", &mut found);
    }
    assert!(found.is_empty(), "snapshot files: {found:?}");
}
