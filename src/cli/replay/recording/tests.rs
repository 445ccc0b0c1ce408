use std::io::Write;

use tempfile::NamedTempFile;

use super::*;

fn file(lines: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    file
}

#[test]
fn files_start_at_zero_and_are_merged() {
    let one = file(
        "{\"op\":\"mcm\",\"pt\":100,\"mc\":[{\"id\":\"1.1\"}]}\r\n{\"op\":\"mcm\",\"pt\":100,\"mc\":[{\"id\":\"1.1\",\"rc\":[]}]}\r\n\r\n{\"op\":\"mcm\",\"pt\":300,\"mc\":[{\"id\":\"1.1\"}]}\r\n",
    );
    let two = file(
        "{\"op\":\"mcm\",\"pt\":9000,\"status\":503,\"mc\":[{\"id\":\"1.2\",\"img\":false,\"rc\":[{\"ltp\":1.10}]}]}\n{\"op\":\"mcm\",\"pt\":9100}\n{\"op\":\"mcm\",\"ct\":\"HEARTBEAT\",\"pt\":9150}",
    );
    let recording = Recording::load(&[one.path().to_owned(), two.path().to_owned()]).unwrap();
    let steps: Vec<_> = recording
        .steps
        .iter()
        .map(|step| (step.offset_ms, step.pt, step.markets.len()))
        .collect();
    assert_eq!(
        steps,
        [
            (0, 100, 1),
            (0, 9_000, 1),
            (0, 100, 1),
            (100, 9_100, 0),
            (200, 300, 1)
        ]
    );
    assert_eq!((recording.heads, recording.period_ms), (2, 1_200));
    assert_eq!(
        &*recording.steps[0].markets[0].json,
        r#"{"id":"1.1","img":true}"#
    );
    assert_eq!(
        &*recording.steps[1].markets[0].json,
        r#"{"id":"1.2","img":true,"rc":[{"ltp":1.10}]}"#
    );
    assert_eq!(
        &*recording.steps[2].markets[0].json,
        r#"{"id":"1.1","rc":[]}"#
    );
    assert_eq!(recording.steps[1].status, Some(503));
}

#[test]
fn versions_increase_with_each_round() {
    let line = |version: &str| {
        format!(
            r#"{{"op":"mcm","pt":1,"mc":[{{"id":"1.1","marketDefinition":{{"version": {version},"x":1}}}}]}}"#
        )
    };
    let file = file(&[line("10"), line("12"), line("\"x\"")].join("\n"));
    let recording = Recording::load(&[file.path().to_owned()]).unwrap();
    let written = |step: usize, round| {
        let mut text = String::new();
        recording.write(&recording.steps[step].markets[0], round, &mut text);
        text
    };
    let image = |version: &str| {
        format!(r#"{{"id":"1.1","img":true,"marketDefinition":{{"version": {version},"x":1}}}}"#)
    };
    assert_eq!(
        [written(0, 0), written(0, 1), written(0, 2)],
        [image("10"), image("13"), image("16")]
    );
    assert_eq!(written(1, 1), image("15").replace(r#""img":true,"#, ""));
    assert_eq!(written(2, 1), written(2, 0), "no number");
}

#[test]
fn unreadable_line_is_located() {
    let error = |lines: &str| {
        let file = file(lines);
        let error = Recording::load(&[file.path().to_owned()])
            .unwrap_err()
            .to_string();
        error.replace(&file.path().display().to_string(), "FILE")
    };
    assert_eq!(
        error("{\"pt\":1}\n\n{oops}"),
        "FILE, line 3: key must be a string at line 1 column 2"
    );
    assert_eq!(
        error("{\"op\":\"ocm\",\"pt\":1}"),
        "FILE, line 1: op `ocm` is not `mcm`"
    );
    assert_eq!(
        error("{\"op\":\"mcm\"}"),
        "FILE, line 1: missing field `pt` at line 1 column 12"
    );
    assert!(error("{\"pt\":1,\"mc\":[{}]}").starts_with("FILE, line 1: mc: missing field `id`"));
    assert_eq!(error("\n"), "FILE contains no message");
    let missing = Recording::load(&["no-such-file".into()])
        .unwrap_err()
        .to_string();
    assert!(missing.starts_with("no-such-file: "), "{missing}");
}
