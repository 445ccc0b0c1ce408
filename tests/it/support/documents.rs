//! Holds what the tests receive against the documents of the API. Fields that a document does not name
//! are refused here, and only here: clients ignore them.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::{Draft, Validator};
use reqwest::header::HeaderMap;
use serde_json::{Map, Value, json};
use sports_bet_platform::bus::NewRecord;
use sports_bet_platform::domain::odds::update::OddsUpdate;
use sports_bet_platform::http::documents::{ASYNCAPI, OPENAPI};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// `docs/api/openapi.yaml`.
pub static REST: LazyLock<Document> = LazyLock::new(|| Document::read(OPENAPI));
/// `docs/api/asyncapi.yaml`.
pub static MESSAGES: LazyLock<Document> = LazyLock::new(|| Document::read(ASYNCAPI));

/// The media type of errors, for clients that request it.
const PROBLEM: &str = "application/problem+json";
/// The prefixes of the gateway.
const PREFIXES: [&str; 3] = ["/api/odds", "/api/wallet", "/api/bets"];
/// Served to operators, and by the simulator.
const UNDOCUMENTED: [&str; 5] = ["/healthz", "/readyz", "/livez", "/metrics", "/supplier/"];

/// A document, and the validators of its schemas.
pub struct Document {
    /// Its contents; its schemas refuse unknown fields.
    pub root: Value,
    validators: Mutex<BTreeMap<String, Arc<Validator>>>,
}

impl Document {
    fn read(text: &str) -> Document {
        let mut root = serde_norway::from_str(text).unwrap();
        refuse_unknown_fields(&mut root);
        Document {
            root,
            validators: Mutex::default(),
        }
    }

    /// The node, or the one that it refers to.
    pub fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        match node.get("$ref").and_then(Value::as_str) {
            None => node,
            Some(reference) => {
                let pointer = reference.strip_prefix('#').unwrap();
                let found = self.root.pointer(&pointer.replace("%7B", "{"));
                self.resolve(found.unwrap_or_else(|| panic!("{reference} leads nowhere")))
            }
        }
    }

    /// What is wrong with a value, by a schema of this document.
    pub fn problems(&self, schema: &Value, value: &Value) -> Vec<String> {
        let key = schema.to_string();
        let known = self.validators.lock().unwrap().get(&key).cloned();
        let validator = known.unwrap_or_else(|| {
            let made = Arc::new(self.validator(schema));
            self.validators.lock().unwrap().insert(key, made.clone());
            made
        });
        let errors = validator.iter_errors(value);
        errors
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect()
    }

    fn validator(&self, schema: &Value) -> Validator {
        let mut whole = schema.as_object().unwrap().clone();
        let schemas = self.root["components"]["schemas"].clone();
        whole.insert("components".to_owned(), json!({ "schemas": schemas }));
        jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            .build(&Value::Object(whole))
            .unwrap()
    }
}

fn refuse_unknown_fields(node: &mut Value) {
    match node {
        Value::Object(fields) => {
            fields.values_mut().for_each(refuse_unknown_fields);
            if fields.contains_key("properties") {
                fields.entry("additionalProperties").or_insert(false.into());
            }
        }
        Value::Array(values) => values.iter_mut().for_each(refuse_unknown_fields),
        _ => {}
    }
}

/// A received response.
pub struct Received<'a> {
    /// Of the request.
    pub method: &'a str,
    /// Of the request.
    pub path: &'a str,
    /// Of the response.
    pub status: u16,
    /// Of the response.
    pub headers: &'a HeaderMap,
    /// Of the response.
    pub body: &'a [u8],
}

impl Received<'_> {
    /// Panics if the response is not one that `openapi.yaml` documents.
    pub fn check(&self) {
        if UNDOCUMENTED.iter().any(|path| self.path.starts_with(path)) {
            return;
        }
        let problems = self.problems();
        assert!(
            problems.is_empty(),
            "openapi.yaml does not document this answer to {} {}: {} {}\n{}",
            self.method,
            self.path,
            self.status,
            String::from_utf8_lossy(self.body),
            problems.join("\n")
        );
    }

    fn problems(&self) -> Vec<String> {
        let response = self.responses().get(self.status.to_string().as_str());
        let Some(response) = response.map(|response| REST.resolve(response)) else {
            return vec![format!("status {} is missing", self.status)];
        };
        let mut problems = self.header_problems(response);
        problems.extend(self.body_problems(response));
        problems
    }

    fn responses(&self) -> &'static Map<String, Value> {
        let prefix = PREFIXES
            .iter()
            .find_map(|prefix| self.path.strip_prefix(prefix));
        let path = prefix
            .filter(|path| path.starts_with('/'))
            .unwrap_or(self.path);
        let operation = operation(self.method, path);
        let body = serde_json::from_slice::<Value>(self.body).unwrap_or_default();
        // The answer to HEAD has no code.
        let is_unmatched = body["code"] == "NOT_FOUND" || self.status == 405;
        let chosen = operation.filter(|_| !is_unmatched);
        let unmatched = &REST.root["x-unmatched-requests"];
        chosen.unwrap_or(unmatched)["responses"]
            .as_object()
            .unwrap()
    }

    fn header_problems(&self, response: &Value) -> Vec<String> {
        let headers = response.get("headers").and_then(Value::as_object);
        let mut problems = Vec::new();
        for (name, header) in headers.into_iter().flatten() {
            let header = REST.resolve(header);
            match self.headers.get(name) {
                Some(value) => {
                    let value = value.to_str().unwrap_or_default().into();
                    problems.extend(REST.problems(&header["schema"], &value));
                }
                None if header["required"] == true => {
                    problems.push(format!("the header {name} is missing"));
                }
                None => {}
            }
        }
        problems
    }

    fn body_problems(&self, response: &Value) -> Vec<String> {
        // The tests of compression compare the content.
        if self.method == "HEAD" || self.headers.contains_key("content-encoding") {
            return Vec::new();
        }
        let Some(content) = response.get("content").and_then(Value::as_object) else {
            let is_empty = self.body.is_empty();
            return Vec::from_iter((!is_empty).then(|| "it has a body".to_owned()));
        };
        let header = self.headers.get("content-type");
        let kind = header
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let is_problem = kind == PROBLEM && self.status >= 400;
        let documented = if is_problem { "application/json" } else { kind };
        let Some(media) = content.get(documented) else {
            return vec![format!("content type {header:?}")];
        };
        if documented != "application/json" {
            return Vec::new();
        }
        let Ok(body) = serde_json::from_slice::<Value>(self.body) else {
            return vec!["it is not JSON".to_owned()];
        };
        let problem = json!({"$ref": "#/components/schemas/Problem"});
        let schema = if is_problem {
            &problem
        } else {
            &media["schema"]
        };
        let mut problems = REST.problems(schema, &body);
        if self.status >= 400 {
            let code = body["code"].as_str().unwrap_or_default();
            let is_listed = media["examples"].get(code).is_some();
            problems.extend((!is_listed).then(|| format!("the code {code} has no example")));
        }
        problems
    }
}

/// The operation of a request.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let method = if method == "HEAD" { "GET" } else { method };
    let paths = REST.root["paths"].as_object().unwrap();
    let (_, item) = paths.iter().find(|(template, _)| fits(template, path))?;
    item.get(method.to_lowercase())
}

fn fits(template: &str, path: &str) -> bool {
    let templates = template.split('/');
    let is_same =
        |(part, given): (&str, &str)| part == given || part.starts_with('{') && !given.is_empty();
    templates.clone().count() == path.split('/').count()
        && templates.zip(path.split('/')).all(is_same)
}

/// Panics if a message of the server is not one that `asyncapi.yaml` documents.
pub fn check_frame(frame: &Value) {
    let kind = frame["type"].as_str().unwrap_or_default();
    let sent = MESSAGES.root["operations"]["sendToClient"]["messages"].as_array();
    let channel = &MESSAGES.root["channels"]["oddsSocket"]["messages"];
    let reference = json!(format!("#/channels/oddsSocket/messages/{kind}"));
    let is_sent = sent.unwrap().iter().any(|one| one["$ref"] == reference);
    assert!(is_sent, "asyncapi.yaml has no message `{kind}`: {frame}");
    let message = MESSAGES.resolve(&channel[kind]);
    let mut problems = MESSAGES.problems(&message["payload"], frame);
    if kind == "error" {
        let examples = message["examples"].as_array().unwrap();
        let is_listed = examples.iter().any(|one| one["name"] == frame["code"]);
        problems.extend((!is_listed).then(|| "its code has no example".to_owned()));
    }
    assert!(
        problems.is_empty(),
        "asyncapi.yaml does not document this message: {frame}\n{}",
        problems.join("\n")
    );
}

/// Panics if a close frame of the server is not one that `asyncapi.yaml` documents.
pub fn check_close(frame: &CloseFrame) {
    let code = u16::from(frame.code);
    // The echo of a client's own code.
    if code >= 4_000 {
        return;
    }
    let documented = &MESSAGES.root["channels"]["oddsSocket"]["x-close-codes"];
    let is_listed = documented
        .as_array()
        .unwrap()
        .iter()
        .any(|one| one["code"] == code && one["reason"] == frame.reason.as_str());
    assert!(is_listed, "asyncapi.yaml does not document {frame:?}");
}

/// The channel of a topic: the tests name their topics like the defaults, after a prefix.
fn channel_of(topic: &str) -> &'static str {
    const ENDINGS: [(&str, &str); 11] = [
        ("_results_dlq", "marketResultsDeadLetters"),
        ("_results", "marketResults"),
        ("_placed_dlq", "betPlacedDeadLetters"),
        ("_confirmed_dlq", "betConfirmedDeadLetters"),
        ("_settled_dlq", "betSettledDeadLetters"),
        ("_dlq", "oddsDeadLetters"),
        ("_placed", "betPlaced"),
        ("_confirmed", "betConfirmed"),
        ("_settled", "betSettled"),
        ("_suppliers", "supplierUpdates"),
        ("_sources", "sourceStatus"),
    ];
    let known = ENDINGS.iter().find(|(ending, _)| topic.ends_with(ending));
    known.map_or("oddsUpdates", |(_, channel)| *channel)
}

/// Panics if a record is not one that `asyncapi.yaml` documents for its topic. Tests also publish
/// updates that nobody can read.
pub fn check_record(topic: &str, record: &NewRecord) {
    let channel = channel_of(topic);
    let is_update = ["oddsUpdates", "supplierUpdates"].contains(&channel);
    if is_update && OddsUpdate::from_json(&record.payload).is_err() {
        return;
    }
    let messages = MESSAGES.root["channels"][channel]["messages"].as_object();
    let message = MESSAGES.resolve(messages.unwrap().values().next().unwrap());
    let header = |(name, value): &(String, bytes::Bytes)| {
        let value = String::from_utf8_lossy(value).into_owned();
        (name.clone(), Value::String(value))
    };
    let headers = Value::Object(record.headers.iter().map(header).collect());
    let mut problems = match message.get("headers") {
        Some(schema) => MESSAGES.problems(schema, &headers),
        None => Vec::from_iter((!record.headers.is_empty()).then(|| "it has headers".to_owned())),
    };
    if message["contentType"] != "application/octet-stream" {
        let payload = serde_json::from_slice(&record.payload).unwrap_or_default();
        problems.extend(MESSAGES.problems(&message["payload"], &payload));
    }
    assert!(
        problems.is_empty(),
        "asyncapi.yaml does not document this record of {channel}: {headers} {}\n{}",
        String::from_utf8_lossy(&record.payload),
        problems.join("\n")
    );
}
