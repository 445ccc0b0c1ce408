//! Matches over real sockets.

use serde_json::{Value, json};

use super::*;
use crate::domain::odds::status::MarketStatus;
use crate::domain::settlement::record::{Outcome, RecordContent, ResultRecord};

/// Matches of two seconds.
fn playing() -> Running {
    run_with(SimulatorSettings {
        simulator_match_duration: Duration::from_secs(2),
        ..settings(50.0)
    })
}

/// A frame of the simulator.
enum Frame {
    Update(OddsUpdate),
    Result(ResultRecord),
    Recovered(String),
}

async fn next_frame(client: &mut Client) -> Frame {
    let message = next(client).await.expect("a message");
    let text = message.to_text().unwrap();
    let json: Value = serde_json::from_str(text).unwrap();
    match json["type"].as_str() {
        None => Frame::Update(OddsUpdate::from_json(text.as_bytes()).unwrap()),
        Some("recovered") => Frame::Recovered(json["request"].as_str().unwrap().to_owned()),
        Some(_) => Frame::Result(ResultRecord::from_json(text.as_bytes()).unwrap()),
    }
}

async fn recover(client: &mut Client, request: &str) {
    let request = json!({"type": "recover", "request": request}).to_string();
    client.send(Message::text(request)).await.unwrap();
}

fn is_decision(record: &ResultRecord) -> bool {
    match &record.content {
        RecordContent::Settlement(settlement) => {
            let mut outcomes = settlement.selections.iter().map(|one| one.outcome);
            outcomes.all(|outcome| outcome != Outcome::Undecided)
        }
        RecordContent::Cancel { .. } => true,
        _ => false,
    }
}

/// The results that a new consumer gets before `recovered`.
async fn recovered_results(client: &mut Client, request: &str) -> Vec<ResultRecord> {
    recover(client, request).await;
    let mut results = Vec::new();
    loop {
        match next_frame(client).await {
            Frame::Update(_) => {}
            Frame::Result(record) => results.push(record),
            Frame::Recovered(of) => {
                assert_eq!(of, request);
                return results;
            }
        }
    }
}

/// A round as a consumer sees it: the result of a market comes before its final state, and then the
/// market opens for the next round.
#[actix_web::test]
async fn market_is_played_settled_and_opened_again() {
    let running = playing();
    let mut client = running.connect().await;
    recover(&mut client, "r").await;
    let mut versions = VersionCheck::default();
    let mut seen = Vec::new();
    let mut has_result = false;
    while seen.last() != Some(&"opened again") {
        match next_frame(&mut client).await {
            Frame::Result(record) => {
                let is_first = record.event_id.as_str() == "MATCH_001";
                has_result |=
                    is_first && record.market.name.as_str() == "1x2" && is_decision(&record);
            }
            Frame::Recovered(_) => {}
            Frame::Update(update) => {
                versions.take(&update);
                if update.event_id.as_str() != "MATCH_001" || update.market.name.as_str() != "1x2" {
                    continue;
                }
                let step = match (seen.last().copied(), update.status, update.in_play) {
                    (None, MarketStatus::Open, false) => "open",
                    (Some("open"), MarketStatus::Open, true) => "in play",
                    (Some("in play"), MarketStatus::Closed, true) => "closed",
                    (Some("closed"), MarketStatus::Settled | MarketStatus::Cancelled, _) => {
                        assert!(has_result, "its result is not known yet");
                        "settled"
                    }
                    (Some("settled"), MarketStatus::Open, false) => "opened again",
                    (None, ..) => {
                        has_result = false;
                        continue;
                    }
                    _ => continue,
                };
                seen.push(step);
            }
        }
    }
    running.end().await;
}

/// The original reads every frame as an update: one with a type would be an update without prices.
#[actix_web::test]
async fn consumer_without_recovery_gets_updates_only() {
    let running = playing();
    let mut ours = running.connect().await;
    let mut original = running.connect().await;
    recover(&mut ours, "r").await;
    let mut results = 0;
    while results < 12 {
        results += usize::from(matches!(next_frame(&mut ours).await, Frame::Result(_)));
    }
    let mut versions = VersionCheck::default();
    let mut settled = 0;
    while settled < 6 {
        let update = next_update(&mut original).await;
        settled += usize::from(update.status.has_ended() && update.status != MarketStatus::Closed);
        versions.take(&update);
    }
    running.end().await;
}

#[actix_web::test]
async fn late_consumer_recovers_latest_results() {
    let running = playing();
    let mut early = running.connect().await;
    let opening = recovered_results(&mut early, "first").await;
    assert!(opening.len() >= 6, "each market's round is open");
    let decided = loop {
        if let Frame::Result(record) = next_frame(&mut early).await
            && is_decision(&record)
        {
            break record;
        }
    };
    let mut late = running.connect().await;
    let results = recovered_results(&mut late, "second").await;
    // The same record, unless that market has had its next result since.
    let same = results.iter().any(|record| {
        record.event_id == decided.event_id
            && record.market == decided.market
            && is_decision(record)
            && record.revision >= decided.revision
    });
    assert!(same, "{decided:?} in {results:?}");
    // A second request on the same connection is answered, too.
    assert!(recovered_results(&mut late, "third").await.len() >= 6);
    running.end().await;
}

#[actix_web::test]
async fn markets_stay_open_without_matches() {
    let running = run(2_000.0);
    let mut client = running.connect().await;
    assert_eq!(recovered_results(&mut client, "r").await, []);
    for _ in 0..2_000 {
        match next_frame(&mut client).await {
            Frame::Update(update) => assert!(!update.in_play && !update.status.has_ended()),
            Frame::Result(record) => panic!("{record:?}"),
            Frame::Recovered(_) => panic!("not requested"),
        }
    }
    running.end().await;
}

/// A consumer whose mailbox has no room for the results is closed: it would miss them.
#[actix_web::test]
async fn consumer_that_cannot_take_results_is_closed() {
    let metrics = SimulatorMetrics::new().unwrap();
    let handle = start(&settings(0.1), metrics, &Arbiter::current());
    let (release, held) = tokio::sync::oneshot::channel();
    let (taken, mut pushes) = tokio::sync::mpsc::unbounded_channel();
    let probe = Probe {
        held: Some(held),
        taken,
    }
    .start();
    let join = Join {
        id: 7,
        outlet: probe.recipient(),
        socket: None,
    };
    handle.shared.broadcaster.send(join).await.unwrap();
    for request in 0..8 {
        let request = request.to_string();
        let recover = crate::simulator::broadcaster::Recover { id: 7, request };
        handle.shared.broadcaster.send(recover).await.unwrap();
    }
    release.send(()).unwrap();
    let closed = loop {
        if let Push::Close(code) = within(pushes.recv()).await.expect("a close before the end") {
            break code;
        }
    };
    assert_eq!(u16::from(closed), 1013);
    handle.stop().await;
}
