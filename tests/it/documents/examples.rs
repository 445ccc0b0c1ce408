//! Every reference leads somewhere, and every example fits its schema.

use serde_json::{Value, json};

use crate::support::documents::{Document, MESSAGES, REST};

fn walk<'a>(node: &'a Value, visit: &mut impl FnMut(&'a Value)) {
    visit(node);
    match node {
        Value::Object(fields) => fields.values().for_each(|value| walk(value, visit)),
        Value::Array(values) => values.iter().for_each(|value| walk(value, visit)),
        _ => {}
    }
}

/// The examples of a node with a schema.
fn examples_of<'a>(document: &'a Document, node: &'a Value) -> Vec<&'a Value> {
    let named = node.get("examples").and_then(Value::as_object);
    let named = named.into_iter().flat_map(serde_json::Map::values);
    named
        .map(|example| &document.resolve(example)["value"])
        .chain(node.get("example"))
        .collect()
}

#[test]
fn references_lead_somewhere() {
    for document in [&*REST, &*MESSAGES] {
        let mut references = 0;
        walk(&document.root, &mut |node| {
            references += usize::from(node.get("$ref").is_some_and(Value::is_string));
            document.resolve(node);
        });
        assert!(references > 50, "{references}");
    }
}

#[test]
fn rest_examples_fit_their_schemas() {
    let mut checked = 0;
    walk(&REST.root, &mut |node| {
        if let Some(schema) = node.get("schema") {
            for example in examples_of(&REST, node) {
                let problems = REST.problems(schema, example);
                assert!(problems.is_empty(), "{example}: {problems:?}");
                checked += 1;
            }
        }
    });
    assert!(checked > 80, "{checked}");
}

/// The examples of the schemas themselves.
#[test]
fn schema_examples_fit() {
    for document in [&*REST, &*MESSAGES] {
        walk(&document.root["components"]["schemas"], &mut |node| {
            let examples = node.get("examples").and_then(Value::as_array);
            for example in examples.into_iter().flatten() {
                let problems = document.problems(node, example);
                assert!(problems.is_empty(), "{example}: {problems:?}");
            }
        });
    }
}

/// Every body has an example, and so has every message.
#[test]
fn bodies_and_messages_have_examples() {
    walk(&REST.root, &mut |node| {
        let content = node
            .get("content")
            .and_then(|all| all.get("application/json"));
        if let Some(media) = content {
            assert!(!examples_of(&REST, media).is_empty(), "{node}");
        }
    });
    let messages = MESSAGES.root["components"]["messages"].as_object().unwrap();
    for (name, message) in messages {
        let examples = message["examples"].as_array().unwrap();
        assert!(!examples.is_empty(), "{name}");
        for example in examples {
            let problems = MESSAGES.problems(&message["payload"], &example["payload"]);
            assert!(problems.is_empty(), "{name} {example}: {problems:?}");
            if let Some(schema) = message.get("headers") {
                let headers = example.get("headers").cloned().unwrap_or(json!({}));
                let problems = MESSAGES.problems(schema, &headers);
                assert!(problems.is_empty(), "{name} {example}: {problems:?}");
            }
        }
    }
}
