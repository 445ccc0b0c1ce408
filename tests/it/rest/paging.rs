//! Pages: complete and without repeats while new data arrives.

use std::collections::BTreeSet;

use pretty_assertions::assert_eq;

use super::*;

/// The page of the `rel="next"` link, which is relative: it is also right behind a gateway.
fn next_link(answer: &Answer) -> Option<String> {
    let link = answer.header("link")?;
    let (path, relation) = link.split_once(">; ").unwrap();
    assert_eq!(relation, "rel=\"next\"");
    let query = path.strip_prefix("<?").unwrap();
    Some(format!("/v1/events?{query}"))
}

#[actix_web::test]
async fn event_pages_stay_complete_during_inserts() {
    let mut fed = Fed::start(&[]).await;
    // Ids that a link has to escape.
    let ids: Vec<_> = (0..23).map(|place| format!("ev&nt {place:02}/ü")).collect();
    for id in &ids {
        fed.send(id, [1]).await;
    }
    fed.stored(23).await;
    let mut seen = Vec::new();
    let mut path = Some("/v1/events?limit=4".to_owned());
    let mut pages = 0;
    while let Some(page) = path {
        let answer = Answer::get(&fed.url(&page)).await;
        assert_eq!(answer.status, 200, "{page}");
        let events = answer.json();
        seen.extend(
            events
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["eventId"].as_str().unwrap().to_owned()),
        );
        assert!(events.as_array().unwrap().len() <= 4);
        path = next_link(&answer);
        pages += 1;
        // One event before and one after the current page.
        fed.send(&format!("a new {pages:02}"), [1]).await;
        fed.send(&format!("z new {:02}", 50 - pages), [1]).await;
        fed.stored(23 + 2 * pages as u64).await;
        assert!(pages < 30, "the pages do not end");
    }
    let once: BTreeSet<_> = seen.iter().cloned().collect();
    assert_eq!(once.len(), seen.len(), "an event is on two pages: {seen:?}");
    assert!(
        ids.iter().all(|id| once.contains(id)),
        "an event is missing: {seen:?}"
    );
    assert!(seen.is_sorted());
}

#[actix_web::test]
async fn single_page_has_no_link() {
    let mut fed = Fed::start(&[]).await;
    assert_eq!(
        fed.get("/v1/events").await,
        json!([]),
        "no events: an empty list"
    );
    fed.send("A", [1]).await;
    fed.send("B", [1]).await;
    fed.stored(2).await;
    assert_eq!(
        next_link(&Answer::get(&fed.url("/v1/events?limit=3")).await),
        None
    );
    let after = fed.get("/v1/events?after=A").await;
    assert_eq!(after.as_array().unwrap().len(), 1);
    assert_eq!(after[0]["eventId"], "B");
}

#[actix_web::test]
async fn history_pages_stay_complete_during_inserts() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", 1..=60).await;
    // At the same time: only the version distinguishes them.
    for version in 61..=70 {
        fed.link.send(original_frame("E", &time(61), version)).await;
    }
    fed.stored(70).await;
    let mut versions = Vec::new();
    let mut cursor = String::new();
    let mut newest = 100;
    loop {
        let page = fed
            .get(&format!(
                "/v1/events/E/markets/1x2/history?limit=7&cursor={cursor}"
            ))
            .await;
        let rows = page["entries"].as_array().unwrap();
        assert!(rows.len() <= 7);
        versions.extend(rows.iter().map(|row| row["version"].as_i64().unwrap()));
        let Some(next) = page["nextCursor"].as_str() else {
            break;
        };
        cursor = next.to_owned();
        if newest < 105 {
            newest += 1;
            fed.send("E", [newest]).await;
            fed.stored(newest as u64 - 30).await;
        }
    }
    let wanted: Vec<_> = (1..=70).chain(101..=105).collect();
    assert_eq!(versions, wanted);
}

#[actix_web::test]
async fn from_is_inclusive_to_is_exclusive() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", 1..=9).await;
    fed.stored(9).await;
    let versions = async |query: String| {
        let page = fed
            .get(&format!("/v1/events/E/markets/1x2/history?{query}"))
            .await;
        page["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["version"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        versions(format!("from={}&to={}", time(3), time(6))).await,
        [3, 4, 5]
    );
    assert_eq!(versions(format!("from={}", time(8))).await, [8, 9]);
    assert_eq!(versions(format!("to={}", time(2))).await, [1]);
    assert_eq!(
        versions(format!("from={}&to={}", time(4), time(4))).await,
        [0_i64; 0]
    );
    // The same time in another time zone.
    assert_eq!(
        versions("from=2025-11-08T22:00:08-02:00".to_owned()).await,
        [8, 9]
    );
    assert_eq!(
        versions(format!("from={}&to={}&limit=2", time(3), time(6))).await,
        [3, 4]
    );
    // Empty parameters count as absent.
    assert_eq!(
        versions("from=&to=&limit=&cursor=&line=".to_owned())
            .await
            .len(),
        9
    );
}

#[actix_web::test]
async fn cursor_keeps_its_range() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", 1..=9).await;
    fed.stored(9).await;
    let range = format!("/v1/events/E/markets/1x2/history?to={}&limit=4", time(7));
    let page = fed.get(&range).await;
    let rest = fed
        .get(&format!(
            "{range}&cursor={}",
            page["nextCursor"].as_str().unwrap()
        ))
        .await;
    let versions: Vec<_> = rest["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["version"])
        .collect();
    assert_eq!(versions, [5, 6]);
    assert_eq!(rest["nextCursor"], json!(null));
}

#[actix_web::test]
async fn each_line_has_its_own_history() {
    let mut fed = Fed::start(&[]).await;
    for (version, line) in [(1, 1.5), (2, 2.5), (3, 2.5)] {
        fed.link
            .send(market_frame(
                "E",
                "total_goals",
                Some(line),
                &[("over", 1.9), ("under", 1.9)],
                version,
            ))
            .await;
    }
    fed.stored(3).await;
    let count = async |query: &str| {
        fed.get(&format!("/v1/events/E/markets/total_goals/history{query}"))
            .await["entries"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!((count("?line=1.5").await, count("?line=2.5").await), (1, 2));
    let without = Answer::get(&fed.url("/v1/events/E/markets/total_goals/history")).await;
    assert_eq!(
        (without.status, &without.json()["code"]),
        (404, &json!("MARKET_NOT_FOUND"))
    );
}
