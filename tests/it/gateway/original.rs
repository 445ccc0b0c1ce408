//! The clients of the original's gateway at ours: every request of its `docs/api-flow-test.md`,
//! `docs/ws-test.md` and `openapi-gateway.yaml`, with its paths, bodies and structs.

use pretty_assertions::assert_eq;
use reqwest::Method;
use rstest::rstest;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::original::{TheirEvent, TheirMarket, TheirPush, TheirRow, theirs};
use crate::support::send;

/// `dto.WalletResponse`.
#[derive(Debug, Deserialize)]
struct TheirWallet {
    #[serde(rename = "userId")]
    user_id: String,
    #[serde(rename = "walletId")]
    wallet_id: String,
    balance_cents: i64,
}

/// `dto.ReservationResponse`, of which `commit` and `refund` answer only the status.
#[derive(Debug, Deserialize)]
struct TheirReservation {
    reservation_id: String,
    status: String,
}

/// `dto.PlaceBetResponse`.
#[derive(Debug, Deserialize)]
struct TheirPlacedBet {
    #[serde(rename = "betId")]
    bet_id: String,
    status: String,
    new_balance: Option<i64>,
}

/// `dto.BetStatusResponse`.
#[derive(Debug, Deserialize)]
struct TheirBetStatus {
    #[serde(rename = "betId")]
    bet_id: String,
    status: String,
}

/// A client that was written for the original's gateway.
struct TheirClient(String);

impl TheirClient {
    fn of(behind: &Behind) -> TheirClient {
        TheirClient(format!("http://{}", behind.gateway()))
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> T {
        let mut request = reqwest::Client::new()
            .request(method, format!("{}{path}", self.0))
            .header("accept", "application/json");
        if let Some(body) = body {
            request = request
                .header("Content-Type", "application/json")
                .body(body.to_string());
        }
        let answer = send(request).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        theirs(answer.text())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        self.ask(Method::GET, path, None).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: Value) -> T {
        self.ask(Method::POST, path, Some(body)).await
    }

    async fn wallet(&self) -> TheirWallet {
        self.get("/api/wallet/wallet?userId=USER_001").await
    }
}

#[rstest]
#[case(Services::Mounted)]
#[case(Services::Forwarded)]
#[actix_web::test]
async fn original_reads_work(#[case] place: Services) {
    let mut behind = Behind::start(place, &[]).await;
    behind.show("MATCH_002", 1).await;
    let client = TheirClient::of(&behind);
    // The list is read from the database, which on real engines has the event a moment later.
    let events = until("the event is listed", || async {
        let events: Vec<TheirEvent> = client.get("/api/odds/v1/events").await;
        (!events.is_empty()).then_some(events)
    })
    .await;
    assert_eq!(events[0].event_id, "MATCH_002");
    let path = "/api/odds/v1/events/MATCH_002";
    let markets: Vec<TheirMarket> = client.get(&format!("{path}/markets")).await;
    assert_eq!(markets[0].market, "1x2");
    let odds: Vec<TheirRow> = client.get(&format!("{path}/odds")).await;
    assert_eq!((odds[0].home_odd, odds[0].version), (1.5, 1));

    let mut socket = behind.client().await;
    socket
        .send(r#"{ "type": "subscribe", "eventId": "MATCH_002" }"#)
        .await;
    socket.next_of("snapshot").await;
    behind.link.send(market("MATCH_002", 2)).await;
    let push: TheirPush = theirs(&socket.next_of("update").await.to_string());
    assert_eq!(
        (push.event_id.as_str(), push.payload.version),
        ("MATCH_002", 2)
    );
    behind.stop().await;
}

#[rstest]
#[case(Services::Mounted)]
#[case(Services::Forwarded)]
#[actix_web::test]
async fn original_money_requests_work(#[case] place: Services) {
    let mut behind = Behind::start(place, &[]).await;
    behind.show("MATCH_002", 1).await;
    let client = TheirClient::of(&behind);
    let deposit = json!({"userId": "USER_001", "amount_cents": 30_000, "external_ref": "string"});
    let deposited: TheirWallet = client.post("/api/wallet/wallet/deposit", deposit).await;
    assert_eq!(deposited.balance_cents, 30_000);
    let wallet = client.wallet().await;
    assert_eq!(
        (wallet.user_id.as_str(), wallet.wallet_id),
        ("USER_001", deposited.wallet_id)
    );

    for (reference, end, status) in [("r1", "commit", "COMMITTED"), ("r2", "refund", "REFUNDED")] {
        let order = json!({"userId": "USER_001", "amount_cents": 500, "external_ref": reference});
        let reserved: TheirReservation = client.post("/api/wallet/wallet/reserve", order).await;
        assert_eq!(reserved.status, "PENDING");
        let order = json!({"userId": "USER_001", "external_ref": reference});
        let ended: TheirReservation = client
            .post(&format!("/api/wallet/wallet/{end}"), order)
            .await;
        assert_eq!(
            (ended.reservation_id, ended.status.as_str()),
            (reserved.reservation_id, status)
        );
    }

    let bet = json!({"userId": "USER_001", "eventId": "MATCH_002", "market": "1x2", "selection": "1",
                     "stake_cents": 1_000, "odd_value": 1.5});
    let placed: TheirPlacedBet = client.post("/api/bets/bets", bet).await;
    assert_eq!(
        (placed.status.as_str(), placed.new_balance),
        ("PENDING_CONFIRMATION", Some(28_500))
    );
    until("the decision", || async {
        let path = format!("/api/bets/bets/{}", placed.bet_id);
        let bet: TheirBetStatus = client.get(&path).await;
        assert_eq!(bet.bet_id, placed.bet_id);
        (bet.status == "CONFIRMED").then_some(())
    })
    .await;
    assert_eq!(client.wallet().await.balance_cents, 28_500);
    behind.stop().await;
}
