//! The response shapes that clients of the original and our own clients read.

use pretty_assertions::assert_eq;
use serde_json::Value;
use sports_bet_platform::config::settings::Role;

use super::*;

/// Sequence numbers derive from the time, so each is replaced by its rank within the response.
fn numbered(text: &str) -> String {
    let mut seqs: Vec<u64> = text.split("\"seq\":").skip(1).map(number).collect();
    seqs.sort_unstable();
    seqs.dedup();
    let mut out = text.to_owned();
    for (place, seq) in seqs.iter().enumerate() {
        out = out.replace(
            &format!("\"seq\":{seq}"),
            &format!("\"seq\":#{}", place + 1),
        );
    }
    out
}

fn number(text: &str) -> u64 {
    text.split(|letter: char| !letter.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

async fn three_markets() -> Fed {
    let mut fed = Fed::start(&[]).await;
    fed.link
        .send(r#"{"event_id":"MATCH_001","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{"home":1.528,"draw":2.574,"away":3.393131547636627},"updated_at":"2025-11-09T21:07:45Z","source":"supplier-simulator","version":978}"#)
        .await;
    let goals = &[("over", 1.9), ("under", 1.95)];
    fed.link
        .send(market_frame(
            "MATCH_001",
            "total_goals",
            Some(2.5),
            goals,
            1,
        ))
        .await;
    fed.link
        .send(market_frame(
            "MATCH_001",
            "total_goals",
            Some(3.5),
            goals,
            2,
        ))
        .await;
    fed.link
        .send(market_frame(
            "MATCH_001",
            "btts",
            None,
            &[("yes", 1.7), ("no", 2.1)],
            3,
        ))
        .await;
    fed.stored(4).await;
    fed
}

#[actix_web::test]
async fn reads_match_the_contract() {
    let fed = three_markets().await;
    let text = async |path: &str| numbered(Answer::get(&fed.url(path)).await.text());

    insta::assert_snapshot!(text("/v1/events").await, @r#"[{"eventId":"MATCH_001","homeTeam":"Flamengo","awayTeam":"Palmeiras","status":"upcoming","inPlay":false,"openMarkets":4}]"#);
    insta::assert_snapshot!(text("/v1/events/MATCH_001/markets").await, @r#"[{"market":"1x2","status":"open","seq":#1},{"market":"btts","status":"open","seq":#4},{"market":"total_goals","line":2.5,"status":"open","seq":#2},{"market":"total_goals","line":3.5,"status":"open","seq":#3}]"#);
    let odds = text("/v1/events/MATCH_001/odds").await;
    insta::assert_snapshot!(odds.replace("},{\"eventId", "},\n{\"eventId"), @r#"
    [{"eventId":"MATCH_001","market":"1x2","homeOdd":1.528,"drawOdd":2.574,"awayOdd":3.393,"version":978,"updatedAt":"2025-11-09T21:07:45Z","selections":[{"id":"home","name":"Flamengo","price":1.528,"status":"active"},{"id":"draw","name":"Draw","price":2.574,"status":"active"},{"id":"away","name":"Palmeiras","price":3.393,"status":"active"}],"status":"open","source":"supplier-simulator","seq":#1},
    {"eventId":"MATCH_001","market":"btts","version":3,"updatedAt":"2025-11-09T00:00:03Z","selections":[{"id":"yes","name":"YES","price":1.7,"status":"active"},{"id":"no","name":"NO","price":2.1,"status":"active"}],"status":"open","source":"test-supplier","seq":#4},
    {"eventId":"MATCH_001","market":"total_goals","line":2.5,"version":1,"updatedAt":"2025-11-09T00:00:01Z","selections":[{"id":"over","name":"OVER","price":1.9,"status":"active"},{"id":"under","name":"UNDER","price":1.95,"status":"active"}],"status":"open","source":"test-supplier","seq":#2},
    {"eventId":"MATCH_001","market":"total_goals","line":3.5,"version":2,"updatedAt":"2025-11-09T00:00:02Z","selections":[{"id":"over","name":"OVER","price":1.9,"status":"active"},{"id":"under","name":"UNDER","price":1.95,"status":"active"}],"status":"open","source":"test-supplier","seq":#3}]
    "#);
    insta::assert_snapshot!(text("/v1/events/MATCH_001/markets/total_goals/history?line=2.50").await, @r#"{"entries":[{"eventId":"MATCH_001","market":"total_goals","line":2.5,"version":1,"updatedAt":"2025-11-09T00:00:01Z","selections":[{"id":"over","name":"OVER","price":1.9,"status":"active"},{"id":"under","name":"UNDER","price":1.95,"status":"active"}],"status":"open","source":"test-supplier"}],"nextCursor":null}"#);
}

#[actix_web::test]
async fn original_fields_keep_their_types() {
    let fed = three_markets().await;
    let events = fed.get("/v1/events").await;
    assert!(
        ["eventId", "homeTeam", "awayTeam"]
            .iter()
            .all(|field| events[0][field].is_string()),
        "{events}"
    );
    assert!(fed.get("/v1/events/MATCH_001/markets").await[0]["market"].is_string());
    let odds = fed.get("/v1/events/MATCH_001/odds").await;
    for field in ["eventId", "market", "updatedAt"] {
        assert!(odds[0][field].is_string(), "{field}: {odds}");
    }
    for field in ["homeOdd", "drawOdd", "awayOdd"] {
        assert!(odds[0][field].is_f64(), "{field}: {odds}");
        // A market without such a selection omits the field; it is neither null nor 0.
        assert_eq!(odds[1].get(field), None, "{odds}");
    }
    assert!(odds[0]["version"].is_i64());
    // A JSON number that JavaScript represents exactly.
    assert!(odds[0]["seq"].as_u64().unwrap() < 1 << 53, "{odds}");
}

#[actix_web::test]
async fn unpriced_sides_are_omitted() {
    let mut fed = Fed::start(&[]).await;
    fed.link
        .send(market_frame("E", "1x2", None, &[("home", 1.5)], 1))
        .await;
    fed.stored(1).await;
    let odds = &fed.get("/v1/events/E/odds").await[0];
    assert_eq!(
        (&odds["homeOdd"], odds.get("drawOdd"), odds.get("awayOdd")),
        (&json!(1.5), None, None)
    );
}

#[actix_web::test]
async fn in_play_suspension_is_shown() {
    let mut fed = Fed::start(&[]).await;
    let mut frame: Value = serde_json::from_str(&original_frame("E", &time(1), 1)).unwrap();
    frame["status"] = json!("suspended");
    frame["in_play"] = json!(true);
    fed.link.send(frame.to_string()).await;
    fed.stored(1).await;
    let odds = &fed.get("/v1/events/E/odds").await[0];
    assert_eq!(
        (&odds["status"], &odds["inPlay"]),
        (&json!("suspended"), &json!(true))
    );
    assert_eq!(
        fed.get("/v1/events/E/markets").await[0]["status"],
        "suspended"
    );
}

#[actix_web::test]
async fn ids_may_contain_any_letters() {
    let mut fed = Fed::start(&[]).await;
    let long = "x".repeat(128);
    let ids = [
        "São Paulo v Grêmio",
        "a/b",
        "100%",
        "1.197931750",
        "q?x=1&y=2#z",
        "⚽+⚽",
        &long,
    ];
    for id in ids {
        fed.send(id, [1]).await;
    }
    fed.stored(ids.len() as u64).await;
    for id in ids {
        let escaped: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let odds = fed.get(&format!("/v1/events/{escaped}/odds")).await;
        assert_eq!(odds[0]["eventId"], id);
        let history = fed
            .get(&format!("/v1/events/{escaped}/markets/1x2/history"))
            .await;
        assert_eq!(history["entries"][0]["eventId"], id);
    }
    assert_eq!(
        fed.get("/v1/events").await.as_array().unwrap().len(),
        ids.len()
    );
}

#[actix_web::test]
async fn rest_is_as_fresh_as_pushes() {
    let mut fed = Fed::start(&[]).await;
    let mut client = fed.platform.subscriber("E").await;
    for version in 1..=150 {
        fed.send("E", [version]).await;
        let pushed = client.next_of("update").await;
        assert_eq!(pushed["payload"]["version"], version);
        let odds = &fed.get("/v1/events/E/odds").await[0];
        assert!(
            odds["seq"].as_u64() >= pushed["seq"].as_u64(),
            "{odds} is older than {pushed}"
        );
        let market = &fed.get("/v1/events/E/markets").await[0];
        assert!(
            market["seq"].as_u64() >= pushed["seq"].as_u64(),
            "{market} is older than {pushed}"
        );
    }
}

#[actix_web::test]
async fn late_update_only_enters_the_history() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", [1, 9, 5, 9, 10]).await;
    fed.stored(4).await;
    // The live path and the store path do not wait for each other.
    until("the last one at REST", async || {
        (fed.get("/v1/events/E/odds").await[0]["version"] == 10).then_some(())
    })
    .await;
    let history = fed.get("/v1/events/E/markets/1x2/history").await;
    let versions: Vec<_> = history["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["version"])
        .collect();
    assert_eq!(versions, [1, 5, 9, 10]);
    let older = r#"odds_proc_updates_rejected_total{reason="older"}"#;
    // More than one if the store was faster than the book, which then starts from a later state.
    fed.platform
        .until_metric(Role::Processor, older, |count| count >= 1.0)
        .await;
}
