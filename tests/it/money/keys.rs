//! Idempotency keys of wallet requests: a repeated request moves its money once.

use futures_util::future::join_all;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::BetsHarness;

#[actix_web::test]
async fn repeated_key_gives_the_same_answer() {
    let harness = BetsHarness::open(&[], &[]).await;
    let wallet = harness.platform.wallet();
    let order = |cents: i64, reference: Option<&str>| {
        let mut body = json!({"userId": "u", "amount_cents": cents});
        if let Some(reference) = reference {
            body["external_ref"] = json!(reference);
        }
        body
    };
    let end = |reference: &str| json!({"userId": "u", "external_ref": reference});
    let ask = async |path: &str, body: &Value, key: &str| {
        harness
            .post(
                wallet,
                &format!("/wallet/{path}"),
                body.to_string(),
                Some(key),
            )
            .await
    };
    // A rejection is repeated under the same key, even though there is money later.
    let poor = ask("withdraw", &order(5, None), "poor").await;
    assert_eq!(poor.code(), "404 WALLET_NOT_FOUND");
    let steps = [
        ("deposit", order(1_000, None)),
        ("deposit", order(10, Some("d"))),
        ("withdraw", order(300, None)),
        ("reserve", order(50, Some("r1"))),
        ("reserve", order(40, Some("r2"))),
        ("commit", end("r1")),
        ("refund", end("r2")),
        ("withdraw", order(1_000, None)),
        ("refund", end("r1")),
    ];
    let mut first = Vec::new();
    for (number, (path, body)) in steps.iter().enumerate() {
        first.push(ask(path, body, &format!("k{number}")).await);
    }
    let codes: Vec<_> = first.iter().map(super::Answer::code).collect();
    assert_eq!(codes[..7], ["200"; 7]);
    assert_eq!(
        codes[7..],
        ["409 INSUFFICIENT_FUNDS", "409 ALREADY_COMMITTED"]
    );
    assert_eq!(harness.balance("u").await, (660, 0));
    harness
        .post(
            wallet,
            "/wallet/deposit",
            order(5_000, None).to_string(),
            None,
        )
        .await;
    for (number, (path, body)) in steps.iter().enumerate() {
        let key = format!("k{number}");
        assert_eq!(ask(path, body, &key).await, first[number], "{path} {body}");
        let mut other = body.clone();
        match other.get("amount_cents") {
            Some(_) => other["amount_cents"] = json!(7),
            None => other["external_ref"] = json!("another"),
        }
        assert_eq!(
            ask(path, &other, &key).await.code(),
            "422 IDEMPOTENCY_KEY_REUSED",
            "{path} {other}"
        );
    }
    assert_eq!(ask("withdraw", &order(5, None), "poor").await, poor);
    // `requestId` in the body is the same key; the order of fields does not matter.
    let body = r#"{"requestId":"k0","amount_cents":1000,"userId":"u"}"#;
    assert_eq!(
        harness.post(wallet, "/wallet/deposit", body, None).await,
        first[0]
    );
    // An invalid key and an unreadable request leave nothing behind.
    assert_eq!(
        ask("deposit", &order(5, None), &"x".repeat(256))
            .await
            .code(),
        "400 BAD_REQUEST"
    );
    assert_eq!(
        ask("deposit", &order(0, None), "zero").await.code(),
        "400 INVALID_AMOUNT"
    );
    assert_eq!(ask("deposit", &order(5, None), "zero").await.code(), "200");
    assert_eq!(harness.balance("u").await, (5_665, 0));
    // Without a key and without a reference each request is a separate deposit, as in the original.
    for _ in 0..2 {
        harness
            .post(wallet, "/wallet/deposit", order(1, None).to_string(), None)
            .await;
    }
    assert_eq!(harness.balance("u").await, (5_667, 0));
    harness.close().await;
}

#[actix_web::test]
async fn concurrent_requests_with_one_key_move_once() {
    let harness = BetsHarness::open(&[], &[]).await;
    let wallet = harness.platform.wallet();
    for (path, cents) in [("deposit", 1_000), ("withdraw", 100)] {
        let body = json!({"userId": "u", "amount_cents": cents}).to_string();
        let path = format!("/wallet/{path}");
        let answers =
            join_all((0..16).map(|_| harness.post(wallet, &path, body.clone(), Some("k")))).await;
        assert_eq!(answers[0].status, 200, "{answers:?}");
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{answers:?}"
        );
    }
    let ledger = harness.get(wallet, "/wallet/ledger?userId=u").await.json();
    assert_eq!(
        (
            harness.balance("u").await,
            ledger["entries"].as_array().unwrap().len()
        ),
        ((900, 0), 2)
    );
    harness.close().await;
}
