//! A wallet request with a key, and SIGKILL before its answer.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::*;

/// The process is killed after the transfer is committed and before the client has its answer.
#[tokio::test]
async fn kill_before_answer_moves_once() {
    let folder = TempDir::new().unwrap();
    sports_bet_platform::runtime::tls::install_provider();
    let client = reqwest::Client::new();
    let body = json!({"userId": "u", "amount_cents": 100}).to_string();
    for round in 1..=4_i64 {
        let key = format!("k{round}");
        let mut server = ServerProcess::start(folder.path(), &[("SIMULATOR_RATE", "1")]).await;
        let request = format!(
            "POST /wallet/deposit HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            server.wallet(),
            body.len()
        );
        let mut stream = tokio::net::TcpStream::connect(server.wallet())
            .await
            .unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let database = &mut database(folder.path());
        let deposits = "SELECT count(*) AS number FROM ledger_transfers";
        within("the deposit is committed", async {
            while number(database, deposits) < round {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        server.kill().await;
        server.ended().await;
        drop(stream);
        let mut server = ServerProcess::start(folder.path(), &[("SIMULATOR_RATE", "1")]).await;
        for _ in 0..2 {
            let again = client.post(format!("http://{}/wallet/deposit", server.wallet()));
            let again = again
                .header("Content-Type", "application/json")
                .header("Idempotency-Key", &key);
            let again = send(again.body(body.clone())).await;
            assert_eq!(again.status, 200);
            assert_eq!(
                again.json()["balance_cents"],
                json!(100 * round),
                "round {round}"
            );
        }
        assert_eq!(number(database, deposits), round);
        server.kill().await;
        server.ended().await;
    }
}
