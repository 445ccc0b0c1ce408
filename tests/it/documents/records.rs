//! What the program writes to Kafka and Redis is what `asyncapi.yaml` says.

use bytes::Bytes;
use serde_json::{Value, json};
use sports_bet_platform::bus::dead_letter::{of_record, of_supplier};
use sports_bet_platform::bus::{NewRecord, Record};
use sports_bet_platform::domain::bets::bet::{Bet, BetId, BetOutcome, BetStatus};
use sports_bet_platform::domain::bets::bet_events::{
    SettledBet, bet_confirmed, bet_placed, bet_settled,
};
use sports_bet_platform::domain::dead_letter::DeadLetter;
use sports_bet_platform::domain::ids::MarketKey;
use sports_bet_platform::domain::odds::update::OddsUpdate;
use sports_bet_platform::domain::settlement::payout::SettledAs;
use sports_bet_platform::domain::settlement::record::ResultRecord;
use sports_bet_platform::domain::timestamp::Timestamp;
use strum::VariantNames;

use crate::support::documents::{MESSAGES, check_record};
use crate::support::{TestPlatform, get_json, records, send, until, within};

fn record(payload: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        key: Bytes::from_static(b"key"),
        payload: payload.into(),
        headers: Vec::new(),
    }
}

#[test]
fn updates_are_documented() {
    let full = json!({
        "event_id": "E", "home_team": "a", "away_team": "b", "sport": "Soccer", "market": "1x2",
        "start_time": "2026-11-29T19:00:00Z", "line": -1.5, "in_play": true, "status": "suspended",
        "selections": [
            {"id": "home", "name": "a", "price": 1.5, "status": "active"},
            {"id": "draw", "name": "x", "price": 3, "status": "removed"},
            {"id": "away", "name": "b", "price": 1000, "status": "winner"},
            {"id": "other", "name": "c", "price": null, "status": "void"},
        ],
        "updated_at": "2025-11-09T21:07:45.5Z", "source": "s", "version": -1,
    });
    let original = include_str!("../../data/original/kafka-record.json");
    for text in [full.to_string(), original.to_owned()] {
        check_record("test", &record(text.clone()));
        let update = OddsUpdate::from_json(text.as_bytes()).unwrap();
        check_record("test", &record(update.to_json()));
        check_record("test_suppliers", &record(update.to_json()));
    }
}

#[test]
fn results_are_documented() {
    let base = json!({
        "event_id": "E", "market": "1x2", "line": -1.5,
        "updated_at": "2025-11-09T21:07:45.5Z", "source": "s", "version": -1,
    });
    let window = json!({"from": "2025-11-09T20:00:00Z", "until": "2025-11-09T21:00:00Z"});
    let selections = json!([
        {"id": "a", "result": "won", "void_factor": 0.5},
        {"id": "b", "result": "won", "dead_heat": 0.333},
        {"id": "c", "result": "lost", "void_factor": 1},
        {"id": "d", "result": "void", "reduction": 7.123, "removed_at": "2025-11-09T21:07:45Z"},
        {"id": "e", "result": "undecided"},
    ]);
    let settlement = json!({
        "selections": selections, "bets_from": "2025-11-09T20:00:00Z", "bets_until": "2025-11-09T21:07:45Z",
    });
    for (kind, fields) in [
        ("settlement", settlement),
        ("rollback_settlement", json!({"selections": ["a"]})),
        ("rollback_settlement", json!({})),
        (
            "rollback_settlement",
            json!({"bets_from": "2025-11-09T20:00:00Z"}),
        ),
        ("cancel", window.clone()),
        ("rollback_cancel", window),
    ] {
        let mut json = base.clone();
        json["type"] = json!(kind);
        json.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let result = ResultRecord::from_json(json.to_string().as_bytes()).unwrap();
        check_record("test_results", &record(result.to_json()));
    }
}

#[test]
fn bets_are_documented() {
    let at = Timestamp::now();
    let bet = |line: Option<&str>| Bet {
        id: BetId::new(),
        user_id: "USER_001".parse().unwrap(),
        event_id: "E".parse().unwrap(),
        market: MarketKey {
            name: "total_goals".parse().unwrap(),
            line: line.map(|line| line.parse().unwrap()),
        },
        selection: "over".parse().unwrap(),
        stake: serde_json::from_str("1").unwrap(),
        price: "1.9".parse().unwrap(),
        status: BetStatus::Pending,
        reason: None,
        provider_ref: None,
        placed_at: at,
        decide_by: at,
        decided_at: None,
        settlement: None,
    };
    for bet in [bet(None), bet(Some("2.5"))] {
        check_record("test_placed", &record(bet_placed(&bet)));
        let (reason, provider_ref) = ("no".to_owned(), "r".to_owned());
        for outcome in [
            BetOutcome::Confirmed {
                provider_ref: provider_ref.clone(),
            },
            BetOutcome::Rejected {
                reason,
                provider_ref,
            },
            BetOutcome::TimedOut,
        ] {
            check_record("test_confirmed", &record(bet_confirmed(&bet, &outcome, at)));
        }
    }
    let original = include_str!("../../data/original/kafka-bet-confirmed.json");
    check_record("test_confirmed", &record(original));
}

#[test]
fn settlements_are_documented() {
    let user = "USER_001".parse().unwrap();
    let mut settled = SettledBet {
        bet_id: BetId::new(),
        user_id: &user,
        outcome: None,
        payout_cents: 0,
        difference_cents: -2_345,
        n: 2,
    };
    check_record(
        "test_settled",
        &record(bet_settled(&settled, Timestamp::now())),
    );
    for outcome in SettledAs::VARIANTS {
        settled.outcome = Some(outcome.parse().unwrap());
        settled.payout_cents = i64::MAX;
        let text = bet_settled(&settled, Timestamp::now());
        assert!(text.contains(outcome), "{text}");
        check_record("test_settled", &record(text));
    }
}

#[test]
fn dead_letters_are_documented() {
    let letter = DeadLetter {
        received_at: Timestamp::now(),
        origin: "ws://127.0.0.1:8081/ws".to_owned(),
        reason: "malformed".to_owned(),
        detail: "not JSON".to_owned(),
        raw: Bytes::from_static(b"\xff{"),
    };
    let source = Record {
        partition: 3,
        offset: 812,
        published_at: None,
        record: record("x"),
    };
    check_record("test_dlq", &of_supplier(&letter));
    check_record("test_results_dlq", &of_supplier(&letter));
    check_record(
        "test_placed_dlq",
        &of_record(&letter, "test_placed", &source),
    );
    check_record(
        "test_results_dlq",
        &of_record(&letter, "test_results", &source),
    );
    check_record(
        "test_settled_dlq",
        &of_record(&letter, "test_settled", &source),
    );
}

/// The original's broadcasts, which we read.
#[test]
fn original_broadcast_is_documented() {
    let broadcast = include_str!("../../data/original/redis-broadcast.json");
    check_message("broadcast", &serde_json::from_str(broadcast).unwrap());
}

fn check_message(name: &str, payload: &Value) {
    let message = &MESSAGES.root["components"]["messages"][name];
    let problems = MESSAGES.problems(&message["payload"], payload);
    assert!(problems.is_empty(), "{name} {payload}: {problems:?}");
}

async fn post(url: String, body: Value) -> Value {
    let request = reqwest::Client::new().post(url).json(&body);
    let answer = send(request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// A bet from its price to its decision.
async fn decided_bet(platform: &TestPlatform) {
    let (wallet, bets) = (platform.wallet(), platform.bets());
    let deposit = json!({"userId": "u", "amount_cents": 1_000, "external_ref": "d"});
    post(format!("http://{wallet}/wallet/deposit"), deposit).await;
    let placed = until("a placed bet", || async {
        let (_, odds) = get_json(&platform.url("/v1/events/MATCH_001/odds")).await;
        let order = json!({
            "userId": "u", "eventId": "MATCH_001", "market": "1x2", "selection": "home",
            "stake_cents": 100, "odd_value": odds[0]["homeOdd"], "oddsChange": "any",
        });
        let request = reqwest::Client::new().post(format!("http://{bets}/bets"));
        let answer = send(request.json(&order)).await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    let url = format!("http://{bets}/bets/{}", placed["betId"].as_str().unwrap());
    until("a decision", || async {
        let (_, bet) = get_json(&url).await;
        (bet["status"] != "PENDING_CONFIRMATION").then_some(())
    })
    .await;
}

/// Every topic that a bet and its price pass, and the channels of Redis.
#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn real_records_and_broadcasts_are_documented() {
    use futures_util::StreamExt;
    let platform = TestPlatform::start(&[("SIMULATOR_RATE", "50")]).await;
    let value = |variable: &str| {
        platform
            .folder
            .sandbox()
            .value(variable)
            .unwrap()
            .to_owned()
    };
    let redis = redis::Client::open(value("REDIS_URL")).unwrap();
    let mut channels = redis.get_async_pubsub().await.unwrap();
    let pattern = format!("{}:*", value("REDIS_PUBSUB_CHANNEL"));
    channels.psubscribe(&pattern).await.unwrap();
    let mut messages = channels.into_on_message();
    let mut heard = [0, 0];
    within("broadcasts and heartbeats", async {
        while heard.iter().any(|heard| *heard < 3) {
            let message = messages.next().await.unwrap();
            let is_alive = message.get_channel_name().ends_with(":alive");
            let name = ["broadcast", "processorHeartbeat"][usize::from(is_alive)];
            check_message(
                name,
                &serde_json::from_slice(message.get_payload_bytes()).unwrap(),
            );
            heard[usize::from(is_alive)] += 1;
        }
    })
    .await;
    decided_bet(&platform).await;
    let brokers = value("KAFKA_BROKERS");
    for topic in [
        "KAFKA_TOPIC_ODDS",
        "KAFKA_TOPIC_SOURCE_STATUS",
        "KAFKA_TOPIC_BET_PLACED",
        "KAFKA_TOPIC_BET_CONFIRMED",
    ] {
        let topic = value(topic);
        // The records are checked when they are read.
        until(&topic, || async {
            (!records(&brokers, &topic).is_empty()).then_some(())
        })
        .await;
    }
    platform.stop().await;
}
