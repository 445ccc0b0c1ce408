//! Ambiguous requests are rejected by name and never interpreted as something else.

use pretty_assertions::assert_eq;
use reqwest::header::HeaderMap;
use serde_json::json;

use super::{Answer, BetsHarness, answer};

async fn post(
    harness: &BetsHarness,
    url: &str,
    headers: &[(&'static str, &str)],
    body: impl Into<reqwest::Body>,
) -> Answer {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    answer(harness.client.post(url).headers(map).body(body)).await
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[actix_web::test]
async fn body_must_be_a_plain_object() {
    let mut harness = BetsHarness::open(&[], &[]).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let deposit = format!("http://{}/wallet/deposit", harness.platform.wallet());
    let bets = format!("http://{}/bets", harness.platform.bets());
    let deep = format!(
        r#"{{"userId":{}"u"{},"amount_cents":1}}"#,
        "[".repeat(7_000),
        "]".repeat(7_000)
    );
    let digits = format!(r#"{{"userId":"u","amount_cents":{}}}"#, "9".repeat(10_000));
    let cases: &[(&[u8], &str)] = &[
        (br#"["u",5,"a",null]"#, "400 BAD_REQUEST"),
        (br#"["u",5,"a"]"#, "400 BAD_REQUEST"),
        (br#"[{"userId":"u","amount_cents":5}]"#, "400 BAD_REQUEST"),
        (br#""u""#, "400 BAD_REQUEST"),
        (b"null", "400 BAD_REQUEST"),
        (br#"{"userId":"u","amount_cents":5}{}"#, "400 BAD_REQUEST"),
        (br#"{"userId":"u","amount_cents":5} x"#, "400 BAD_REQUEST"),
        (
            b"\xef\xbb\xbf{\"userId\":\"u\",\"amount_cents\":5}",
            "400 BAD_REQUEST",
        ),
        (
            b"{\"userId\":\"u\xff\",\"amount_cents\":5}",
            "400 BAD_REQUEST",
        ),
        (
            b"{\"userId\":\"u\0\",\"amount_cents\":5}",
            "400 BAD_REQUEST",
        ),
        (
            br#"{"userId":"u\u0000","amount_cents":5}"#,
            "400 BAD_REQUEST",
        ),
        (
            br#"{"userId":"\ud800","amount_cents":5}"#,
            "400 BAD_REQUEST",
        ),
        (
            br#"{"userId":"u","amount_cents":1e999}"#,
            "400 INVALID_AMOUNT",
        ),
        (br#"{'userId':'u','amount_cents':5}"#, "400 BAD_REQUEST"),
        (br#"{"userId":"u","amount_cents":5,}"#, "400 BAD_REQUEST"),
        (deep.as_bytes(), "400 BAD_REQUEST"),
        (digits.as_bytes(), "400 INVALID_AMOUNT"),
    ];
    for (body, code) in cases {
        let answer = post(&harness, &deposit, &[JSON], body.to_vec()).await;
        assert_eq!(
            answer.code(),
            *code,
            "{}",
            String::from_utf8_lossy(&body[..body.len().min(80)])
        );
    }
    let bet = br#"["u","E","1x2",null,"home",100,1.5,"any",null]"#;
    assert_eq!(
        post(&harness, &bets, &[JSON], bet.to_vec()).await.code(),
        "400 BAD_REQUEST"
    );
    for path in ["confirm", "cancel"] {
        let url = format!("http://{}/supplier/{path}", harness.simulator.simulator());
        for body in [
            r#"["b"]"#,
            r#"["b","u","E",1,1.5]"#,
            r#"{"betId":"a","betId":"b"}"#,
            r#"{"betId":"b"}]"#,
        ] {
            assert_eq!(
                post(&harness, &url, &[JSON], body).await.code(),
                "400 BAD_REQUEST",
                "{path} {body}"
            );
        }
    }
    assert_eq!(harness.balance("u").await, (1_000, 0));
    harness.close().await;
}

#[actix_web::test]
async fn unknown_and_repeated_fields_are_named() {
    let mut harness = BetsHarness::open(&[], &[]).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let end = r#"{"userId":"u","external_ref":"a""#;
    let order = r#"{"userId":"u","external_ref":"a","amount_cents":5"#;
    let bet = r#"{"userId":"u","eventId":"E","market":"1x2","selection":"home","stake_cents":100,"odd_value":1.5"#;
    let wallet = harness.platform.wallet();
    let bets = harness.platform.bets();
    for (address, path, body) in [
        (wallet, "/wallet/deposit", order),
        (wallet, "/wallet/withdraw", order),
        (wallet, "/wallet/reserve", order),
        (wallet, "/wallet/commit", end),
        (wallet, "/wallet/refund", end),
        (bets, "/bets", bet),
    ] {
        for field in [
            "externalRef",
            "external_Ref",
            "user_id",
            "currency",
            "idempotencyKey",
            "request_id",
            "x",
        ] {
            let answer = harness
                .post(address, path, format!(r#"{body},"{field}":"a"}}"#), None)
                .await;
            assert_eq!(answer.code(), "400 BAD_REQUEST", "{path} {field}");
            assert!(
                answer.text.contains(&format!("unknown field `{field}`")),
                "{answer:?}"
            );
        }
        let twice = harness
            .post(address, path, format!(r#"{body},"userId":"v"}}"#), None)
            .await;
        assert_eq!(twice.code(), "400 BAD_REQUEST", "{path}");
        assert!(twice.text.contains("duplicate field `userId`"), "{twice:?}");
    }
    assert_eq!(harness.balance("u").await, (1_000, 0));
    // The bodies in the original's documents and clients.
    let documented = [
        (
            "deposit",
            r#"{"userId": "USER_001", "amount_cents": 30000, "external_ref": "string"}"#,
        ),
        (
            "deposit",
            r#"{"userId": "USER_001", "amount_cents": 30000}"#,
        ),
        (
            "reserve",
            r#"{"userId":"USER_001","amount_cents":1000,"external_ref":"cfe1a384"}"#,
        ),
        (
            "refund",
            r#"{"amount_cents":1000,"external_ref":"cfe1a384","userId":"USER_001"}"#,
        ),
    ];
    for (path, body) in documented {
        let answer = harness
            .post(wallet, &format!("/wallet/{path}"), body, None)
            .await;
        assert_eq!(answer.code(), "200", "{path} {body}");
    }
    let bet_body = r#"{"userId": "USER_001", "eventId": "E", "market": "1x2", "selection": "1", "stake_cents": 1000, "odd_value": 1.5}"#;
    assert_eq!(
        harness.post(bets, "/bets", bet_body, None).await.code(),
        "200"
    );
    harness.close().await;
}

#[actix_web::test]
async fn two_idempotency_keys_are_rejected() {
    let mut harness = BetsHarness::open(&[], &[]).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let bet = json!({"userId": "u", "eventId": "E", "market": "1x2", "selection": "home", "stake_cents": 100,
        "odd_value": 1.5});
    let order = json!({"userId": "u", "amount_cents": 10});
    let with = |body: &serde_json::Value, id: &str| {
        let mut body = body.clone();
        body["requestId"] = json!(id);
        body.to_string()
    };
    let wallet = harness.platform.wallet();
    let bets = harness.platform.bets();
    for (address, path, body) in [
        (wallet, "/wallet/deposit", &order),
        (wallet, "/wallet/withdraw", &order),
        (bets, "/bets", &bet),
    ] {
        let url = format!("http://{address}{path}");
        for keys in [["a", "b"], ["a", "a"]] {
            let headers = [
                JSON,
                ("idempotency-key", keys[0]),
                ("idempotency-key", keys[1]),
            ];
            let answer = post(&harness, &url, &headers, body.to_string()).await;
            assert_eq!(answer.code(), "400 BAD_REQUEST", "{path}");
            assert!(
                answer.text.contains("Idempotency-Key: it is given twice"),
                "{answer:?}"
            );
        }
        let differs = post(
            &harness,
            &url,
            &[JSON, ("idempotency-key", "a")],
            with(body, "b"),
        )
        .await;
        assert_eq!(differs.code(), "400 BAD_REQUEST", "{path}");
        assert!(
            differs
                .text
                .contains("requestId: it differs from the header Idempotency-Key"),
            "{differs:?}"
        );
    }
    assert_eq!(harness.balance("u").await, (1_000, 0));
    // The same key in both places is one key.
    let url = format!("http://{bets}/bets");
    let both = post(
        &harness,
        &url,
        &[JSON, ("idempotency-key", "a")],
        with(&bet, "a"),
    )
    .await;
    assert_eq!(both.status, 200, "{both:?}");
    assert_eq!(post(&harness, &url, &[JSON], with(&bet, "a")).await, both);
    assert_eq!(
        post(
            &harness,
            &url,
            &[JSON, ("idempotency-key", "a")],
            bet.to_string()
        )
        .await,
        both
    );
    harness.close().await;
}

#[actix_web::test]
async fn compressed_body_is_rejected() {
    let harness = BetsHarness::open(&[], &[]).await;
    let body = json!({"userId": "u", "amount_cents": 10, "external_ref": "a"}).to_string();
    for (address, path) in [
        (harness.platform.wallet(), "/wallet/deposit"),
        (harness.platform.bets(), "/bets"),
        (harness.simulator.simulator(), "/supplier/confirm"),
        (harness.simulator.simulator(), "/supplier/cancel"),
    ] {
        let url = format!("http://{address}{path}");
        for encoding in ["br", "gzip", "deflate", "zstd", "identity, br", "GZIP"] {
            let answer = post(
                &harness,
                &url,
                &[JSON, ("content-encoding", encoding)],
                body.clone(),
            )
            .await;
            assert_eq!(
                answer.code(),
                "415 UNSUPPORTED_MEDIA_TYPE",
                "{path} {encoding}"
            );
            assert!(answer.text.contains(encoding), "{answer:?}");
        }
    }
    let deposit = format!("http://{}/wallet/deposit", harness.platform.wallet());
    let types = ["application/json; charset=utf-8", "Application/Json"];
    for content_type in types {
        let plain = [
            ("content-type", content_type),
            ("content-encoding", "identity"),
        ];
        assert_eq!(
            post(&harness, &deposit, &plain, body.clone()).await.code(),
            "200",
            "{content_type}"
        );
    }
    assert_eq!(harness.balance("u").await, (10, 0));
    harness.close().await;
}
