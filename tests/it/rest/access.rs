//! What each caller may do on each route: the table of docs/api/rights.md, and whose data is whose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use pretty_assertions::assert_eq;
use reqwest::Method;
use sports_bet_platform::domain::access::Scope;
use sports_bet_platform::http;

use super::*;
use crate::support::{Folder, command};

const RIGHTS: [Scope; 5] = [
    Scope::OddsRead,
    Scope::WalletRead,
    Scope::WalletMove,
    Scope::BetsRead,
    Scope::BetsWrite,
];

/// The settings that check callers.
const AUTH: [(&str, &str); 2] = [
    ("AUTH", "required"),
    (
        "AUTH_JWT_SECRET",
        "the shared secret of this test, of 32 bytes or more",
    ),
];

/// The credential that a command prints.
async fn printed(folder: &Folder, arguments: &[&str]) -> String {
    printed_with(folder, &AUTH, arguments).await
}

/// The same, with these settings.
async fn printed_with(
    folder: &Folder,
    settings: &[(&'static str, &'static str)],
    arguments: &[&str],
) -> String {
    let own = folder.variables();
    let own = own
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let variables: Vec<_> = own.chain(settings.iter().copied()).collect();
    let mut command = command(folder.path(), &variables);
    let output = within("a credential", command.args(arguments).output())
        .await
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

fn names(scopes: impl IntoIterator<Item = Scope>) -> String {
    let names: Vec<_> = scopes.into_iter().map(Scope::as_str).collect();
    names.join(",")
}

async fn user(folder: &Folder, id: &str, scopes: &str) -> String {
    printed(folder, &["token", "--user", id, "--scope", scopes]).await
}

async fn service(folder: &Folder, scopes: &str) -> String {
    let create = ["key", "create", "--note", "test", "--scope", scopes];
    printed(folder, &create).await
}

fn with(scope: Scope) -> String {
    format!("service-with-{scope}")
}

fn without(scope: Scope) -> String {
    format!("service-without-{scope}")
}

/// Credentials by name: the users `u1` and `u2` with every right, an operator, a service with all
/// rights, and for each right a service with only that one and a service with all others.
async fn credentials(folder: &Folder) -> BTreeMap<String, String> {
    let all = names(RIGHTS);
    let mut known = BTreeMap::new();
    for (name, scopes) in [
        ("u1", all.as_str()),
        ("u2", all.as_str()),
        ("operator", "operator:*"),
    ] {
        known.insert(name.to_owned(), user(folder, name, scopes).await);
    }
    known.insert("service".to_owned(), service(folder, &all).await);
    for scope in RIGHTS {
        let others = names(RIGHTS.into_iter().filter(|other| *other != scope));
        known.insert(with(scope), service(folder, scope.as_str()).await);
        known.insert(without(scope), service(folder, &others).await);
    }
    known
}

/// A platform that checks its callers, with one event that accepts bets.
struct Checked {
    platform: TestPlatform,
    credentials: BTreeMap<String, String>,
    client: reqwest::Client,
    _link: SupplierLink,
    _supplier: FakeSupplier,
    /// Never answers, so bets stay pending.
    _confirming: FakeSupplier,
}

impl Checked {
    async fn start(roles: &str, odds_public: &str) -> Checked {
        let supplier = FakeSupplier::start().await;
        let url = supplier.url();
        let confirming = FakeSupplier::start().await;
        let confirms = format!("http://{}", confirming.address());
        let variables = [
            ("ROLE", roles),
            ("SUPPLIER_URLS", url.as_str()),
            ("SUPPLIER_URL", confirms.as_str()),
            ("BET_CONFIRM_DEADLINE", "10m"),
            ("BET_CONFIRM_TIMEOUT", "10m"),
            ("ODDS_PUBLIC", odds_public),
        ];
        let platform = TestPlatform::start(&[&variables[..], &AUTH].concat()).await;
        let credentials = credentials(&platform.folder).await;
        let mut link = supplier.accept().await;
        link.send(original_frame("E", &time(1), 1)).await;
        let checked = Checked {
            platform,
            credentials,
            client: reqwest::Client::new(),
            _link: link,
            _supplier: supplier,
            _confirming: confirming,
        };
        // Keys are read once a second; the last one was created last.
        let last = without(Scope::BetsWrite);
        until("the keys are known", async || {
            let answer = checked.get("/v1/events", Some(&last)).await;
            (answer.status == 200).then_some(())
        })
        .await;
        for path in ["/v1/events/E/odds", "/v1/events/E/markets/1x2/history"] {
            until("the event is shown", async || {
                let shown = checked.get(path, Some("service")).await;
                (shown.status == 200).then_some(())
            })
            .await;
        }
        checked
    }

    async fn with_money() -> Checked {
        let checked =
            Checked::start("ingest,processor,odds,wallet,bets,confirmation", "true").await;
        for (user, reference) in [("u1", "first"), ("u2", "first")] {
            checked.moves("deposit", user, 100_000, reference).await;
        }
        checked
    }

    /// A transfer by a service.
    async fn moves(&self, path: &str, user: &str, cents: i64, reference: &str) {
        let body = json!({"userId": user, "amount_cents": cents, "external_ref": reference});
        let answer = self
            .post(&format!("/wallet/{path}"), Some("service"), &body, None)
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// A request with the credential of this name.
    fn request(&self, method: Method, path: &str, token: Option<&str>) -> reqwest::RequestBuilder {
        let address = match path.get(..5) {
            Some("/wall") => self.platform.wallet(),
            Some("/bets") => self.platform.bets(),
            _ => self.platform.odds(),
        };
        let request = self
            .client
            .request(method, format!("http://{address}{path}"));
        match token {
            Some(name) => {
                request.bearer_auth(self.credentials.get(name).map_or(name, String::as_str))
            }
            None => request,
        }
    }

    async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        let request = self.request(Method::GET, path, token);
        if path != "/ws/odds" {
            return Answer::of(request).await;
        }
        let upgrade = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let request = upgrade.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        Answer::of(request).await
    }

    async fn post(
        &self,
        path: &str,
        token: Option<&str>,
        body: &Value,
        key: Option<&str>,
    ) -> Answer {
        let request = self.request(Method::POST, path, token).json(body);
        Answer::of(match key {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        })
        .await
    }

    async fn bet(&self, token: &str, user: Option<&str>, key: Option<&str>) -> Answer {
        self.post("/bets", Some(token), &bet_of(user), key).await
    }

    /// The id of a new bet of the token's user.
    async fn new_bet(&self, token: &str) -> String {
        let placed = self.bet(token, None, None).await;
        assert_eq!(placed.status, 200, "{}", placed.text());
        placed.json()["betId"].as_str().unwrap().to_owned()
    }
}

fn bet_of(user: Option<&str>) -> Value {
    let mut body = json!({
        "eventId": "E", "market": "1x2", "selection": "home", "stake_cents": 300, "odd_value": 1.501,
    });
    if let Some(user) = user {
        body["userId"] = json!(user);
    }
    body
}

/// For example `403 OTHER_USER`, or `200` if there is no code.
fn outcome(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match body["code"].as_str() {
        Some(code) => format!("{} {code}", answer.status),
        None => answer.status.to_string(),
    }
}

/// A request to a route, about the user `u1`.
struct Row {
    /// The template and the method.
    route: (&'static str, &'static str),
    scope: Scope,
    path: String,
    body: Option<Value>,
}

fn read(template: &'static str, scope: Scope, path: &str) -> Row {
    Row {
        route: (template, "GET"),
        scope,
        path: path.to_owned(),
        body: None,
    }
}

fn odds_rows() -> Vec<Row> {
    let read = |template, path| read(template, Scope::OddsRead, path);
    vec![
        read("/v1/events", "/v1/events"),
        read("/v1/events/{id}/markets", "/v1/events/E/markets"),
        read("/v1/events/{id}/odds", "/v1/events/E/odds"),
        read("/v1/events/{id}/results", "/v1/events/E/results"),
        read(
            "/v1/events/{id}/markets/{market}/history",
            "/v1/events/E/markets/1x2/history",
        ),
        read("/ws/odds", "/ws/odds"),
    ]
}

fn wallet_rows() -> Vec<Row> {
    let read = |template: &'static str| {
        read(
            template,
            Scope::WalletRead,
            &format!("{template}?userId=u1"),
        )
    };
    let moves = |template: &'static str, body: Value| Row {
        route: (template, "POST"),
        scope: Scope::WalletMove,
        path: template.to_owned(),
        body: Some(body),
    };
    let order = |cents: i64, reference: &str| json!({"userId": "u1", "amount_cents": cents, "external_ref": reference});
    let end = |reference: &str| json!({"userId": "u1", "external_ref": reference});
    vec![
        read("/wallet"),
        read("/wallet/ledger"),
        read("/wallet/reservations"),
        moves("/wallet/deposit", order(1_000, "in")),
        moves("/wallet/withdraw", order(1, "out")),
        moves("/wallet/reserve", order(100, "held")),
        moves("/wallet/commit", end("to commit")),
        moves("/wallet/refund", end("to refund")),
    ]
}

fn bets_rows(bet: &str) -> Vec<Row> {
    let place = Row {
        route: ("/bets", "POST"),
        scope: Scope::BetsWrite,
        path: "/bets".to_owned(),
        body: Some(bet_of(Some("u1"))),
    };
    vec![
        place,
        read("/bets", Scope::BetsRead, "/bets?userId=u1"),
        read("/bets/{id}", Scope::BetsRead, &format!("/bets/{bet}")),
    ]
}

const HEAD: &str = "\
| route | scope | anonymous | user | other user | service without scope | service with scope | operator |
|---|---|---|---|---|---|---|---|
";

impl Row {
    async fn ask(&self, checked: &Checked, token: Option<&str>) -> Answer {
        match &self.body {
            Some(body) => checked.post(&self.path, token, body, None).await,
            None => checked.get(&self.path, token).await,
        }
    }

    /// The outcome for each caller, as a line of the table.
    async fn line(&self, checked: &Checked) -> String {
        let (with, without) = (with(self.scope), without(self.scope));
        let callers = [
            None,
            Some("u1"),
            Some("u2"),
            Some(without.as_str()),
            Some(with.as_str()),
            Some("operator"),
        ];
        let (template, method) = self.route;
        let mut line = format!("| `{method} {template}` | `{}` |", self.scope);
        for token in callers {
            let answer = self.ask(checked, token).await;
            line += &format!(" {} |", outcome(&answer));
            if method == "GET" && template != "/ws/odds" {
                let head = checked.request(Method::HEAD, &self.path, token);
                assert_eq!(Answer::of(head).await.status, answer.status, "{line}");
            }
        }
        let unknown = self.ask(checked, Some("unknown")).await;
        assert_eq!(outcome(&unknown), "401 INVALID_CREDENTIAL", "{line}");
        assert!(unknown.header("www-authenticate").is_some(), "{line}");
        line + "\n"
    }
}

async fn table(checked: &Checked, rows: &[Row]) -> String {
    let mut table = HEAD.to_owned();
    for row in rows {
        table += &row.line(checked).await;
    }
    println!("{table}");
    table
}

fn assert_documented(table: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api/rights.md");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(
        text.contains(&format!("\n\n{table}\n")),
        "docs/api/rights.md must contain exactly this table:\n{table}"
    );
}

#[actix_web::test]
async fn each_route_answers_each_caller() {
    let checked = Checked::with_money().await;
    checked.moves("reserve", "u1", 100, "to commit").await;
    checked.moves("reserve", "u1", 100, "to refund").await;
    let bet = checked.new_bet("u1").await;
    let rows: Vec<_> = odds_rows()
        .into_iter()
        .chain(wallet_rows())
        .chain(bets_rows(&bet))
        .collect();
    // A new route needs a row.
    let routes = [
        http::odds::routes::ROUTES,
        http::wallet::ROUTES,
        http::bets::ROUTES,
    ];
    let routes = routes.into_iter().flatten().copied();
    // `GET /` is for anybody.
    let routes: BTreeSet<_> = routes.filter(|(path, _)| *path != "/").collect();
    let tested: BTreeSet<_> = rows.iter().map(|row| row.route).collect();
    assert_eq!(tested, routes);

    let table = table(&checked, &rows).await;
    insta::assert_snapshot!(table, @r"
    | route | scope | anonymous | user | other user | service without scope | service with scope | operator |
    |---|---|---|---|---|---|---|---|
    | `GET /v1/events` | `odds:read` | 200 | 200 | 200 | 200 | 200 | 200 |
    | `GET /v1/events/{id}/markets` | `odds:read` | 200 | 200 | 200 | 200 | 200 | 200 |
    | `GET /v1/events/{id}/odds` | `odds:read` | 200 | 200 | 200 | 200 | 200 | 200 |
    | `GET /v1/events/{id}/results` | `odds:read` | 200 | 200 | 200 | 200 | 200 | 200 |
    | `GET /v1/events/{id}/markets/{market}/history` | `odds:read` | 200 | 200 | 200 | 200 | 200 | 200 |
    | `GET /ws/odds` | `odds:read` | 101 | 101 | 101 | 101 | 101 | 101 |
    | `GET /wallet` | `wallet:read` | 401 UNAUTHENTICATED | 200 | 403 OTHER_USER | 403 SCOPE_REQUIRED | 200 | 200 |
    | `GET /wallet/ledger` | `wallet:read` | 401 UNAUTHENTICATED | 200 | 403 OTHER_USER | 403 SCOPE_REQUIRED | 200 | 200 |
    | `GET /wallet/reservations` | `wallet:read` | 401 UNAUTHENTICATED | 200 | 403 OTHER_USER | 403 SCOPE_REQUIRED | 200 | 200 |
    | `POST /wallet/deposit` | `wallet:move` | 401 UNAUTHENTICATED | 403 SCOPE_REQUIRED | 403 SCOPE_REQUIRED | 403 SCOPE_REQUIRED | 200 | 403 SCOPE_REQUIRED |
    | `POST /wallet/withdraw` | `wallet:move` | 401 UNAUTHENTICATED | 403 SCOPE_REQUIRED | 403 SCOPE_REQUIRED | 403 SCOPE_REQUIRED | 200 | 403 SCOPE_REQUIRED |
    | `POST /wallet/reserve` | `wallet:move` | 401 UNAUTHENTICATED | 403 SCOPE_REQUIRED | 403 SCOPE_REQUIRED | 403 SCOPE_REQUIRED | 200 | 403 SCOPE_REQUIRED |
    | `POST /wallet/commit` | `wallet:move` | 401 UNAUTHENTICATED | 403 SCOPE_REQUIRED | 403 SCOPE_REQUIRED | 403 SCOPE_REQUIRED | 200 | 403 SCOPE_REQUIRED |
    | `POST /wallet/refund` | `wallet:move` | 401 UNAUTHENTICATED | 403 SCOPE_REQUIRED | 403 SCOPE_REQUIRED | 403 SCOPE_REQUIRED | 200 | 403 SCOPE_REQUIRED |
    | `POST /bets` | `bets:write` | 401 UNAUTHENTICATED | 200 | 403 OTHER_USER | 403 SCOPE_REQUIRED | 200 | 403 SCOPE_REQUIRED |
    | `GET /bets` | `bets:read` | 401 UNAUTHENTICATED | 200 | 403 OTHER_USER | 403 SCOPE_REQUIRED | 200 | 200 |
    | `GET /bets/{id}` | `bets:read` | 401 UNAUTHENTICATED | 200 | 404 BET_NOT_FOUND | 403 SCOPE_REQUIRED | 200 | 200 |
    ");
    assert_documented(&table);

    // A refused request is measured as one of its route.
    let refused = r#"wallet_http_request_duration_seconds_count{method="POST",route="/wallet/deposit",status="4xx"}"#;
    checked
        .platform
        .until_metric(Role::Wallet, refused, |count| count == 6.0)
        .await;

    // Each transfer was made once, and each of the three bets is pending: whoever was refused moved
    // nothing.
    let wallet = checked.get("/wallet", Some("u1")).await.json();
    let available = 100_000 + 1_000 - 1 - 100 - 100 - 3 * 300;
    assert_eq!(wallet["balance_cents"], available, "{wallet}");
    assert_eq!(wallet["reserved_cents"], 100 + 3 * 300, "{wallet}");
}

#[actix_web::test]
async fn odds_need_a_scope_unless_public() {
    let checked = Checked::start("ingest,processor,odds", "false").await;
    let table = table(&checked, &odds_rows()).await;
    insta::assert_snapshot!(table, @r"
    | route | scope | anonymous | user | other user | service without scope | service with scope | operator |
    |---|---|---|---|---|---|---|---|
    | `GET /v1/events` | `odds:read` | 401 UNAUTHENTICATED | 200 | 200 | 403 SCOPE_REQUIRED | 200 | 200 |
    | `GET /v1/events/{id}/markets` | `odds:read` | 401 UNAUTHENTICATED | 200 | 200 | 403 SCOPE_REQUIRED | 200 | 200 |
    | `GET /v1/events/{id}/odds` | `odds:read` | 401 UNAUTHENTICATED | 200 | 200 | 403 SCOPE_REQUIRED | 200 | 200 |
    | `GET /v1/events/{id}/results` | `odds:read` | 401 UNAUTHENTICATED | 200 | 200 | 403 SCOPE_REQUIRED | 200 | 200 |
    | `GET /v1/events/{id}/markets/{market}/history` | `odds:read` | 401 UNAUTHENTICATED | 200 | 200 | 403 SCOPE_REQUIRED | 200 | 200 |
    | `GET /ws/odds` | `odds:read` | 101 | 101 | 101 | 403 SCOPE_REQUIRED | 101 | 101 |
    ");
    assert_documented(&table);
}

/// As docs/access.md says: the new secret is in a file beside the old one, and tokens of both are
/// accepted.
#[actix_web::test]
async fn secret_is_rotated_without_refusals() {
    const NEW: &str = "the next secret of this test, of 32 bytes or more";
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("keys.json");
    let key = json!({"kty": "oct", "kid": "next", "k": BASE64_URL_SAFE_NO_PAD.encode(NEW)});
    std::fs::write(&file, json!({"keys": [key]}).to_string()).unwrap();
    let file = file.to_string_lossy();
    let variables = [&AUTH[..], &[("ROLE", "wallet"), ("AUTH_JWT_KEYS", &file)]].concat();
    let platform = TestPlatform::start(&variables).await;
    let get = async |secret| {
        let arguments = ["token", "--user", "u", "--scope", "wallet:read"];
        let token =
            printed_with(&platform.folder, &[("AUTH_JWT_SECRET", secret)], &arguments).await;
        let url = format!("http://{}/wallet", platform.wallet());
        let answer = Answer::of(reqwest::Client::new().get(url).bearer_auth(token)).await;
        outcome(&answer)
    };
    for secret in [AUTH[1].1, NEW] {
        assert_eq!(get(secret).await, "404 WALLET_NOT_FOUND");
    }
    let neither = get("a secret of somebody else, of 32 bytes or more").await;
    assert_eq!(neither, "401 INVALID_CREDENTIAL");
}

/// They may be meant for a proxy in front of the service.
#[actix_web::test]
async fn foreign_credentials_are_ignored_without_checks() {
    let platform = TestPlatform::start(&[]).await;
    let request = |address: std::net::SocketAddr, path: &str| {
        let client = reqwest::Client::new();
        let request = client.get(format!("http://{address}{path}"));
        request
            .header("Authorization", "Basic dTpw")
            .header("X-Api-Key", "k")
    };
    let read = request(platform.odds(), "/v1/events");
    assert_eq!(Answer::of(read).await.status, 200);
    let read = request(platform.wallet(), "/wallet?userId=nobody");
    assert_eq!(Answer::of(read).await.status, 404);
    let upgrade = request(platform.odds(), "/ws/odds")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let opened = within("an answer", upgrade.send()).await.unwrap();
    assert_eq!(opened.status(), 101);
}

#[actix_web::test]
async fn user_need_not_name_itself() {
    let checked = Checked::with_money().await;
    let placed = checked.bet("u1", None, None).await;
    assert_eq!(outcome(&placed), "200");
    for path in ["/wallet", "/wallet/ledger", "/wallet/reservations", "/bets"] {
        let unnamed = checked.get(path, Some("u1")).await;
        assert_eq!(unnamed.status, 200, "{path}");
        for query in ["userId=u1", "userId="] {
            let named = checked.get(&format!("{path}?{query}"), Some("u1")).await;
            assert_eq!(named.text(), unnamed.text(), "{path}");
        }
        // Users who do not exist are refused like others.
        for other in ["u2", "nobody", "U1"] {
            let path = format!("{path}?userId={other}");
            let refused = checked.get(&path, Some("u1")).await;
            assert_eq!(outcome(&refused), "403 OTHER_USER", "{path}");
        }
        for trusted in ["service", "operator"] {
            let refused = checked.get(path, Some(trusted)).await;
            assert_eq!(outcome(&refused), "400 BAD_QUERY", "{path} {trusted}");
        }
    }
    let id = placed.json()["betId"].as_str().unwrap().to_owned();
    let bet = checked.get(&format!("/bets/{id}"), Some("u1")).await.json();
    assert_eq!(bet["userId"], "u1");
    let unnamed = checked.bet("service", None, None).await;
    assert_eq!(outcome(&unnamed), "400 BAD_REQUEST");
}

#[actix_web::test]
async fn request_names_one_user() {
    let checked = Checked::with_money().await;
    let order = json!({"userId": "u1", "amount_cents": 5});
    for (path, token, body, expected) in [
        ("/bets", "u1", bet_of(Some("u2")), "403 OTHER_USER"),
        ("/bets?userId=u2", "u1", bet_of(None), "403 OTHER_USER"),
        (
            "/bets?userId=u2",
            "u1",
            bet_of(Some("u1")),
            "403 OTHER_USER",
        ),
        ("/bets?userId=u1", "u1", bet_of(None), "400 BAD_QUERY"),
        (
            "/bets?userId=u1&userId=u2",
            "u1",
            bet_of(None),
            "400 BAD_QUERY",
        ),
        (
            "/bets?userId=u2",
            "service",
            bet_of(Some("u1")),
            "400 BAD_QUERY",
        ),
        (
            "/wallet/deposit?userId=u2",
            "service",
            order.clone(),
            "400 BAD_QUERY",
        ),
        (
            "/wallet/withdraw?userId=u2",
            "service",
            order,
            "400 BAD_QUERY",
        ),
    ] {
        let answer = checked.post(path, Some(token), &body, None).await;
        assert_eq!(outcome(&answer), expected, "{path} {token} {body}");
    }
    let twice = checked.get("/wallet?userId=u1&userId=u2", Some("u1")).await;
    assert_eq!(outcome(&twice), "400 BAD_QUERY");
    let both = checked
        .request(Method::GET, "/wallet?userId=u1", Some("u1"))
        .header("X-Api-Key", &checked.credentials["service"]);
    assert_eq!(outcome(&Answer::of(both).await), "401 INVALID_CREDENTIAL");
    let key = checked
        .request(Method::GET, "/wallet?userId=u1", None)
        .header("X-Api-Key", &checked.credentials["service"]);
    assert_eq!(outcome(&Answer::of(key).await), "200");
    for user in ["u1", "u2"] {
        let wallet = checked.get("/wallet", Some(user)).await.json();
        assert_eq!(wallet["balance_cents"], 100_000, "{wallet}");
        assert_eq!(wallet["reserved_cents"], 0, "{wallet}");
    }
}

/// The status, headers and body of an answer, without the date and the id.
fn shape(answer: &Answer, id: &str) -> (u16, BTreeMap<String, String>, String) {
    let headers = answer.headers.iter().filter(|(name, _)| *name != "date");
    let headers = headers.map(|(name, value)| {
        let value = value.to_str().unwrap().to_owned();
        (name.to_string(), value)
    });
    let body = answer.text().replace(id, "ID");
    (answer.status, headers.collect(), body)
}

#[actix_web::test]
async fn bet_of_another_user_does_not_exist() {
    let checked = Checked::with_money().await;
    let theirs = checked.new_bet("u1").await;
    let unknown = "01a223ee-4860-7069-ae41-ddbd981ebad7";
    for method in [Method::GET, Method::HEAD] {
        let ask = async |id: &str| {
            let request = checked.request(method.clone(), &format!("/bets/{id}"), Some("u2"));
            shape(&Answer::of(request).await, id)
        };
        let answer = ask(&theirs).await;
        assert_eq!(answer.0, 404);
        assert_eq!(answer, ask(unknown).await);
    }
}

#[actix_web::test]
async fn lists_contain_only_own_rows() {
    let checked = Checked::with_money().await;
    let first = checked.new_bet("u2").await;
    let theirs = checked.new_bet("u1").await;
    checked.new_bet("u2").await;
    // A cursor of another user's row is only a position among the own ones.
    let page = checked
        .get(&format!("/bets?cursor={theirs}"), Some("u2"))
        .await
        .json();
    let ids: Vec<_> = page["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bet| bet["betId"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [first]);
    // A deposit and two bets.
    for (path, rows) in [("/wallet/ledger", 3), ("/wallet/reservations", 2)] {
        let page = checked.get(path, Some("u2")).await;
        assert_eq!(page.json()["entries"].as_array().unwrap().len(), rows);
        assert!(!page.text().contains(&theirs), "{path}: {}", page.text());
    }
}

#[actix_web::test]
async fn idempotency_keys_belong_to_a_user() {
    let checked = Checked::with_money().await;
    let first = checked.bet("u1", None, Some("k")).await;
    let other = checked.bet("u2", None, Some("k")).await;
    assert_eq!((first.status, other.status), (200, 200));
    assert_ne!(first.json()["betId"], other.json()["betId"]);
    // The first answer is that of the key's user, whoever sends the request for that user.
    for (token, user, of) in [
        ("u1", None, &first),
        ("u1", Some("u1"), &first),
        ("service", Some("u1"), &first),
        ("u2", None, &other),
        ("service", Some("u2"), &other),
    ] {
        let again = checked.bet(token, user, Some("k")).await;
        assert_eq!(again.text(), of.text(), "{token} {user:?}");
    }
    let foreign = checked.bet("u2", Some("u1"), Some("k")).await;
    assert_eq!(outcome(&foreign), "403 OTHER_USER");
    let mut changed = bet_of(None);
    changed["stake_cents"] = json!(301);
    for token in ["u1", "u2"] {
        let reused = checked
            .post("/bets", Some(token), &changed, Some("k"))
            .await;
        assert_eq!(outcome(&reused), "422 IDEMPOTENCY_KEY_REUSED");
    }
    let deposit = async |user: &str| {
        let body = json!({"userId": user, "amount_cents": 7});
        let path = "/wallet/deposit";
        checked.post(path, Some("service"), &body, Some("k")).await
    };
    for user in ["u1", "u2", "u1", "u2"] {
        let done = deposit(user).await.json();
        assert_eq!(done["userId"], user);
        assert_eq!(done["balance_cents"], 100_000 - 300 + 7, "{done}");
    }
}
