//! `/wallet…`: the requests of the original's clients, every rejection, and concurrent requests.

use futures_util::future::join_all;
use pretty_assertions::assert_eq;
use serde_json::json;

use super::BetsHarness;

#[actix_web::test]
async fn wallet_operations_in_sequence() {
    let harness = BetsHarness::open(&[], &[]).await;
    let order = |cents: i64, reference: &str| json!({"userId": "USER_001", "amount_cents": cents, "external_ref": reference});
    let get = |path: &'static str| harness.get(harness.platform.wallet(), path);
    assert_eq!(
        get("/wallet?userId=USER_001").await.code(),
        "404 WALLET_NOT_FOUND"
    );
    // A new user's first deposit; the original answers it with 500.
    let first = harness.wallet("deposit", order(30_000, "d1")).await;
    assert_eq!(
        (first.status, &first.json()["balance_cents"]),
        (200, &json!(30_000)),
        "{first:?}"
    );
    assert_eq!(
        harness.wallet("deposit", order(30_000, "d1")).await,
        first,
        "a repeated request changes nothing"
    );
    assert_eq!(
        harness.wallet("deposit", order(30_001, "d1")).await.code(),
        "409 IDEMPOTENCY_CONFLICT"
    );
    let id = first.json()["walletId"].clone();
    let withdrawn = harness.wallet("withdraw", order(10_000, "w1")).await;
    assert_eq!(
        (
            &withdrawn.json()["balance_cents"],
            &withdrawn.json()["walletId"]
        ),
        (&json!(20_000), &id)
    );
    assert_eq!(
        harness.wallet("withdraw", order(20_001, "w2")).await.code(),
        "409 INSUFFICIENT_FUNDS"
    );

    let reserved = harness.wallet("reserve", order(5_000, "r1")).await;
    assert_eq!(reserved.json()["status"], "PENDING", "{reserved:?}");
    assert_eq!(
        harness.wallet("reserve", order(5_000, "r1")).await,
        reserved
    );
    assert_eq!(
        harness.wallet("reserve", order(5_001, "r1")).await.code(),
        "409 IDEMPOTENCY_CONFLICT"
    );
    assert_eq!(
        harness.wallet("reserve", order(15_001, "r2")).await.code(),
        "409 INSUFFICIENT_FUNDS"
    );
    assert_eq!(harness.balance("USER_001").await, (15_000, 5_000));
    let end = |reference: &str| json!({"userId": "USER_001", "external_ref": reference});
    let committed = harness.wallet("commit", end("r1")).await;
    assert_eq!(
        (committed.status, &committed.json()["status"]),
        (200, &json!("COMMITTED"))
    );
    assert_eq!(harness.wallet("commit", end("r1")).await, committed);
    assert_eq!(
        harness.wallet("refund", end("r1")).await.code(),
        "409 ALREADY_COMMITTED"
    );
    harness.wallet("reserve", order(700, "r3")).await;
    // The original's worker sends the amount as well.
    let refunded = harness
        .wallet(
            "refund",
            json!({"userId": "USER_001", "external_ref": "r3", "amount_cents": 700}),
        )
        .await;
    assert_eq!(refunded.json()["status"], "REFUNDED");
    assert_eq!(harness.wallet("refund", end("r3")).await, refunded);
    assert_eq!(
        harness.wallet("commit", end("r3")).await.code(),
        "409 ALREADY_REFUNDED"
    );
    assert_eq!(
        harness.wallet("commit", end("nothing")).await.code(),
        "404 RESERVATION_NOT_FOUND"
    );
    assert_eq!(harness.balance("USER_001").await, (15_000, 0));

    let ledger = get("/wallet/ledger?userId=USER_001&limit=4").await.json();
    let kinds = |page: &serde_json::Value| -> Vec<String> {
        let entries = page["entries"].as_array().unwrap();
        entries
            .iter()
            .map(|entry| {
                format!(
                    "{} {}",
                    entry["kind"].as_str().unwrap(),
                    entry["amount_cents"]
                )
            })
            .collect()
    };
    assert_eq!(
        kinds(&ledger),
        ["refund 700", "reserve 700", "commit 5000", "reserve 5000"]
    );
    let next = format!(
        "/wallet/ledger?userId=USER_001&limit=4&cursor={}",
        ledger["nextCursor"].as_str().unwrap()
    );
    let rest = harness.get(harness.platform.wallet(), &next).await.json();
    assert_eq!(
        (kinds(&rest), rest["nextCursor"].is_null()),
        (vec!["withdraw 10000".into(), "deposit 30000".into()], true)
    );
    let reservations = get("/wallet/reservations?userId=USER_001").await.json();
    assert_eq!(reservations["entries"].as_array().unwrap().len(), 2);
    let of = get("/wallet/reservations?userId=USER_001&status=REFUNDED")
        .await
        .json();
    assert_eq!(of["entries"][0]["external_ref"], "r3");
    harness.close().await;
}

#[actix_web::test]
async fn invalid_body_names_the_fault() {
    let harness = BetsHarness::open(&[], &[]).await;
    let address = harness.platform.wallet();
    let post = |path: &'static str, body: &str| harness.post(address, path, body.to_owned(), None);
    for (body, code) in [
        ("", "400 BAD_REQUEST"),
        ("[]", "400 BAD_REQUEST"),
        ("{", "400 BAD_REQUEST"),
        ("\u{0}", "400 BAD_REQUEST"),
        (r#"{"amount_cents":1}"#, "400 BAD_REQUEST"),
        (r#"{"userId":7,"amount_cents":1}"#, "400 BAD_REQUEST"),
        (r#"{"userId":"","amount_cents":1}"#, "400 BAD_REQUEST"),
        (r#"{"userId":"u"}"#, "400 INVALID_AMOUNT"),
        (
            r#"{"userId":"u","amount_cents":null}"#,
            "400 INVALID_AMOUNT",
        ),
        (r#"{"userId":"u","amount_cents":0}"#, "400 INVALID_AMOUNT"),
        (r#"{"userId":"u","amount_cents":-1}"#, "400 INVALID_AMOUNT"),
        (r#"{"userId":"u","amount_cents":1.5}"#, "400 INVALID_AMOUNT"),
        (r#"{"userId":"u","amount_cents":1e3}"#, "400 INVALID_AMOUNT"),
        (
            r#"{"userId":"u","amount_cents":"100"}"#,
            "400 INVALID_AMOUNT",
        ),
        (r#"{"userId":"u","amount_cents":NaN}"#, "400 BAD_REQUEST"),
        (
            r#"{"userId":"u","amount_cents":9223372036854775808}"#,
            "400 INVALID_AMOUNT",
        ),
        (
            r#"{"userId":"u","amount_cents":1,"external_ref":{}}"#,
            "400 BAD_REQUEST",
        ),
        (
            r#"{"userId":"u","amount_cents":1,"external_ref":"a","more":[1,{"x":null}]}"#,
            "400 BAD_REQUEST",
        ),
        (
            r#"{"userId":"u","amount_cents":1,"external_ref":"a"}"#,
            "200",
        ),
    ] {
        assert_eq!(post("/wallet/deposit", body).await.code(), code, "{body}");
    }
    let long = |field: &str, length: usize| {
        json!({"userId": "u", "amount_cents": 1, "external_ref": "b", field: "x".repeat(length)})
            .to_string()
    };
    assert_eq!(
        post("/wallet/deposit", &long("external_ref", 129))
            .await
            .code(),
        "400 BAD_REQUEST"
    );
    assert_eq!(
        post("/wallet/deposit", &long("userId", 129)).await.code(),
        "400 BAD_REQUEST"
    );
    assert_eq!(
        post("/wallet/deposit", &long("more", 10_000)).await.code(),
        "400 BAD_REQUEST"
    );
    assert_eq!(
        post("/wallet/deposit", &long("more", 20_000)).await.code(),
        "413 PAYLOAD_TOO_LARGE"
    );
    let most = |reference: &str| {
        format!(
            r#"{{"userId":"u","amount_cents":9223372036854775800,"external_ref":"{reference}"}}"#
        )
    };
    assert_eq!(post("/wallet/deposit", &most("c")).await.code(), "200");
    assert_eq!(
        post("/wallet/deposit", &most("d")).await.code(),
        "409 BALANCE_TOO_HIGH"
    );
    // A reservation needs a reference, and every request needs a user.
    assert_eq!(
        post("/wallet/reserve", r#"{"userId":"u","amount_cents":1}"#)
            .await
            .code(),
        "400 BAD_REQUEST"
    );
    let stranger = r#"{"userId":"stranger","amount_cents":1,"external_ref":"a"}"#;
    for path in [
        "/wallet/reserve",
        "/wallet/withdraw",
        "/wallet/commit",
        "/wallet/refund",
    ] {
        assert_eq!(
            post(path, stranger).await.code(),
            "404 WALLET_NOT_FOUND",
            "{path}"
        );
    }
    for (path, code) in [
        ("/wallet", "400 BAD_QUERY"),
        ("/wallet?userId=", "400 BAD_QUERY"),
        ("/wallet?userId=%ff", "400 BAD_REQUEST"),
        ("/wallet/deposit", "405 METHOD_NOT_ALLOWED"),
        ("/wallet/nothing", "404 NOT_FOUND"),
        ("/wallet/ledger?userId=u&limit=0", "400 BAD_QUERY"),
        ("/wallet/ledger?userId=u&cursor=x", "400 BAD_QUERY"),
        ("/wallet/reservations?userId=u&status=HELD", "400 BAD_QUERY"),
        ("/wallet?userId=u&userId=v", "400 BAD_QUERY"),
        ("/wallet?userId=u&user=v", "400 BAD_QUERY"),
        ("/wallet/ledger?userId=u&limt=5", "400 BAD_QUERY"),
        (
            "/wallet/reservations?userId=u&State=PENDING",
            "400 BAD_QUERY",
        ),
    ] {
        assert_eq!(harness.get(address, path).await.code(), code, "{path}");
    }
    harness.close().await;
}

#[actix_web::test]
async fn contended_wallet_never_goes_negative() {
    let harness = BetsHarness::open(&[], &[]).await;
    harness.deposit("hot", 1_000).await;
    // 64 clients request 50 each; the balance is enough for 20.
    let wanted = (0..64).map(|client| {
        let body =
            json!({"userId": "hot", "amount_cents": 50, "external_ref": format!("r{client}")});
        harness.wallet("reserve", body)
    });
    let answers = join_all(wanted).await;
    let taken = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(taken, 20);
    assert!(
        answers
            .iter()
            .all(|answer| ["200", "409 INSUFFICIENT_FUNDS"].contains(&answer.code().as_str()))
    );
    assert_eq!(harness.balance("hot").await, (0, 1_000));
    // Commit and refund of each at the same time: exactly one succeeds.
    let ends = (0..64).flat_map(|client| {
        let body = json!({"userId": "hot", "external_ref": format!("r{client}")});
        [
            harness.wallet("commit", body.clone()),
            harness.wallet("refund", body),
        ]
    });
    let answers = join_all(ends).await;
    assert_eq!(
        answers.iter().filter(|answer| answer.status == 200).count(),
        20
    );
    assert_eq!(
        answers.iter().filter(|answer| answer.status == 404).count(),
        88
    );
    let (available, reserved) = harness.balance("hot").await;
    let refunded = answers
        .iter()
        .filter(|answer| answer.text.contains("REFUNDED") && answer.status == 200)
        .count();
    assert_eq!((available, reserved), (50 * refunded as i64, 0));
    harness.close().await;
}

#[actix_web::test]
async fn undecided_reservation_expires() {
    let harness = BetsHarness::open(&[], &[("RESERVATION_TTL", "1s")]).await;
    harness.deposit("u", 100).await;
    let order = json!({"userId": "u", "amount_cents": 60, "external_ref": "r"});
    assert_eq!(harness.wallet("reserve", order).await.code(), "200");
    crate::support::until("the money is back", || async {
        (harness.balance("u").await == (100, 0)).then_some(())
    })
    .await;
    let end = json!({"userId": "u", "external_ref": "r"});
    assert_eq!(
        harness.wallet("commit", end.clone()).await.code(),
        "409 ALREADY_EXPIRED"
    );
    assert_eq!(
        harness.wallet("refund", end).await.code(),
        "409 ALREADY_EXPIRED"
    );
    harness.close().await;
}
