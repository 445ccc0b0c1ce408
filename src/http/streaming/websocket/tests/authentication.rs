//! Authentication over real sockets, in one process.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use actix::prelude::*;
use actix_web::web;
use futures_util::{SinkExt, StreamExt};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::access::signing::{SigningKey, TokenClaims};
use crate::access::{Access, AccessRules, testing};
use crate::actors::access::messages::RevocationsChanged;
use crate::actors::odds::client_reads::{ClientReads, ReadLimits};
use crate::actors::odds::messages::{ApplyError, GetSnapshot};
use crate::actors::streaming::distributor::{Distributor, DistributorSettings};
use crate::actors::streaming::registry::Registry;
use crate::actors::streaming::session_edges::SessionEdges;
use crate::config::settings::RequestRate;
use crate::domain::access::{Revocations, Scope};
use crate::domain::ids::UserId;
use crate::domain::odds::book::{Book, Snapshot};
use crate::domain::streaming::credential_watch::CredentialLimits;
use crate::domain::streaming::session::SessionLimits;
use crate::domain::timestamp::Timestamp;
use crate::http::addresses::{AddressLimit, Addresses};
use crate::http::connections::ConnectionLimits;
use crate::http::limits::{RateRule, RequestLimits, RequestRules};
use crate::http::odds::routes::odds_routes;
use crate::http::odds::state::OddsState;
use crate::http::server::{self, Bounds, Listen};
use crate::http::streaming::frame_limit::{FrameLimits, UnfinishedBytes};
use crate::runtime::feed_health::FeedState;
use crate::services::odds::OddsQueries;
use crate::store::access::AccessRecords;
use crate::store::sqlite::SqliteStore;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::OddsMetrics;
use crate::testing::until;

const SUBSCRIBE: &str = r#"{"type":"subscribe","eventId":"E"}"#;
const HOUR: Duration = Duration::from_secs(3_600);

/// Books of events without markets.
struct EmptyBooks;

impl Actor for EmptyBooks {
    type Context = Context<Self>;
}

impl Handler<GetSnapshot> for EmptyBooks {
    type Result = Result<Snapshot, ApplyError>;

    fn handle(&mut self, message: GetSnapshot, _: &mut Context<Self>) -> Self::Result {
        Ok(Book::new(message.0).snapshot())
    }
}

/// The routes of the role `odds`.
struct Served {
    address: SocketAddr,
    registry: Addr<Registry>,
    metrics: OddsMetrics,
    /// An API key that may read odds. Its id is 1.
    key: String,
    _folder: TempDir,
}

/// Private odds.
fn serve() -> Served {
    serve_with(false, Duration::from_secs(60))
}

fn serve_with(odds_public: bool, auth_timeout: Duration) -> Served {
    serve_limited(odds_public, auth_timeout, RequestLimits::off())
}

fn serve_limited(odds_public: bool, auth_timeout: Duration, limits: RequestLimits) -> Served {
    let (key, stored) = testing::api_key(1, &[Scope::OddsRead]);
    let records = AccessRecords {
        keys: vec![stored],
        ..AccessRecords::default()
    };
    let access = Access::required(AccessRules {
        odds_public,
        ..testing::rules(records)
    });
    let folder = TempDir::new().unwrap();
    let metrics = OddsMetrics::new().unwrap();
    let registry = Registry::new(metrics.clone(), Arc::default()).start();
    let snapshots = EmptyBooks.start().recipient();
    let settings = DistributorSettings {
        ping_interval: HOUR,
        slow_client_limit: HOUR,
        frozen_limit: HOUR,
        credentials: CredentialLimits {
            auth_timeout,
            expiry_grace: Duration::ZERO,
        },
    };
    let state = web::Data::new(state(&folder, snapshots.clone(), &metrics));
    let (joined, counted, checks) = (registry.clone(), metrics.clone(), access.clone());
    let server = server::start_within(bounds(access, limits), listen(), move |config| {
        let distributor = Distributor::start_here(
            settings,
            joined.clone(),
            Arc::new(FeedState::in_process(counted.feed_live.clone())),
            counted.clone(),
        );
        let sessions = SessionEdges {
            distributor,
            snapshots: snapshots.clone(),
            restrictions: Arc::default(),
            epoch: Arc::default(),
            access: checks.clone(),
            limits: LIMITS,
            max_message: 16_384,
            queue: 16,
            failures: Arc::new(LogLimit::every(HOUR)),
            metrics: counted.clone(),
        };
        config
            .app_data(state.clone())
            .app_data(web::Data::new(sessions));
        odds_routes(config);
    });
    Served {
        address: server.unwrap().address,
        registry,
        metrics,
        key,
        _folder: folder,
    }
}

const LIMITS: SessionLimits = SessionLimits {
    max_subscriptions: 10,
    max_messages_per_second: 1_000,
    max_snapshot_bytes_per_second: 1_000_000,
    silence_limit: HOUR,
};

fn listen() -> Listen {
    Listen {
        variable: "HTTP_PORT_ODDS",
        ip: Ipv4Addr::LOCALHOST.into(),
        port: 0,
        workers: 2,
        max_connections: 100,
    }
}

fn addresses() -> Addresses {
    Addresses::new(&[], AddressLimit::Set(0), AddressLimit::Set(0))
}

fn bounds(access: Access, limits: RequestLimits) -> Bounds {
    let registry = prometheus::Registry::new();
    Bounds {
        connections: ConnectionLimits::default(),
        addresses: addresses(),
        ended: Bounds::registered(&registry, "odds", "rest").unwrap(),
        guard: None,
        certificate: None,
        limits,
        access,
        liveness: Arc::default(),
    }
}

fn state(folder: &TempDir, snapshots: Recipient<GetSnapshot>, metrics: &OddsMetrics) -> OddsState {
    let limits = ReadLimits {
        at_once: 1,
        waiting: 10,
        unknown_ttl: HOUR,
    };
    let file = folder.path().join("test.db");
    let store = Arc::new(SqliteStore::open(&file.to_string_lossy()).unwrap());
    OddsState {
        queries: Arc::new(OddsQueries {
            snapshots,
            snapshot_timeout: HOUR,
            feed: Arc::new(FeedState::in_process(metrics.feed_live.clone())),
            restrictions: Arc::default(),
            store: store.clone(),
            reads: Arc::new(ClientReads::new(
                limits,
                metrics.client_reads_refused.clone(),
            )),
        }),
        results: store,
        session_permits: Arc::new(Semaphore::new(100)),
        next_session: Arc::new(AtomicU64::new(1)),
        max_sessions: 100,
        frames: Arc::new(FrameLimits {
            largest: 16_384,
            frames_per_second: 20_000,
            bytes_per_second: 1_000_000,
            unfinished: UnfinishedBytes::new(1_000_000),
        }),
        addresses: addresses(),
        allowed_origins: Vec::new(),
        metrics: metrics.clone(),
    }
}

/// A token that is issued now and expires in so long.
fn token_for(user: &str, scopes: &[Scope], lifetime: Duration) -> String {
    let now = Timestamp::now();
    let claims = TokenClaims {
        user: UserId::new(user).unwrap(),
        scopes: scopes.iter().copied().collect(),
        issued_at: now,
        expires_at: now.later_by(lifetime),
        issuer: None,
        audience: None,
    };
    let key = SigningKey::of_secret(&SecretString::from(testing::SECRET)).unwrap();
    key.sign(&claims).unwrap()
}

fn token(user: &str) -> String {
    token_for(user, &[Scope::OddsRead], HOUR)
}

fn auth(credential: &str) -> String {
    json!({"type": "auth", "token": credential}).to_string()
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// What a client gets next: a message, or the code and the reason of the close frame.
type Received = Result<Value, (u16, String)>;

impl Client {
    /// Connects without a credential.
    async fn connect(served: &Served) -> Client {
        Client::open(served, "", &[]).await.unwrap()
    }

    /// Connects; an error is the status and the code of the refusal.
    async fn open(
        served: &Served,
        query: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Client, (u16, String)> {
        let url = format!("ws://{}/ws/odds{query}", served.address);
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers_mut().insert(*name, value);
        }
        match within(connect_async(request)).await {
            Ok((socket, _)) => Ok(Client(socket)),
            Err(Error::Http(answer)) => {
                let body = answer.body().clone().unwrap_or_default();
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let code = body["code"].as_str().unwrap_or_default();
                Err((answer.status().as_u16(), code.to_owned()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    async fn next(&mut self) -> Received {
        loop {
            match within(self.0.next()).await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err((frame.code.into(), frame.reason.to_string()));
                }
                Some(Ok(_)) => {}
                other => panic!("the connection broke off: {other:?}"),
            }
        }
    }

    /// The type of the next message, or the code of an error.
    async fn kind(&mut self) -> String {
        let message = self.next().await.unwrap();
        let field = if message["type"] == "error" {
            "code"
        } else {
            "type"
        };
        message[field].as_str().unwrap().to_owned()
    }

    /// Sends a message and returns the kind of the answer.
    async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.kind().await
    }

    async fn is_closed(&mut self, code: u16, reason: &str) {
        assert_eq!(self.next().await, Err((code, reason.to_owned())));
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    let deadline = Duration::from_secs(60);
    tokio::time::timeout(deadline, future).await.unwrap()
}

fn bearer(credential: &str) -> [(&'static str, String); 1] {
    [("Authorization", format!("Bearer {credential}"))]
}

#[actix_web::test]
async fn first_message_authenticates() {
    let served = serve();
    let mut client = Client::connect(&served).await;
    assert_eq!(client.ask(SUBSCRIBE).await, "UNAUTHENTICATED");
    assert_eq!(client.ask(r#"{"type":"ping"}"#).await, "UNAUTHENTICATED");
    client.send(&auth(&token("u"))).await;
    let answer = client.next().await.unwrap();
    assert_eq!(answer["type"], "authenticated");
    let expires: Timestamp = answer["expiresAt"].as_str().unwrap().parse().unwrap();
    assert!(expires > Timestamp::now());
    assert_eq!(client.ask(SUBSCRIBE).await, "snapshot");
    let refresh = token_for("u", &[Scope::OddsRead], 2 * HOUR);
    for (credential, answer) in [
        ("eyJhbGciOi", "INVALID_CREDENTIAL"),
        (&token("v"), "OTHER_CALLER"),
        (&served.key, "OTHER_CALLER"),
        (&token_for("u", &[], HOUR), "SCOPE_REQUIRED"),
        (&refresh, "authenticated"),
    ] {
        assert_eq!(client.ask(&auth(credential)).await, answer);
    }
    assert_eq!(client.ask(r#"{"type":"ping"}"#).await, "pong");
    let count = |result| {
        let counted = &served.metrics.auth_messages;
        counted.with_label_values(&[result]).get()
    };
    let counts = ["accepted", "refreshed", "invalid", "other_caller"].map(count);
    assert_eq!(counts, [1, 1, 1, 2]);
}

#[actix_web::test]
async fn upgrade_authenticates() {
    let served = serve();
    let key = [("X-Api-Key", served.key.clone())];
    for headers in [&bearer(&token("u")), &bearer(&served.key), &key] {
        let mut client = Client::open(&served, "", headers).await.unwrap();
        assert_eq!(client.ask(SUBSCRIBE).await, "snapshot");
    }
    let no_scope = token_for("u", &[Scope::BetsRead], HOUR);
    for (headers, query, refusal) in [
        (&bearer("eyJhbGciOi")[..], "", (401, "INVALID_CREDENTIAL")),
        (&bearer(&no_scope), "", (403, "SCOPE_REQUIRED")),
        (&[], "?token=eyJhbGciOi", (400, "BAD_HANDSHAKE")),
        (
            &bearer(&token("u")),
            "?access_token=x",
            (400, "BAD_HANDSHAKE"),
        ),
    ] {
        let refused = Client::open(&served, query, headers).await.err().unwrap();
        assert_eq!((refused.0, &*refused.1), refusal);
    }
    let count = |code| {
        let counted = &served.metrics.refused_upgrades;
        counted.with_label_values(&[code]).get()
    };
    let counts = ["INVALID_CREDENTIAL", "SCOPE_REQUIRED", "BAD_HANDSHAKE"].map(count);
    assert_eq!(counts, [1, 1, 2]);
}

#[actix_web::test]
async fn bad_first_credential_closes() {
    let served = serve();
    for (credential, error, code, reason) in [
        (
            "eyJhbGciOi",
            "INVALID_CREDENTIAL",
            3_500,
            "invalid credential",
        ),
        (
            &token_for("u", &[Scope::BetsRead], HOUR),
            "SCOPE_REQUIRED",
            3_502,
            "scope odds:read required",
        ),
    ] {
        let mut client = Client::connect(&served).await;
        assert_eq!(client.ask(&auth(credential)).await, error);
        client.is_closed(code, reason).await;
    }
}

#[actix_web::test]
async fn silent_client_is_closed() {
    let served = serve_with(false, Duration::from_secs(2));
    let message = auth(&token("u"));
    let mut in_time = Client::connect(&served).await;
    assert_eq!(in_time.ask(&message).await, "authenticated");
    let mut silent = Client::connect(&served).await;
    silent.is_closed(3_501, "not authenticated in time").await;
    assert_eq!(in_time.ask(r#"{"type":"ping"}"#).await, "pong");
}

#[actix_web::test]
async fn expired_session_is_closed() {
    let served = serve();
    let short = token_for("u", &[Scope::OddsRead], Duration::from_secs(2));
    let mut expires = Client::open(&served, "", &bearer(&short)).await.unwrap();
    let mut refreshes = Client::connect(&served).await;
    assert_eq!(refreshes.ask(&auth(&short)).await, "authenticated");
    assert_eq!(refreshes.ask(&auth(&token("u"))).await, "authenticated");
    expires.is_closed(3_005, "credential expired").await;
    assert_eq!(refreshes.ask(r#"{"type":"ping"}"#).await, "pong");
    until("the end is counted", || {
        let closes = &served.metrics.closes;
        closes.with_label_values(&["credential expired"]).get() == 1
    })
    .await;
}

/// On all threads, also sessions of public odds that have authenticated.
#[actix_web::test]
async fn revoked_callers_are_closed() {
    for odds_public in [true, false] {
        let served = serve_with(odds_public, HOUR);
        let by_header = bearer(&token("u"));
        let mut revoked = Vec::new();
        for _ in 0..4 {
            revoked.push(Client::open(&served, "", &by_header).await.unwrap());
            let mut client = Client::connect(&served).await;
            assert_eq!(client.ask(&auth(&token("u"))).await, "authenticated");
            revoked.push(client);
            revoked.push(
                Client::open(&served, "", &bearer(&served.key))
                    .await
                    .unwrap(),
            );
        }
        for client in &mut revoked {
            assert_eq!(client.ask(SUBSCRIBE).await, "snapshot");
        }
        let mut other = Client::open(&served, "", &bearer(&token("v")))
            .await
            .unwrap();
        let until = Timestamp::now().later_by(Duration::from_secs(1));
        let revocations = Revocations {
            users: [(UserId::new("u").unwrap(), until)].into(),
            keys: ["1".to_owned()].into(),
        };
        let changed = RevocationsChanged(Arc::new(revocations));
        served.registry.send(changed).await.unwrap();
        for client in &mut revoked {
            client.is_closed(3_500, "credential revoked").await;
        }
        assert_eq!(other.ask(SUBSCRIBE).await, "snapshot");
    }
}

/// Nothing changes for clients that know nothing of credentials.
#[actix_web::test]
async fn public_odds_need_no_credential() {
    let served = serve_with(true, Duration::from_millis(1));
    let mut client = Client::connect(&served).await;
    assert_eq!(client.ask(SUBSCRIBE).await, "snapshot");
    let mut bad = Client::connect(&served).await;
    assert_eq!(bad.ask(SUBSCRIBE).await, "snapshot");
    assert_eq!(bad.ask(&auth("eyJhbGciOi")).await, "INVALID_CREDENTIAL");
    bad.is_closed(3_500, "invalid credential").await;
    assert_eq!(client.ask(&auth(&served.key)).await, "authenticated");
    assert_eq!(client.ask(r#"{"type":"ping"}"#).await, "pong");
}

fn request_limits(address: RequestRate, open_sockets: usize) -> RequestLimits {
    let unlimited = RateRule::Set(RequestRate {
        per_second: 0,
        burst: 0,
    });
    let rules = RequestRules {
        address: RateRule::Set(address),
        read: unlimited,
        write: unlimited,
        sockets: unlimited,
        open_sockets: AddressLimit::Set(open_sockets),
    };
    let refused = RequestLimits::registered(&prometheus::Registry::new(), "odds").unwrap();
    RequestLimits::new(&rules, addresses(), refused)
}

/// However they authenticate.
#[actix_web::test]
async fn sessions_of_caller_are_limited() {
    let many = RequestRate {
        per_second: 1_000,
        burst: 1_000,
    };
    let served = serve_limited(true, HOUR, request_limits(many, 2));
    let by_header = bearer(&token("u"));
    let _first = Client::open(&served, "", &by_header).await.unwrap();
    let mut second = Client::connect(&served).await;
    assert_eq!(second.ask(&auth(&token("u"))).await, "authenticated");
    // A refresh takes no further session.
    assert_eq!(second.ask(&auth(&token("u"))).await, "authenticated");
    let refused = Client::open(&served, "", &by_header).await.err().unwrap();
    let expected = (429, "TOO_MANY_SESSIONS_OF_CALLER".to_owned());
    assert_eq!(refused, expected);
    let mut third = Client::connect(&served).await;
    let answer = third.ask(&auth(&token("u"))).await;
    assert_eq!(answer, "TOO_MANY_SESSIONS_OF_CALLER");
    third.is_closed(1_013, "too many sessions").await;
    let mut other = Client::connect(&served).await;
    assert_eq!(other.ask(&auth(&token("v"))).await, "authenticated");
}

/// A bad token in a message costs as much as one in a header.
#[actix_web::test]
async fn bad_messages_count_against_address() {
    let few = RequestRate {
        per_second: 1,
        burst: 200,
    };
    let served = serve_limited(true, HOUR, request_limits(few, 0));
    let mut checked = 0;
    let refused = loop {
        match Client::open(&served, "", &[]).await {
            Ok(mut client) => match client.ask(&auth("eyJhbGciOi")).await.as_str() {
                "INVALID_CREDENTIAL" => checked += 1,
                answer => assert_eq!(answer, "RATE_LIMITED"),
            },
            Err(refused) => break refused,
        }
        assert!(checked < 100, "each one counts as one request");
    };
    assert_eq!(refused, (429, "TOO_MANY_REQUESTS".to_owned()));
}

/// On an open socket too: a credential above the limit of its address is not checked.
#[actix_web::test]
async fn guesses_on_open_socket_are_refused() {
    let few = RequestRate {
        per_second: 1,
        burst: 60,
    };
    let served = serve_limited(true, HOUR, request_limits(few, 0));
    let mut client = Client::connect(&served).await;
    assert_eq!(client.ask(&auth(&token("u"))).await, "authenticated");
    let mut checked = 0;
    while client.ask(&auth("eyJhbGciOi")).await != "RATE_LIMITED" {
        checked += 1;
        assert!(checked < 60, "each one counts as one request");
    }
    let count = |result| {
        let counted = &served.metrics.auth_messages;
        counted.with_label_values(&[result]).get()
    };
    assert_eq!(
        ["accepted", "invalid", "rate_limited"].map(count),
        [1, checked, 1]
    );
    // The credential of the session stays valid.
    assert_eq!(client.ask(r#"{"type":"ping"}"#).await, "pong");
    let refused = Client::open(&served, "", &[]).await.err().unwrap();
    assert_eq!(refused, (429, "TOO_MANY_REQUESTS".to_owned()));
}
