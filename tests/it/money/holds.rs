//! Holds, set with the command while the platform runs.

use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::{Answer, BetsHarness, bet_body};
use crate::support::{Database, until};

/// Runs `sports-bet hold` on the platform's database.
async fn hold(harness: &BetsHarness, arguments: &[&str]) -> String {
    let output = harness.command(&[&["hold"], arguments].concat()).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}{errors}");
    text
}

async fn release(harness: &BetsHarness, id: &str) {
    let arguments = ["release", id, "--reason", "resolved", "--by", "bob"];
    hold(harness, &arguments).await;
}

/// The market of event `E` as REST shows it: its status and that of the selection `home`.
async fn shown(harness: &BetsHarness) -> (Value, Value) {
    let odds = harness
        .get(harness.platform.odds(), "/v1/events/E/odds")
        .await
        .json();
    let market = &odds[0];
    let selections = market["selections"].as_array().unwrap();
    let home = selections.iter().find(|one| one["id"] == "home").unwrap();
    (market["status"].clone(), home["status"].clone())
}

async fn until_shown(harness: &BetsHarness, market: &str, home: &str) {
    let expected = (json!(market), json!(home));
    until(&format!("{expected:?}"), || async {
        (shown(harness).await == expected).then_some(())
    })
    .await;
}

async fn bet(harness: &BetsHarness, selection: &str, key: Option<&str>) -> Answer {
    let mut body = bet_body("u", "E", 100);
    body["selection"] = json!(selection);
    body["oddsChange"] = json!("any");
    harness.bet(&body, key).await
}

/// A hold counts for bets as soon as the command has ended, and is shown within a second or so.
#[actix_web::test]
async fn held_market_takes_no_bets() {
    let mut harness = BetsHarness::open(&[], &[]).await;
    harness.offer("E").await;
    harness.deposit("u", 100_000).await;
    assert_eq!(bet(&harness, "home", Some("before")).await.code(), "200");

    let set = [
        "set", "--event", "E", "--market", "1x2", "--reason", "odd bets", "--by", "ann",
    ];
    let printed = hold(&harness, &set).await;
    assert!(
        printed.starts_with("hold 1 set: event E, market 1x2\nopen markets that it covers now: "),
        "{printed}"
    );
    let refused = bet(&harness, "home", Some("k")).await;
    assert_eq!(refused.code(), "409 MARKET_SUSPENDED");
    // The first answer to a key stays.
    assert_eq!(bet(&harness, "home", Some("before")).await.code(), "200");
    until_shown(&harness, "suspended", "active").await;

    // Each hold is released by itself.
    let set = [
        "set",
        "--event",
        "E",
        "--market",
        "1x2",
        "--selection",
        "home",
        "--reason",
        "injury",
    ];
    hold(&harness, &set).await;
    release(&harness, "1").await;
    assert_eq!(bet(&harness, "home", None).await.status, 409);
    until_shown(&harness, "open", "suspended").await;
    assert_eq!(
        bet(&harness, "home", None).await.code(),
        "409 SELECTION_SUSPENDED"
    );
    assert_eq!(bet(&harness, "away", None).await.code(), "200");
    release(&harness, "2").await;
    until("bets are accepted", || async {
        (bet(&harness, "home", None).await.code() == "200").then_some(())
    })
    .await;
    until_shown(&harness, "open", "active").await;
    assert_eq!(
        bet(&harness, "home", Some("k")).await.code(),
        "409 MARKET_SUSPENDED"
    );

    let database = Database::of(&harness.platform.folder);
    let audited = |action: &str, by: &str, reason: &str| {
        database.number(&format!(
            "SELECT count(*) AS number FROM hold_audit
            WHERE action = '{action}' AND done_by = '{by}' AND reason = '{reason}' AND event_id = 'E' AND market = '1x2'"
        ))
    };
    assert_eq!(audited("set", "ann", "odd bets"), 1);
    assert_eq!(audited("release", "bob", "resolved"), 2);
    let all = "SELECT count(*) AS number FROM hold_audit";
    assert_eq!(database.number(all), 4);
    harness.close().await;
}

/// The hold of another source covers nothing here. One with an end needs no release.
#[actix_web::test]
async fn hold_of_a_source_ends_by_itself() {
    let mut harness = BetsHarness::open(&[], &[]).await;
    harness.offer("E").await;
    harness.deposit("u", 100_000).await;
    let set = ["set", "--source", "other", "--reason", "r"];
    hold(&harness, &set).await;
    assert_eq!(bet(&harness, "home", None).await.code(), "200");
    let set = [
        "set",
        "--source",
        "test-supplier",
        "--reason",
        "r",
        "--for",
        "3s",
    ];
    hold(&harness, &set).await;
    assert_eq!(
        bet(&harness, "home", None).await.code(),
        "409 MARKET_SUSPENDED"
    );
    until_shown(&harness, "suspended", "active").await;
    until_shown(&harness, "open", "active").await;
    assert_eq!(bet(&harness, "home", None).await.code(), "200");
    let listed: Value =
        serde_json::from_str(&hold(&harness, &["list", "--all", "--json"]).await).unwrap();
    assert_eq!(
        (&listed[0]["state"], &listed[1]["state"]),
        (&json!("in force"), &json!("ended"))
    );
    harness.close().await;
}
