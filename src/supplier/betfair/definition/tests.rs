use super::*;

fn read(json: &str) -> Result<Definition, Refused> {
    Definition::read(
        &EventId::new("1.5").unwrap(),
        &RawValue::from_string(json.to_owned()).unwrap(),
    )
}

fn status(market: &str, runners: &[&str]) -> &'static str {
    let runner = |(id, status)| format!(r#"{{"id":{id},"status":"{status}"}}"#);
    let runners: Vec<_> = runners.iter().enumerate().map(runner).collect();
    let json = format!(
        r#"{{"status":"{market}","runners":[{}]}}"#,
        runners.join(",")
    );
    read(&json).map_or_else(
        |fault| fault.reason,
        |definition| definition.status.as_str(),
    )
}

#[test]
fn market_statuses_are_mapped() {
    assert_eq!(status("OPEN", &["ACTIVE"]), "open");
    assert_eq!(status("SUSPENDED", &["ACTIVE"]), "suspended");
    assert_eq!(status("INACTIVE", &["ACTIVE"]), "suspended");
    assert_eq!(status("CLOSED", &["REMOVED", "WINNER", "LOSER"]), "settled");
    assert_eq!(status("CLOSED", &["PLACED", "LOSER"]), "settled");
    assert_eq!(
        status("CLOSED", &["REMOVED", "REMOVED_VACANT", "HIDDEN"]),
        "cancelled"
    );
    assert_eq!(status("CLOSED", &["LOSER", "LOSER"]), "closed");
    assert_eq!(status("CLOSED", &["REMOVED", "ACTIVE"]), "closed");
    assert_eq!(status("ASLEEP", &["ACTIVE"]), "unknown_status");
    assert_eq!(status("OPEN", &["ASLEEP"]), "unknown_status");
    assert_eq!(status("OPEN", &[]), "no_selections");
}

#[test]
fn sides_come_from_title() {
    assert_eq!(sides("Flamengo v Palmeiras"), ("Flamengo", "Palmeiras"));
    assert_eq!(sides("Jets vs Bills"), ("Jets", "Bills"));
    assert_eq!(sides("Ham 14th Jun"), ("Ham 14th Jun", ""));
    assert_eq!(sides(" v Bills"), (" v Bills", ""));
    let titled = |fields: &str| {
        read(&format!(
            r#"{{"status":"OPEN","runners":[{{"id":1,"status":"ACTIVE"}}]{fields}}}"#
        ))
        .unwrap()
        .home_team
    };
    assert_eq!(
        titled(r#","eventName":"Ham 14th Jun","name":"1m Hcap","venue":"Hamilton""#),
        "Ham 14th Jun"
    );
    assert_eq!(titled(r#","name":"1m Hcap","venue":"Hamilton""#), "1m Hcap");
    assert_eq!(titled(r#","eventName":" ","venue":"Hamilton""#), "Hamilton");
    assert_eq!(titled(""), "1.5");
}

#[test]
fn runners_are_ordered_and_keyed_by_handicap() {
    let definition = read(
        r#"{"status":"OPEN","marketType":"ASIAN_HANDICAP","inPlay":true,"runners":[
                {"id":7,"hc":1.5,"status":"ACTIVE","sortPriority":3,"name":"Away"},
                {"id":5,"hc":-1.5,"status":"ACTIVE","sortPriority":2,"name":"Home"},
                {"id":5,"hc":0.0,"status":"REMOVED","sortPriority":1}]}"#,
    )
    .unwrap();
    let shown: Vec<_> = definition
        .runners
        .iter()
        .map(|runner| (runner.id.as_str(), runner.name.as_str()))
        .collect();
    assert_eq!(
        shown,
        [("5", "5"), ("5@-1.5", "Home -1.5"), ("7@1.5", "Away 1.5")]
    );
    assert_eq!(definition.key.to_string(), "asian_handicap");
    assert!(definition.in_play);
}

#[test]
fn sport_and_start_come_from_definition() {
    let read_both = |fields: &str| {
        let definition = read(&format!(
            r#"{{"status":"OPEN","runners":[{{"id":1,"status":"ACTIVE"}}]{fields}}}"#
        ))
        .unwrap();
        let start = definition
            .start_time
            .map(|time| time.to_string())
            .unwrap_or_default();
        (
            definition.sport.as_deref().unwrap_or_default().to_owned(),
            start,
        )
    };
    let both = r#","eventTypeId":"7","marketTime":"2026-12-01T18:35:00.000Z","openDate":"2026-12-01T13:00:00.000Z""#;
    assert_eq!(
        read_both(both),
        ("horse racing".to_owned(), "2026-12-01T18:35:00Z".to_owned())
    );
    let sports = [
        ("1", "soccer"),
        ("2", "tennis"),
        ("4", "cricket"),
        ("4339", "greyhound racing"),
        ("7522", "basketball"),
    ];
    for (id, name) in sports
        .into_iter()
        .chain([("26420387", "26420387"), (" ", "")])
    {
        assert_eq!(read_both(&format!(r#","eventTypeId":"{id}""#)).0, name);
    }
    assert_eq!(
        read_both(r#","eventTypeId":1,"openDate":"2026-12-01T13:00:00.000Z""#).0,
        "soccer"
    );
    let open_date = r#","marketTime":"soon","openDate":"2026-12-01T13:00:00.000Z""#;
    assert_eq!(read_both(open_date).1, "2026-12-01T13:00:00Z");
    for nothing in [
        "",
        r#","eventTypeId":null,"marketTime":null"#,
        r#","eventTypeId":{},"marketTime":7"#,
    ] {
        assert_eq!(
            read_both(nothing),
            (String::new(), String::new()),
            "{nothing}"
        );
    }
}

#[test]
fn rejection_names_its_reason() {
    let reason = |json| read(json).unwrap_err().reason;
    assert_eq!(reason(r#"{"runners":[]}"#), "bad_definition");
    assert_eq!(
        reason(r#"{"status":"OPEN","bettingType":"LINE","runners":[]}"#),
        UNSUPPORTED
    );
    let twice =
        r#"{"status":"OPEN","runners":[{"id":1,"status":"ACTIVE"},{"id":1,"status":"ACTIVE"}]}"#;
    assert_eq!(reason(twice), "duplicate_selection");
    assert_eq!(
        reason(r#"{"status":"OPEN","runners":[{"id":1,"hc":"x","status":"ACTIVE"}]}"#),
        "bad_handicap"
    );
}
