//! `sports-bet hold` on the SQLite file of a running server.

use super::*;

/// The response to a bet on event `MATCH_001` at any price.
async fn bet(client: &reqwest::Client, server: &ServerProcess) -> String {
    let body = json!({
        "userId": "u", "eventId": "MATCH_001", "market": "1x2", "selection": "home", "stake_cents": 100,
        "odd_value": 1.5, "oddsChange": "any",
    });
    let request = client
        .post(format!("http://{}/bets", server.bets()))
        .header("Content-Type", "application/json")
        .body(body.to_string());
    let response = send(request).await;
    match response.json()["code"].as_str() {
        Some(code) => format!("{} {code}", response.status),
        None => response.status.to_string(),
    }
}

#[tokio::test]
async fn hold_works_while_the_server_runs() {
    let folder = TempDir::new().unwrap();
    sports_bet_platform::runtime::tls::install_provider();
    let client = reqwest::Client::new();
    let mut server = ServerProcess::start(folder.path(), &[("SIMULATOR_RATE", "10")]).await;
    let deposit = client
        .post(format!("http://{}/wallet/deposit", server.wallet()))
        .header("Content-Type", "application/json")
        .body(r#"{"userId":"u","amount_cents":1000000,"external_ref":"d"}"#);
    assert_eq!(send(deposit).await.status, 200);
    until("bets are accepted", || async {
        (bet(&client, &server).await == "200").then_some(())
    })
    .await;
    let hold = async |arguments: &[&str]| {
        let arguments = [&["hold"][..], arguments].concat();
        let output = run(folder.path(), &arguments, &[]).await;
        let errors = String::from_utf8(output.stderr).unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), printed + &errors)
    };
    let (code, printed) = hold(&["set", "--all", "--reason", "incident 7"]).await;
    assert_eq!(code, 0, "{printed}");
    assert!(printed.starts_with("hold 1 set: everything\n"), "{printed}");
    assert_eq!(bet(&client, &server).await, "409 MARKET_SUSPENDED");
    // A process that starts knows the hold at once.
    server.kill().await;
    server.ended().await;
    let mut server = ServerProcess::start(folder.path(), &[("SIMULATOR_RATE", "10")]).await;
    until("the event is known", || async {
        let answer = bet(&client, &server).await;
        assert_ne!(answer, "200");
        (answer == "409 MARKET_SUSPENDED").then_some(())
    })
    .await;
    let (_, listed) = hold(&["list"]).await;
    assert!(
        listed.starts_with("1  in force  everything  set ") && listed.ends_with(": incident 7\n"),
        "{listed}"
    );
    assert_eq!(hold(&["release", "1", "--reason", "resolved"]).await.0, 0);
    until("bets are accepted again", || async {
        (bet(&client, &server).await == "200").then_some(())
    })
    .await;
    let (code, printed) = hold(&["release", "1", "--reason", "again"]).await;
    assert_eq!(code, 1);
    assert!(
        printed.starts_with("sports-bet: hold 1 was already released at "),
        "{printed}"
    );
    let (code, printed) = hold(&["set", "--all"]).await;
    assert_eq!(code, 2, "{printed}");
    let away = [("DATABASE_URL", "elsewhere.db")];
    let (code, printed) = fails(folder.path(), &["hold", "list"], &away).await;
    assert_eq!(code, 3);
    assert!(
        printed.starts_with("sports-bet: DATABASE_URL: ") && printed.contains("there is no file"),
        "{printed}"
    );
    server.signal("TERM").await;
    assert!(server.ended().await.success());
}
