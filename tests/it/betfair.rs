//! Recordings of the Betfair Exchange Stream, replayed over real sockets beside the simulator, and
//! compared with an independent fold that shares no code with the platform.

#[path = "../support/betfair_fold.rs"]
mod betfair_fold;
mod doubt;

use std::path::PathBuf;

use pretty_assertions::assert_eq;
use serde_json::Value;
use sports_bet_platform::cli::replay::{self, ReplayConfig, Speed};
use sports_bet_platform::config::settings::Role;

use self::betfair_fold::{History, Seen, fold, fold_all, seen_in};
use crate::support::{OddsClient, ReservedPort, TestPlatform, are_real, get_json, metric, until};

const GREYHOUNDS: &str = "1.197931750";
const HORSES: &str = "1.132153978";

fn recording(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/betfair")
        .join(name)
}

fn recordings() -> Vec<PathBuf> {
    vec![
        recording("1.197931750.jsonl"),
        recording("BASIC-1.132153978.jsonl"),
    ]
}

fn expected() -> History {
    let texts: Vec<String> = recordings()
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    fold_all(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A REST entry in the form that `seen_in` expects. The history does not contain team names.
fn rest_seen(entry: &Value) -> Seen {
    let mut update = entry.clone();
    update["in_play"] = entry["inPlay"].clone();
    seen_in(&update)
}

fn without_teams(mut seen: Seen) -> Seen {
    seen.teams = Default::default();
    seen
}

/// The history of an event's market from REST, or `None` until the store knows the event: it
/// consumes the bus independently.
async fn rest_history(platform: &TestPlatform, event: &str) -> Option<Vec<Seen>> {
    let mut states = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/events/{event}/markets/win/history?limit=7&cursor={cursor}");
        let (status, page) = get_json(&platform.url(&path)).await;
        if status == 404 {
            return None;
        }
        assert_eq!(status, 200, "{page}");
        states.extend(page["entries"].as_array().unwrap().iter().map(rest_seen));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return Some(states),
        }
    }
}

/// Waits until the history has as many entries as these states, and compares them.
async fn until_history_is(platform: &TestPlatform, event: &str, states: &[Seen]) {
    let wanted: Vec<Seen> = states.iter().cloned().map(without_teams).collect();
    let history = until("the history is complete", || async {
        rest_history(platform, event)
            .await
            .filter(|history| history.len() >= wanted.len())
    })
    .await;
    assert_eq!(history, wanted, "the history of {event}");
}

/// Reads a client until its market is settled, and checks every state it received. On real engines
/// states may be missing where an update says so (`conflated`): the store may have read the bus
/// further than the books, which then continue from the stored state.
async fn watch_to_the_end(client: &mut OddsClient, expected: &[Seen]) {
    let mut coming = expected.iter();
    let mut last_seq = 0;
    loop {
        let update = client.next_of("update").await;
        let seq = update["seq"].as_u64().unwrap();
        assert!(seq > last_seq, "seq must increase: {last_seq}, then {seq}");
        last_seq = seq;
        let state = seen_in(&update["payload"]);
        if update.get("conflated").is_some() {
            assert!(are_real(), "{update}");
            assert!(
                coming.any(|next| *next == state),
                "an unknown or repeated state: {update}"
            );
        } else {
            assert_eq!(Some(&state), coming.next(), "every state, in order");
        }
        if update["payload"]["status"] == "settled" {
            assert_eq!(coming.next(), None, "the market is settled at its end");
            return;
        }
    }
}

/// Two recordings replayed beside the simulator end in the states computed by the independent fold.
#[actix_web::test]
async fn recordings_match_independent_fold() {
    let simulator = TestPlatform::start(&[("ROLE", "simulator"), ("SIMULATOR_RATE", "200")]).await;
    // Nobody listens on this port yet, so that clients can subscribe before the first message.
    let port = ReservedPort::take();
    let suppliers = [
        format!("ws://{}/ws", simulator.simulator()),
        format!("betfair://{}", port.address),
    ];
    let platform = TestPlatform::fed_by(&suppliers, &[]).await;
    let mut greyhounds = platform.subscriber(GREYHOUNDS).await;
    let mut horses = platform.subscriber(HORSES).await;
    let mut football = platform.subscriber("MATCH_001").await;

    let files = recordings();
    let replay = replay::start(ReplayConfig {
        listen: port.address,
        ..ReplayConfig::at_once(files)
    })
    .await
    .unwrap();
    let expected = expected();
    watch_to_the_end(&mut greyhounds, &expected[GREYHOUNDS]).await;
    watch_to_the_end(&mut horses, &expected[HORSES]).await;
    assert_eq!(
        football.next_of("update").await["eventId"],
        "MATCH_001",
        "the simulator continues"
    );

    for event in [GREYHOUNDS, HORSES] {
        let states = &expected[event];
        let (_, odds) = get_json(&platform.url(&format!("/v1/events/{event}/odds"))).await;
        assert_eq!(odds.as_array().unwrap().len(), 1);
        assert_eq!(
            rest_seen(&odds[0]),
            without_teams(states.last().unwrap().clone()),
            "the book"
        );
        until_history_is(&platform, event, states).await;
    }
    let (_, events) = get_json(&platform.url("/v1/events?status=all")).await;
    let ids: Vec<_> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["eventId"].as_str().unwrap())
        .collect();
    assert!(
        ids.contains(&GREYHOUNDS) && ids.contains(&HORSES) && ids.contains(&"MATCH_012"),
        "{ids:?}"
    );
    let ingest = platform.metrics(Role::Ingest).await;
    assert_eq!(
        metric(&ingest, "odds_ingest_suppliers_connected"),
        Some(2.0)
    );
    replay.stop().await;
    platform.stop().await;
    simulator.stop().await;
}

/// A recording whose connection is lost repeatedly is resumed where it was.
#[actix_web::test]
async fn interrupted_recording_resumes_where_it_broke_off() {
    let files = vec![recording("1.197931750.jsonl")];
    // Less than two seconds; real engines start more slowly, and the recording must not end before
    // they are ready.
    let speed: Speed = if are_real() { "20" } else { "200" }.parse().unwrap();
    let replay = replay::start(ReplayConfig {
        speed,
        ..ReplayConfig::at_once(files.clone())
    })
    .await
    .unwrap();
    let platform = TestPlatform::fed_by(&[format!("betfair://{}", replay.addr)], &[]).await;
    let connects = "odds_ingest_connects_total";
    for round in 1..=4 {
        let wanted = f64::from(round);
        platform
            .until_metric(Role::Ingest, connects, |connects| connects >= wanted)
            .await;
        let frames = metric(
            &platform.metrics(Role::Ingest).await,
            "odds_ingest_frames_total",
        )
        .unwrap();
        platform
            .until_metric(Role::Ingest, "odds_ingest_frames_total", |now| {
                now > frames + 5.0
            })
            .await;
        replay.hang_up();
    }
    let odds = platform.url(&format!("/v1/events/{GREYHOUNDS}/odds"));
    until("the market is settled", || async {
        (get_json(&odds).await.1[0]["status"] == "settled").then_some(())
    })
    .await;
    let expected = fold(&std::fs::read_to_string(&files[0]).unwrap());
    until_history_is(&platform, GREYHOUNDS, &expected[GREYHOUNDS]).await;
    platform.stop().await;
    replay.stop().await;
}

#[actix_web::test]
async fn replaying_a_recording_changes_nothing() {
    let files = recordings();
    let expected = expected();
    let first = replay::start(ReplayConfig::at_once(files.clone()))
        .await
        .unwrap();
    let platform = TestPlatform::fed_by(&[format!("betfair://{}", first.addr)], &[]).await;
    let odds = platform.url(&format!("/v1/events/{HORSES}/odds"));
    let before = until("the market is settled", || async {
        let (_, odds) = get_json(&odds).await;
        (odds[0]["status"] == "settled").then_some(odds)
    })
    .await;
    for event in [GREYHOUNDS, HORSES] {
        until_history_is(&platform, event, &expected[event]).await;
    }
    let folder = platform.stop().await;
    first.stop().await;

    let second = replay::start(ReplayConfig::at_once(files)).await.unwrap();
    let suppliers = format!("betfair://{}", second.addr);
    let platform = TestPlatform::start_in(folder, &TestPlatform::fed(&suppliers, &[])).await;
    platform
        .until_metric(Role::Ingest, "odds_ingest_frames_total", |frames| {
            frames >= 640.0
        })
        .await;
    // As many as in the first run: the histories hold them all.
    let updates = expected.values().map(Vec::len).sum::<usize>() as f64;
    let published = "odds_ingest_updates_published_total";
    platform
        .until_metric(Role::Ingest, published, |published| published >= updates)
        .await;
    let rejected = "odds_proc_updates_rejected_total{reason=\"duplicate\"}";
    platform
        .until_metric(Role::Processor, rejected, |rejected| rejected >= 1.0)
        .await;
    // Waiting for the lag is not enough: it is also 0 before the bus is first polled.
    let stored = "odds_proc_store_batch_size_sum";
    platform
        .until_metric(Role::Processor, stored, |stored| stored >= updates)
        .await;
    for lag in [platform.store_lag(), platform.live_lag()] {
        platform
            .until_metric(Role::Processor, &lag, |lag| lag == 0.0)
            .await;
    }
    let odds = platform.url(&format!("/v1/events/{HORSES}/odds"));
    assert_eq!(
        get_json(&odds).await.1,
        before,
        "the same state with the same seq"
    );
    for event in [GREYHOUNDS, HORSES] {
        until_history_is(&platform, event, &expected[event]).await;
    }
    platform.stop().await;
    second.stop().await;
}
