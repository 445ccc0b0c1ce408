//! Bets at the simulator, over real sockets.

use super::*;

/// A client of the simulator's bet endpoints.
struct BetClient {
    http: reqwest::Client,
    base: String,
}

impl BetClient {
    fn of(running: &Running) -> BetClient {
        BetClient {
            http: reqwest::Client::new(),
            base: running.url("/supplier"),
        }
    }

    async fn post(&self, path: &str, bet: &str) -> (u16, String) {
        let body = serde_json::json!({ "betId": bet, "userId": "u" });
        let answer = within(
            self.http
                .post(format!("{}/{path}", self.base))
                .json(&body)
                .send(),
        )
        .await
        .unwrap();
        (
            answer.status().as_u16(),
            within(answer.text()).await.unwrap(),
        )
    }

    async fn booked(&self, bet: &str) -> (u16, String) {
        let answer = within(self.http.get(format!("{}/bets/{bet}", self.base)).send())
            .await
            .unwrap();
        (
            answer.status().as_u16(),
            within(answer.text()).await.unwrap(),
        )
    }
}

#[actix_web::test]
async fn cancelled_bet_is_rejected_in_any_order() {
    let running = run(1.0);
    let client = BetClient::of(&running);
    let taken = r#"{"status":"CONFIRMED","providerRef":"SUP-bet-3"}"#;
    let answers =
        futures_util::future::join_all((0..20).map(|_| client.post("confirm", "bet-3"))).await;
    assert!(
        answers
            .iter()
            .all(|answer| *answer == (200, taken.to_owned())),
        "{answers:?}"
    );
    assert_eq!(
        client.booked("bet-3").await,
        (
            200,
            r#"{"betId":"bet-3","status":"CONFIRMED","asked":20}"#.to_owned()
        )
    );
    for bet in ["bet-3", "bet-4"] {
        assert_eq!(
            client.booked(bet).await.0,
            if bet == "bet-3" { 200 } else { 404 }
        );
        for _ in 0..2 {
            assert_eq!(
                client.post("cancel", bet).await,
                (200, r#"{"status":"CANCELLED"}"#.to_owned())
            );
        }
        let answer =
            format!(r#"{{"status":"REJECTED","providerRef":"SUP-{bet}","reason":"cancelled"}}"#);
        assert_eq!(client.post("confirm", bet).await, (200, answer));
        assert!(client.booked(bet).await.1.contains("CANCELLED"));
    }
    assert_eq!(running.metrics.cancellations.get(), 4);
    assert_eq!(client.post("cancel", "").await.0, 400);
    let get = within(client.http.get(running.url("/supplier/cancel")).send())
        .await
        .unwrap();
    let post = within(client.http.post(running.url("/supplier/bets/bet-3")).send())
        .await
        .unwrap();
    assert_eq!((get.status().as_u16(), post.status().as_u16()), (405, 405));
    running.end().await;
}

#[actix_web::test]
async fn faults_follow_settings_and_bets_are_recorded() {
    // Each fault, and whether the bet is recorded.
    for (fault, is_booked) in [("error", false), ("garbage", true), ("silent", true)] {
        let share = |name| if name == fault { 1.0 } else { 0.0 };
        let running = run_with(SimulatorSettings {
            simulator_confirm_error_share: share("error"),
            simulator_confirm_garbage_share: share("garbage"),
            simulator_confirm_silent_share: share("silent"),
            ..settings(1.0)
        });
        let client = BetClient::of(&running);
        let answer =
            tokio::time::timeout(Duration::from_millis(300), client.post("confirm", "bet-3")).await;
        match fault {
            "error" => assert_eq!(answer.unwrap().0, 500),
            "garbage" => {
                let (status, text) = answer.unwrap();
                assert!(
                    status == 200 && !text.contains("CONFIRMED") && !text.contains("REJECTED"),
                    "{text}"
                );
            }
            _ => assert!(answer.is_err(), "{answer:?}"),
        }
        assert_eq!(
            client.booked("bet-3").await.0,
            if is_booked { 200 } else { 404 }
        );
        assert_eq!(running.metrics.faults.with_label_values(&[fault]).get(), 1);
        // Cancel requests have no simulated faults.
        assert_eq!(client.post("cancel", "bet-3").await.0, 200);
        running.end().await;
    }
}

#[actix_web::test]
async fn delay_applies_and_retry_may_succeed() {
    let delay = Duration::from_millis(80);
    let running = run_with(SimulatorSettings {
        simulator_confirm_delay: delay,
        simulator_confirm_error_share: 0.5,
        simulator_confirm_reject_share: 1.0,
        ..settings(1.0)
    });
    let client = BetClient::of(&running);
    let mut statuses = std::collections::BTreeSet::new();
    while statuses.len() < 2 {
        let started = Instant::now();
        let (status, text) = client.post("confirm", "bet-3").await;
        assert!(started.elapsed() >= delay);
        assert!(
            status == 500 || text.contains("supplier_reject_mock"),
            "{text}"
        );
        statuses.insert(status);
    }
    running.end().await;
}
