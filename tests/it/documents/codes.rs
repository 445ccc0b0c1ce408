//! The codes of the documents are those of the source.

use std::collections::BTreeSet;

use pretty_assertions::assert_eq;
use regex::Regex;
use reqwest::StatusCode;
use serde_json::Value;
use sports_bet_platform::domain::bets::bet::BetRefusal;
use sports_bet_platform::domain::streaming::protocol::{CloseReason, Refusal};
use strum::VariantNames;

use crate::support::documents::{MESSAGES, REST};

/// A status and a code.
type Code = (u16, String);

fn status_of(name: &str) -> u16 {
    let statuses = (100..600).filter_map(|status| StatusCode::from_u16(status).ok());
    let mut named = statuses.filter(|status| {
        let reason = status.canonical_reason().unwrap_or_default();
        reason.to_uppercase().replace([' ', '-'], "_") == name
    });
    named.next().unwrap_or_else(|| panic!("{name}")).as_u16()
}

fn matches(source: &str, pattern: &str) -> Vec<[String; 2]> {
    let pattern = Regex::new(pattern).unwrap();
    pattern
        .captures_iter(source)
        .map(|found| [1, 2].map(|part| found[part].to_owned()))
        .collect()
}

/// The statuses and codes of the server, as they stand in its source.
fn in_source() -> BTreeSet<Code> {
    let file = |path: &str| {
        std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let errors = file("src/http/errors.rs");
    let mapped = matches(
        &errors,
        r#"\(\s*"([A-Z_0-9]+)",\s*StatusCode::([A-Z_]+),?\s*\)"#,
    );
    let ended = file("src/http/connections/ended.rs");
    let ended = matches(&ended, r#""([0-9]{3}) [A-Za-z ]+",\s*"([A-Z_0-9]+)""#);
    let refusals = BetRefusal::VARIANTS.iter();
    let all: BTreeSet<_> = mapped
        .into_iter()
        .map(|[code, status]| (status_of(&status), code))
        .chain(
            ended
                .into_iter()
                .map(|[status, code]| (status.parse().unwrap(), code)),
        )
        .chain(refusals.map(|code| (409, (*code).to_owned())))
        .collect();
    assert!(all.len() > 40, "{all:?}");
    all
}

/// Each operation with the key `responses`, and the answers to requests that match none.
fn responses() -> impl Iterator<Item = (u16, &'static Value)> {
    let paths = REST.root["paths"].as_object().unwrap().values();
    let items = paths.flat_map(|item| item.as_object().unwrap().values());
    items
        .chain([&REST.root["x-unmatched-requests"]])
        .filter_map(|item| item.get("responses")?.as_object())
        .flatten()
        .map(|(status, response)| (status.parse().unwrap(), REST.resolve(response)))
}

#[test]
fn rest_codes_are_those_of_the_source() {
    let mut documented = BTreeSet::new();
    for (status, response) in responses().filter(|(status, _)| *status >= 400) {
        let examples = &response["content"]["application/json"]["examples"];
        for (code, example) in examples.as_object().unwrap() {
            let body = &REST.resolve(example)["value"];
            assert_eq!(body["code"], **code, "the example {code}");
            documented.insert((status, code.clone()));
        }
    }
    assert_eq!(documented, in_source());
}

#[test]
fn socket_codes_are_those_of_the_source() {
    let names = |list: &Value, field: &str| -> BTreeSet<String> {
        let values = list.as_array().unwrap().iter();
        values
            .map(|one| one[field].as_str().unwrap().to_owned())
            .collect()
    };
    let of_source = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let errors = names(
        &MESSAGES.root["components"]["messages"]["error"]["examples"],
        "name",
    );
    assert_eq!(errors, of_source(Refusal::VARIANTS));
    let reasons = names(
        &MESSAGES.root["channels"]["oddsSocket"]["x-close-codes"],
        "reason",
    );
    let of_gateway = ["the gateway stops", "the service is unavailable"];
    let all = [CloseReason::VARIANTS, &of_gateway].concat();
    assert_eq!(reasons, of_source(&all));
}
