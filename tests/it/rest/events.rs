//! The list of events: its contents, its filters, and rejected filters.

use pretty_assertions::assert_eq;

use super::*;

fn frame(event: &str, version: i64, fields: Value) -> String {
    let mut frame: Value =
        serde_json::from_str(&original_frame(event, &time(version), version)).unwrap();
    frame
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    frame.to_string()
}

/// Ids of the events that a query lists.
async fn ids(fed: &Fed, query: &str) -> Vec<String> {
    let events = fed.get(&format!("/v1/events?{query}")).await;
    events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["eventId"].as_str().unwrap().to_owned())
        .collect()
}

async fn four_events() -> Fed {
    let mut fed = Fed::start(&[]).await;
    let soccer = json!({"sport": "Soccer", "start_time": "2026-12-01T18:30:00+01:00", "home_team": "São Paulo"});
    let tennis = json!({"sport": "tennis", "start_time": "2026-12-02T10:00:00Z", "in_play": true});
    let frames = [
        frame("A", 1, soccer),
        frame("B", 1, tennis),
        frame("C", 1, json!({"in_play": true, "status": "settled"})),
        frame("D", 1, json!({"status": "suspended"})),
        // Later changes that omit the details of the event.
        frame("A", 2, json!({"home_team": "São Paulo"})),
        frame("B", 2, json!({"in_play": true})),
    ];
    for frame in &frames {
        fed.link.send(frame.clone()).await;
    }
    fed.link
        .send(market_frame(
            "B",
            "btts",
            None,
            &[("yes", 1.7), ("no", 2.1)],
            3,
        ))
        .await;
    fed.stored(7).await;
    fed
}

#[actix_web::test]
async fn list_shows_details_from_feed() {
    let fed = four_events().await;
    let events = fed.get("/v1/events?status=all").await;
    assert_eq!(
        events,
        json!([
            {"eventId": "A", "homeTeam": "São Paulo", "awayTeam": "Palmeiras", "sport": "soccer",
                "startTime": "2026-12-01T17:30:00Z", "status": "upcoming", "inPlay": false, "openMarkets": 1},
            {"eventId": "B", "homeTeam": "Flamengo", "awayTeam": "Palmeiras", "sport": "tennis",
                "startTime": "2026-12-02T10:00:00Z", "status": "live", "inPlay": true, "openMarkets": 2},
            {"eventId": "C", "homeTeam": "Flamengo", "awayTeam": "Palmeiras", "status": "ended", "inPlay": false,
                "openMarkets": 0},
            {"eventId": "D", "homeTeam": "Flamengo", "awayTeam": "Palmeiras", "status": "upcoming", "inPlay": false,
                "openMarkets": 0},
        ])
    );
}

#[actix_web::test]
async fn filters_select_events() {
    let fed = four_events().await;
    let cases: &[(&str, &[&str])] = &[
        ("", &["A", "B", "D"]),
        ("status=", &["A", "B", "D"]),
        ("status=all", &["A", "B", "C", "D"]),
        ("status=ended", &["C"]),
        ("status=live", &["B"]),
        ("status=upcoming", &["A", "D"]),
        ("inPlay=true", &["B"]),
        ("inPlay=false", &["A", "D"]),
        ("inPlay=false&status=all", &["A", "C", "D"]),
        ("inPlay=true&status=ended", &[]),
        ("sport=SOCCER", &["A"]),
        ("sport=socc", &[]),
        ("from=2026-12-01T17:30:00Z", &["A", "B"]),
        ("from=2026-12-01T17:30:00.001Z", &["B"]),
        ("to=2026-12-02T10:00:00Z", &["A"]),
        ("from=2026-12-02T10:00:00Z&to=2026-12-02T10:00:00Z", &[]),
        ("q=S%C3%83O%20p", &["A"]),
        ("q=palm", &["A", "B", "D"]),
        ("q=%25", &[]),
        (
            "q=palm&sport=tennis&status=live&inPlay=true&from=2026-12-01T00:00:00Z&to=2027-01-01T00:00:00Z",
            &["B"],
        ),
        ("status=all&after=B", &["C", "D"]),
    ];
    for (query, wanted) in cases {
        assert_eq!(ids(&fed, query).await, *wanted, "{query}");
    }
}

#[actix_web::test]
async fn next_page_keeps_filters() {
    let mut fed = Fed::start(&[]).await;
    for place in 0..12 {
        let sport = if place % 2 == 0 {
            "beach volleyball & more"
        } else {
            "tennis"
        };
        fed.link
            .send(frame(
                &format!("E{place:02}"),
                1,
                json!({"sport": sport, "status": "settled"}),
            ))
            .await;
    }
    fed.stored(12).await;
    let mut path = Some(
        "/v1/events?limit=2&status=ended&sport=Beach+volleyball+%26+more&q=FLA&inPlay=false"
            .to_owned(),
    );
    let mut seen = Vec::new();
    while let Some(page) = path {
        let answer = Answer::get(&fed.url(&page)).await;
        assert_eq!(answer.status, 200, "{page}");
        seen.extend(
            answer
                .json()
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["eventId"].as_str().unwrap().to_owned()),
        );
        path = answer
            .header("link")
            .map(|link| format!("/v1/events{}", link.split(['<', '>']).nth(1).unwrap()));
    }
    assert_eq!(seen, ["E00", "E02", "E04", "E06", "E08", "E10"]);
}

#[actix_web::test]
async fn ended_event_leaves_the_list() {
    let mut fed = Fed::start(&[]).await;
    fed.link
        .send(frame("E", 1, json!({"sport": "soccer"})))
        .await;
    fed.link
        .send(market_frame(
            "E",
            "btts",
            None,
            &[("yes", 1.7), ("no", 2.1)],
            1,
        ))
        .await;
    fed.link
        .send(frame("E", 2, json!({"status": "settled"})))
        .await;
    fed.stored(3).await;
    assert_eq!(ids(&fed, "").await, ["E"], "one market is still open");
    let mut last: Value = serde_json::from_str(&market_frame(
        "E",
        "btts",
        None,
        &[("yes", 1.7), ("no", 2.1)],
        2,
    ))
    .unwrap();
    last["status"] = json!("cancelled");
    fed.link.send(last.to_string()).await;
    fed.stored(4).await;
    assert_eq!(ids(&fed, "").await, [""; 0]);
    assert_eq!(ids(&fed, "status=ended&sport=soccer").await, ["E"]);
}

#[actix_web::test]
async fn invalid_filters_are_named() {
    let fed = Fed::start(&[]).await;
    let long = format!("q={}", "x".repeat(65));
    let bad = [
        "status=open",
        "status=Live",
        "inPlay=yes",
        "inPlay=1",
        "from=yesterday",
        "to=2026-12-01",
        "sport=%20",
        "sport=a%00b",
        "q=a%0Ab",
        &long,
        "status=all&status=live",
    ];
    for query in bad {
        let answer = Answer::get(&fed.url(&format!("/v1/events?{query}"))).await;
        let (parameter, _) = query.split_once('=').unwrap();
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (400, &json!("BAD_QUERY")),
            "{query}"
        );
        assert!(
            answer.text().contains(parameter),
            "{query}: {}",
            answer.text()
        );
    }
}
