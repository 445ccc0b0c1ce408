//! Callers of forwarded services, which the gateway itself does not authenticate.

use pretty_assertions::assert_eq;

use super::fake_service::FakeService;
use super::*;
use crate::support::{raw_request, send, within};

const REQUIRED: [(&str, &str); 2] = [
    ("AUTH", "required"),
    ("AUTH_JWT_SECRET", "a secret of 32 bytes or more, for tests"),
];

async fn code(request: reqwest::RequestBuilder) -> (u16, String) {
    let answer = send(request).await;
    let code = answer.json()["code"].as_str().map(str::to_owned);
    (answer.status, code.unwrap_or_default())
}

/// Otherwise a gateway on a public address would open services that trust whoever reaches them.
#[actix_web::test]
async fn service_without_authentication_refuses_requests_that_need_a_caller() {
    let services = TestPlatform::start(&[("ROLE", SERVICES)]).await;
    let gateway = gateway_to(&services, &REQUIRED).await;
    let client = reqwest::Client::new();
    let deposit = json!({"userId": "U", "amount_cents": 500, "external_ref": "d"});
    let bet = json!({
        "userId": "U", "eventId": "MATCH_001", "market": "1x2", "selection": "home",
        "stake_cents": 100, "odd_value": 2,
    });
    let url = |path: &str| format!("http://{}{path}", gateway.gateway());
    let refused = (503, "AUTHENTICATION_OFF".to_owned());
    for request in [
        client
            .post(url("/api/wallet/wallet/deposit"))
            .json(&deposit),
        client
            .post(url("/api/wallet/wallet/deposit"))
            .json(&deposit)
            .header("Connection", "Sports-Bet-Auth"),
        client.get(url("/api/wallet/wallet?userId=U")),
        client.get(url("/api/bets/bets?userId=U")),
        client.post(url("/api/bets/bets")).json(&bet),
    ] {
        assert_eq!(code(request).await, refused);
    }
    // Odds are public.
    let events = client.get(url("/api/odds/v1/events"));
    assert_eq!(code(events).await.0, 200);
    let socket = format!("ws://{}/api/odds/ws/odds", gateway.gateway());
    let mut reader = OddsClient::connect_to(&socket).await;
    reader.subscribe("MATCH_001").await;
    reader.next_of("snapshot").await;
    // Its own port is as open as before.
    let own = format!("http://{}/wallet/deposit", services.wallet());
    assert_eq!(code(client.post(own).json(&deposit)).await.0, 200);
    gateway.stop().await;
    services.stop().await;
}

/// A service that does not trust the gateway charges only the gateway.
#[actix_web::test]
async fn refused_credential_is_charged_to_the_client() {
    let service = FakeService::start().await;
    let address = service.address();
    service.answer_all("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}");
    let limit = [("RATE_LIMIT_ADDRESS", "1:10")];
    let gateway = gateway_before(address, &limit).await;
    let url = format!("http://{}/api/wallet/wallet?userId=U", gateway.gateway());
    let client = reqwest::Client::new();
    let status = async |request: reqwest::RequestBuilder| {
        let answer = within("an answer", request.send()).await.unwrap();
        answer.status().as_u16()
    };
    for _ in 0..3 {
        assert_eq!(status(client.get(&url)).await, 401);
    }
    let wrong = client.get(&url).header("Authorization", "Bearer wrong");
    assert_eq!(status(wrong).await, 401);
    assert_eq!(status(client.get(&url)).await, 429);
    gateway.stop().await;
}

/// Its body would never end.
#[actix_web::test]
async fn post_with_upgrade_is_refused_at_once() {
    let service = FakeService::start().await;
    let gateway = gateway_before(service.address(), &[("HTTP_BODY_TIMEOUT", "10m")]).await;
    let request = "POST /api/odds/ws/odds HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\n\r\n";
    let answer = raw_request(gateway.gateway(), request).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    gateway.stop().await;
}
