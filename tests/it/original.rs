//! Compatibility with the original's programs: we read what they wrote (`tests/data/original`,
//! captured from them), and they can read what we write. Their structs are copied here field by
//! field; like Go's decoder they ignore unknown fields.

use pretty_assertions::assert_eq;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sports_bet_platform::config::Config;
use sports_bet_platform::config::settings::Role;
use sports_bet_platform::domain::bets::bet::{Bet, BetOutcome, BetStatus};
use sports_bet_platform::domain::bets::bet_events::{BetPlaced, bet_confirmed, bet_placed};
use sports_bet_platform::domain::odds::update::OddsUpdate;
use sports_bet_platform::domain::streaming::protocol::{ClientMessage, pong_message};

use crate::support::{FakeSupplier, TestPlatform, get_text};

const FRAME: &str = include_str!("../data/original/supplier-frame.json");
const RECORD: &str = include_str!("../data/original/kafka-record.json");
const HEALTH_CHECK: &str = include_str!("../data/original/kafka-health-check.json");
const WS_UPDATE: &str = include_str!("../data/original/ws-update.json");
const WS_PONG: &str = include_str!("../data/original/ws-pong.json");
const BET_PLACED: &str = include_str!("../data/original/kafka-bet-placed.json");
const BET_CONFIRMED: &str = include_str!("../data/original/kafka-bet-confirmed.json");
const BET_PLACED_DLQ: &str = include_str!("../data/original/kafka-bet-placed-dlq.json");
const REST_EVENTS: &str = include_str!("../data/original/rest-events.json");
const REST_MARKETS: &str = include_str!("../data/original/rest-markets.json");
const REST_ODDS: &str = include_str!("../data/original/rest-odds.json");

/// `events.OddsUpdate` of the original.
#[derive(Debug, Deserialize, PartialEq)]
pub struct TheirUpdate {
    pub event_id: String,
    pub home_team: String,
    pub away_team: String,
    pub market: String,
    pub odds: TheirOdds,
    pub updated_at: String,
    pub source: String,
    pub version: i64,
}

#[derive(Debug, Deserialize, PartialEq)]
pub struct TheirOdds {
    pub home: f64,
    pub draw: f64,
    pub away: f64,
}

/// `ws.OddsUpdate`, and the processor's `pubsub.WSUpdate`.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TheirPush {
    pub event_id: String,
    pub payload: TheirUpdate,
}

/// `dto.Event`.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TheirEvent {
    pub event_id: String,
    pub home_team: String,
    pub away_team: String,
}

/// `dto.Market`.
#[derive(Debug, Deserialize, PartialEq)]
pub struct TheirMarket {
    pub market: String,
}

/// `dto.Odds`.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TheirRow {
    pub event_id: String,
    pub market: String,
    pub home_odd: f64,
    pub draw_odd: f64,
    pub away_odd: f64,
    pub version: i64,
    pub updated_at: String,
}

/// `events.BetPlaced`, written by its bet-service.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct TheirPlaced {
    bet_id: String,
    user_id: String,
    event_id: String,
    market: String,
    selection: String,
    stake_cents: i64,
    odd_value: f64,
    reserved_ref: String,
    ts_unix_ms: i64,
}

/// `betPlaced` of its confirmation worker, which reads other field names.
#[derive(Debug, Deserialize, PartialEq)]
struct TheirWorkersPlaced {
    #[serde(rename = "betId")]
    bet_id: String,
    #[serde(rename = "userId")]
    user_id: String,
    #[serde(default)]
    stake_cents: i64,
    #[serde(default)]
    odd_value: f64,
}

/// `events.BetConfirmed`.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct TheirConfirmed {
    bet_id: String,
    user_id: String,
    status: String,
    reason: Option<String>,
    provider_ref: Option<String>,
    ts: String,
}

pub fn theirs<T: DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json)
        .unwrap_or_else(|error| panic!("the original cannot read this ({error}): {json}"))
}

/// The update as we pass it on: prices rounded to a thousandth, times to a microsecond.
fn as_passed_on(mut update: TheirUpdate) -> TheirUpdate {
    let rounded = |price: f64| (price * 1_000.0).round() / 1_000.0;
    let TheirOdds { home, draw, away } = update.odds;
    update.odds = TheirOdds {
        home: rounded(home),
        draw: rounded(draw),
        away: rounded(away),
    };
    let (second, fraction) = update
        .updated_at
        .trim_end_matches('Z')
        .split_once('.')
        .unwrap();
    update.updated_at = format!("{second}.{}Z", &fraction[..6]);
    update
}

/// The original's frame and record are read, and passed on in the form it reads.
#[test]
fn original_updates_are_read_and_passed_on() {
    assert_eq!(FRAME, RECORD, "its ingest forwards its simulator's frame");
    let update = OddsUpdate::from_json(RECORD.as_bytes()).unwrap();
    insta::assert_snapshot!(update.to_json(), @r#"{"event_id":"MATCH_002","home_team":"Grêmio","away_team":"Internacional","market":"1x2","odds":{"home":2.345,"draw":4.282,"away":2.751},"selections":[{"id":"home","name":"Grêmio","price":2.345,"status":"active"},{"id":"draw","name":"Draw","price":4.282,"status":"active"},{"id":"away","name":"Internacional","price":2.751,"status":"active"}],"status":"open","updated_at":"2026-11-23T00:03:39.563529Z","source":"supplier-simulator","version":3}"#);
    assert_eq!(
        theirs::<TheirUpdate>(&update.to_json()),
        as_passed_on(theirs(RECORD))
    );
}

/// We read the original's bet records, and it reads ours.
#[test]
fn bet_records_are_readable_both_ways() {
    let read = BetPlaced::from_json(BET_PLACED.as_bytes()).unwrap();
    let placed: TheirPlaced = theirs(BET_PLACED);
    assert_eq!(
        (read.bet_id.to_string(), read.stake.cents()),
        (placed.bet_id.clone(), placed.stake_cents)
    );
    assert_eq!(
        (read.price.to_string(), read.reserved_ref.clone()),
        ("1.63".to_owned(), Some(placed.reserved_ref.clone()))
    );

    let placed_at = read.placed_at.unwrap();
    let bet = Bet {
        id: read.bet_id,
        user_id: read.user_id,
        event_id: read.event_id,
        market: read.market,
        selection: read.selection,
        stake: read.stake,
        price: read.price,
        status: BetStatus::Pending,
        reason: None,
        provider_ref: None,
        placed_at,
        decide_by: placed_at,
        decided_at: None,
        settlement: None,
    };
    // Identical for a reader that uses its bet-service's field names.
    let ours = bet_placed(&bet);
    assert_eq!(theirs::<TheirPlaced>(&ours), placed);
    // Our record also has the fields that its worker does not find in a record of its own
    // bet-service.
    let of_worker = |json| theirs::<TheirWorkersPlaced>(json);
    assert_eq!(
        (
            of_worker(BET_PLACED).stake_cents,
            of_worker(BET_PLACED).odd_value
        ),
        (0, 0.0)
    );
    assert_eq!(
        (of_worker(&ours).stake_cents, of_worker(&ours).odd_value),
        (1_000, 1.63)
    );
    // So the record that its worker gives up on is not a valid bet.
    assert_eq!(
        BetPlaced::from_json(BET_PLACED_DLQ.as_bytes())
            .unwrap_err()
            .reason(),
        "invalid_field"
    );

    let confirmed: TheirConfirmed = theirs(BET_CONFIRMED);
    let verdict = BetOutcome::Confirmed {
        provider_ref: confirmed.provider_ref.clone().unwrap(),
    };
    let ours = theirs::<TheirConfirmed>(&bet_confirmed(
        &bet,
        &verdict,
        confirmed.ts.parse().unwrap(),
    ));
    // Ours has microseconds.
    assert_eq!(ours.ts, "2026-11-25T22:47:17.860017Z");
    assert_eq!(
        TheirConfirmed {
            ts: confirmed.ts.clone(),
            ..ours
        },
        confirmed
    );
}

#[test]
fn original_health_check_is_not_an_update() {
    assert_eq!(
        OddsUpdate::from_json(HEALTH_CHECK.as_bytes())
            .unwrap_err()
            .reason(),
        "malformed"
    );
}

/// We understand the messages that the original's documentation tells clients to send.
#[test]
fn documented_client_messages_are_understood() {
    let subscribe =
        ClientMessage::parse(r#"{ "type": "subscribe", "eventId": "MATCH_002" }"#).unwrap();
    assert!(matches!(subscribe, ClientMessage::Subscribe(event) if event.as_str() == "MATCH_002"));
    // Go's own clients write every field of the struct, even if it is empty.
    assert_eq!(
        ClientMessage::parse(r#"{"type":"ping","eventId":""}"#).unwrap(),
        ClientMessage::Ping
    );
    assert_eq!(pong_message().trim(), WS_PONG.trim());
}

/// Clients of the original receive from us what its own odds service sends.
#[actix_web::test]
async fn original_clients_read_our_responses() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let mut link = supplier.accept().await;
    let mut client = platform.subscriber("MATCH_002").await;
    link.send(FRAME).await;
    let push = client.next_of("update").await.to_string();
    let TheirPush { event_id, payload } = theirs(WS_UPDATE);
    assert_eq!(
        theirs::<TheirPush>(&push),
        TheirPush {
            event_id,
            payload: as_passed_on(payload)
        }
    );

    platform
        .until_metric(Role::Processor, "odds_proc_db_writes_total", |written| {
            written >= 1.0
        })
        .await;
    let body = async |path: &str| {
        let (status, body) = get_text(&platform.url(path)).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    };
    let events: Vec<TheirEvent> = theirs(&body("/v1/events").await);
    assert!(
        theirs::<Vec<TheirEvent>>(REST_EVENTS).contains(&events[0]),
        "{events:?}"
    );
    let markets: Vec<TheirMarket> = theirs(&body("/v1/events/MATCH_002/markets").await);
    assert_eq!(markets, theirs::<Vec<TheirMarket>>(REST_MARKETS));
    let mut odds: Vec<TheirRow> = theirs(&body("/v1/events/MATCH_002/odds").await);
    // The original truncates the time to the second.
    assert_eq!(odds[0].updated_at, "2026-11-23T00:03:39.563529Z");
    odds[0].updated_at = "2026-11-23T00:03:39Z".to_owned();
    assert_eq!(odds, theirs::<Vec<TheirRow>>(REST_ODDS));
    platform.stop().await;
}

/// Names used by the original's dashboards, alerts and scripts.
#[actix_web::test]
async fn original_metric_names_exist() {
    let platform = TestPlatform::start(&[]).await;
    let text = async |role| {
        get_text(&format!("http://{}/metrics", platform.health(role)))
            .await
            .1
    };
    let processor = text(Role::Processor).await;
    let simulator = text(Role::Simulator).await;
    for (page, name, kind) in [
        (&processor, "odds_proc_messages_consumed_total", "counter"),
        (&processor, "odds_proc_cache_sets_total", "counter"),
        (&processor, "odds_proc_db_writes_total", "counter"),
        (&processor, "odds_proc_errors_total", "counter"),
        (&simulator, "supplier_ws_connections", "gauge"),
        (&simulator, "supplier_ws_messages_sent_total", "counter"),
    ] {
        assert!(page.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
    }
    assert!(
        processor.contains("odds_proc_errors_total{stage=\"decode\"}"),
        "the original's label and its stage"
    );
    platform.stop().await;
}

/// Clients know these ports from the original's documents.
#[test]
fn default_ports_are_the_originals() {
    let ports = Config::from_variables(&[]).unwrap().settings.ports;
    assert_eq!(
        [
            ports.http_port_gateway,
            ports.http_port_odds,
            ports.http_port_supplier,
            ports.http_port_wallet,
            ports.http_port_bet
        ],
        [8000, 8080, 8081, 8082, 8083]
    );
}

#[test]
fn captured_files_are_unchanged() {
    for json in [
        FRAME,
        RECORD,
        HEALTH_CHECK,
        WS_UPDATE,
        WS_PONG,
        REST_EVENTS,
        REST_MARKETS,
        REST_ODDS,
        BET_PLACED,
        BET_CONFIRMED,
        BET_PLACED_DLQ,
    ] {
        serde_json::from_str::<Value>(json).unwrap();
    }
}
