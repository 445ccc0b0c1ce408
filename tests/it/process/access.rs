//! `AUTH=required`: tokens and API keys, from the command that makes them to the one that revokes
//! them.

use super::*;

const SECRET: &str = "the shared secret of this test, of 32 bytes or more";
const AUTH: [(&str, &str); 3] = [
    ("AUTH", "required"),
    ("AUTH_JWT_SECRET", SECRET),
    ("AUTH_JWT_AUDIENCE", "this-test"),
];

/// The output of a command that succeeds.
async fn printed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments, &AUTH).await;
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

/// A server and its clients.
struct Clients {
    http: reqwest::Client,
    server: ServerProcess,
}

impl Clients {
    /// Status and code of a request with this credential.
    async fn answer(&self, request: reqwest::RequestBuilder, credential: Option<&str>) -> String {
        let request = match credential {
            Some(credential) => request.bearer_auth(credential),
            None => request,
        };
        let response = within("a response", request.send()).await.unwrap();
        let status = response.status().as_u16();
        let challenge = response.headers().contains_key("WWW-Authenticate");
        assert_eq!(challenge, status == 401);
        let body = response.text().await.unwrap();
        assert!(!body.contains(SECRET), "{body}");
        assert!(
            credential.is_none_or(|credential| !body.contains(credential)),
            "{body}"
        );
        let body: Value = serde_json::from_str(&body).unwrap();
        match body["code"].as_str() {
            Some(code) => format!("{status} {code}"),
            None => status.to_string(),
        }
    }

    async fn wallet(&self, credential: Option<&str>) -> String {
        let url = format!("http://{}/wallet?userId=u1", self.server.wallet());
        self.answer(self.http.get(url), credential).await
    }

    async fn deposit(&self, credential: Option<&str>, reference: &str) -> String {
        let url = format!("http://{}/wallet/deposit", self.server.wallet());
        let body = json!({"userId": "u1", "amount_cents": 100, "external_ref": reference});
        self.answer(self.http.post(url).json(&body), credential)
            .await
    }

    async fn events(&self, credential: Option<&str>) -> String {
        let url = format!("http://{}/v1/events", self.server.odds());
        self.answer(self.http.get(url), credential).await
    }

    async fn until_ready(&self) {
        let url = format!("http://{}/healthz", self.server.health["wallet"]);
        until("ready", || async {
            (get_text(&url).await.0 == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn credentials_work_until_they_are_revoked() {
    let folder = TempDir::new().unwrap();
    sports_bet_platform::runtime::tls::install_provider();
    let mut clients = Clients {
        http: reqwest::Client::new(),
        server: ServerProcess::start(folder.path(), &AUTH).await,
    };
    clients.until_ready().await;
    assert_eq!(clients.wallet(None).await, "401 UNAUTHENTICATED");
    assert_eq!(clients.events(None).await, "200", "odds are public");

    let create = [
        "key",
        "create",
        "--scope",
        "wallet:move",
        "--note",
        "backend",
    ];
    let key = printed(folder.path(), &create).await;
    until("the key is known", || async {
        (clients.deposit(Some(&key), "first").await == "200").then_some(())
    })
    .await;
    assert_eq!(clients.wallet(Some(&key)).await, "403 SCOPE_REQUIRED");

    let token = [
        "token",
        "--user",
        "u1",
        "--scope",
        "wallet:read",
        "--for",
        "1h",
    ];
    let token = printed(folder.path(), &token).await;
    assert_eq!(clients.wallet(Some(&token)).await, "200");
    assert_eq!(
        clients.deposit(Some(&token), "x").await,
        "403 SCOPE_REQUIRED"
    );
    for credential in [&token[..token.len() - 1], "sbk_typo", "nonsense"] {
        assert_eq!(
            clients.wallet(Some(credential)).await,
            "401 INVALID_CREDENTIAL"
        );
        assert_eq!(
            clients.events(Some(credential)).await,
            "401 INVALID_CREDENTIAL"
        );
    }

    assert_eq!(
        printed(folder.path(), &["key", "revoke", "1"]).await,
        "key 1 revoked: backend"
    );
    until("the key is revoked", || async {
        (clients.deposit(Some(&key), "first").await == "401 INVALID_CREDENTIAL").then_some(())
    })
    .await;
    printed(folder.path(), &["user", "revoke", "u1"]).await;
    until("the token is revoked", || async {
        (clients.wallet(Some(&token)).await == "401 INVALID_CREDENTIAL").then_some(())
    })
    .await;

    let metrics = get_text(&format!(
        "http://{}/metrics",
        clients.server.health["wallet"]
    ))
    .await
    .1;
    for (result, least) in [
        ("anonymous", 1.0),
        ("service", 1.0),
        ("user", 2.0),
        ("mistyped_key", 1.0),
        ("revoked_key", 1.0),
        ("revoked_token", 1.0),
    ] {
        let series = format!("access_authentications_total{{result=\"{result}\"}}");
        assert!(metric(&metrics, &series).unwrap() >= least, "{series}");
    }
    assert!(metric(&metrics, "access_credentials_read_at_seconds").unwrap() > 0.0);
    clients.server.signal("TERM").await;
    assert!(clients.server.ended().await.success());
    let log = clients.server.log();
    for secret in [SECRET, &key, &token] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test]
async fn reachable_server_needs_a_decision_about_auth() {
    let folder = TempDir::new().unwrap();
    let (code, text) = fails(folder.path(), &["serve"], &[("BIND_ADDRESS", "0.0.0.0")]).await;
    assert_eq!(code, 2);
    assert!(
        text.starts_with("AUTH: got \"\", want required") && text.contains("or off"),
        "{text}"
    );
    let missing = [("AUTH", "required"), ("AUTH_JWT_KEYS", "missing.json")];
    let (code, text) = fails(folder.path(), &["serve"], &missing).await;
    assert_eq!(code, 1);
    assert!(
        text.contains("AUTH_JWT_KEYS: ") && text.contains("No such file"),
        "{text}"
    );
}
