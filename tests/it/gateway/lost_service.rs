//! A service in another process that is killed and comes back.

use pretty_assertions::assert_eq;
use serde_json::Value;
use sports_bet_platform::config::settings::Role;
use tempfile::TempDir;

use super::gateway_before;
use crate::support::{OddsClient, ReservedPort, ServerProcess, get_text, until};

#[actix_web::test]
async fn killed_service_is_502_until_it_is_back() {
    let folder = TempDir::new().unwrap();
    let port = ReservedPort::take();
    let own = port.address.port().to_string();
    let variables = [("HTTP_PORT_ODDS", own.as_str())];
    let mut service = ServerProcess::start(folder.path(), &variables).await;
    let gateway = gateway_before(port.address, &[]).await;
    let socket = format!("ws://{}/api/odds/ws/odds", gateway.gateway());
    let events = format!("http://{}/api/odds/v1/events", gateway.gateway());
    let get = async || {
        let answer = reqwest::get(&events).await.unwrap();
        (
            answer.status().as_u16(),
            answer.json::<Value>().await.unwrap(),
        )
    };
    assert_eq!(get().await.0, 200);
    let mut client = OddsClient::connect_to(&socket).await;

    service.kill().await;
    assert_eq!(client.close_code().await, 1_001);
    gateway
        .until_metric(
            Role::Gateway,
            r#"gateway_sockets_ended_total{reason="service"}"#,
            |count| count == 1.0,
        )
        .await;
    let (status, body) = get().await;
    assert_eq!(
        (status, &body["code"]),
        (502, &Value::from("UPSTREAM_UNAVAILABLE"))
    );
    let healthz = format!("http://{}/healthz", gateway.health(Role::Gateway));
    until("the gateway is not ready", || async {
        (reqwest::get(&healthz).await.unwrap().status() == 503).then_some(())
    })
    .await;

    let service = ServerProcess::start(folder.path(), &variables).await;
    until("the gateway forwards again", || async {
        (get().await.0 == 200).then_some(())
    })
    .await;
    let mut client = OddsClient::connect_to(&socket).await;
    client.subscribe("MATCH_001").await;
    let snapshot = client.next_of("snapshot").await;
    assert_eq!(snapshot["eventId"], "MATCH_001");
    drop(service);
    gateway.stop().await;
}

/// The gateway as a process of its own, in front of another process.
#[tokio::test]
async fn gateway_process_forwards_to_other_process() {
    let folder = TempDir::new().unwrap();
    let services = ServerProcess::start(
        folder.path(),
        &[(
            "ROLE",
            "simulator,ingest,processor,odds,wallet,bets,confirmation",
        )],
    )
    .await;
    let own = TempDir::new().unwrap();
    let url = |address: std::net::SocketAddr| format!("http://{address}");
    let gateway = ServerProcess::start(
        own.path(),
        &[
            ("ROLE", "gateway"),
            ("GATEWAY_ODDS_URL", &url(services.odds())),
            ("GATEWAY_WALLET_URL", &url(services.wallet())),
            ("GATEWAY_BETS_URL", &url(services.bets())),
        ],
    )
    .await;
    let mut client =
        OddsClient::connect_to(&format!("ws://{}/api/odds/ws/odds", gateway.gateway())).await;
    client.subscribe("MATCH_001").await;
    client.next_of("update").await;
    let bets = format!("http://{}/api/bets/bets?userId=U", gateway.gateway());
    assert_eq!(get_text(&bets).await.0, 200);
    assert_eq!(
        std::fs::read_dir(own.path()).unwrap().count(),
        0,
        "it needs no engine"
    );
    gateway.signal("TERM").await;
    assert_eq!(client.close_code().await, 1_001);
}
