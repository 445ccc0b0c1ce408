//! What callers may do: as over REST.

use std::time::Duration;

use pretty_assertions::assert_eq;
use sports_bet_platform::config::settings::Role;
use tonic::Request;

use super::watch::{Narrow, overflow};
use super::{Fixture, market};
use crate::support::grpc::{Stream, bets_api, call, odds_api, refusal, v1, wallet_api, watched};
use crate::support::{Folder, command, until, within};

const AUTH: [(&str, &str); 2] = [
    ("AUTH", "required"),
    (
        "AUTH_JWT_SECRET",
        "the shared secret of this test, of 32 bytes or more",
    ),
];

/// What a command prints.
async fn printed(folder: &Folder, arguments: &[&str]) -> String {
    let own = folder.variables();
    let own = own
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let variables: Vec<_> = own.chain(AUTH).collect();
    let mut command = command(folder.path(), &variables);
    let output = within("a command", command.args(arguments).output())
        .await
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

async fn token(folder: &Folder, user: &str, scopes: &str) -> String {
    let token = printed(folder, &["token", "--user", user, "--scope", scopes]).await;
    format!("Bearer {token}")
}

async fn key(folder: &Folder, scopes: &str) -> String {
    printed(
        folder,
        &["key", "create", "--note", "test", "--scope", scopes],
    )
    .await
}

/// A request with a token.
fn with<T>(message: T, token: &str) -> Request<T> {
    call(message, &[("authorization", token)])
}

fn bet(user: &str) -> v1::PlaceBetRequest {
    v1::PlaceBetRequest {
        user_id: user.to_owned(),
        event_id: "E".to_owned(),
        market: Some(v1::MarketKey {
            name: "1x2".to_owned(),
            line: None,
        }),
        selection_id: "home".to_owned(),
        stake_cents: 100,
        price: Some(v1::Price {
            price_thousandths: 1_500,
            text: String::new(),
        }),
        odds_change: 0,
    }
}

async fn checked(roles: &str, odds_public: &str) -> Fixture {
    checked_with(roles, odds_public, &[]).await
}

async fn checked_with(roles: &str, odds_public: &str, more: &[(&str, &str)]) -> Fixture {
    let settings = [&AUTH[..], &[("ODDS_PUBLIC", odds_public)], more].concat();
    let fixture = Fixture::start(roles, &settings).await;
    // Until credentials were read once, none is accepted.
    let first = key(&fixture.platform.folder, "odds:read").await;
    until("keys are read", || async {
        let request = v1::ListEventsRequest::default();
        let request = call(request, &[("x-api-key", first.as_str())]);
        let mut api = odds_api(&fixture.platform).await;
        api.list_events(request).await.is_ok().then_some(())
    })
    .await;
    fixture
}

#[actix_web::test]
async fn methods_require_their_scopes() {
    let fixture = checked(",wallet,bets,confirmation", "false").await;
    let folder = &fixture.platform.folder;
    // Neither scope is that of a method of the other services.
    let only_bets = token(folder, "u", "bets:read").await;
    let only_odds = token(folder, "u", "odds:read").await;
    let money = "wallet:read,bets:read,bets:write,odds:read,wallet:move";
    let all = token(folder, "u", money).await;
    let mut odds = odds_api(&fixture.platform).await;
    let mut wallet = wallet_api(&fixture.platform).await;
    let mut bets = bets_api(&fixture.platform).await;
    let mut seen = Vec::new();
    for token in ["", "Bearer x.y.z", "without"] {
        macro_rules! code {
            ($api:ident.$method:ident($message:expr)) => {{
                let sent = match (token, stringify!($api)) {
                    ("without", "odds") => only_bets.as_str(),
                    ("without", _) => &only_odds,
                    (other, _) => other,
                };
                let metadata = [("authorization", sent)];
                let metadata = &metadata[usize::from(token.is_empty())..];
                let refused = $api.$method(call($message, metadata)).await;
                let refused = refused.map(|_| ()).unwrap_err();
                seen.push((token, refusal(&refused)));
            }};
        }
        code!(odds.list_events(v1::ListEventsRequest::default()));
        code!(odds.get_odds(v1::GetOddsRequest::default()));
        code!(odds.get_history(v1::GetHistoryRequest::default()));
        code!(odds.watch_odds(v1::WatchOddsRequest::default()));
        code!(wallet.get_wallet(v1::GetWalletRequest::default()));
        code!(wallet.list_transfers(v1::ListTransfersRequest::default()));
        code!(wallet.list_reservations(v1::ListReservationsRequest::default()));
        code!(wallet.deposit(v1::DepositRequest::default()));
        code!(wallet.withdraw(v1::WithdrawRequest::default()));
        code!(wallet.reserve(v1::ReserveRequest::default()));
        code!(wallet.commit_reservation(v1::CommitReservationRequest::default()));
        code!(wallet.refund_reservation(v1::RefundReservationRequest::default()));
        code!(bets.place_bet(v1::PlaceBetRequest::default()));
        code!(bets.get_bet(v1::GetBetRequest::default()));
        code!(bets.list_bets(v1::ListBetsRequest::default()));
    }
    assert_eq!(seen.len(), 45);
    for (token, code) in seen {
        let expected = match token {
            "" => "Unauthenticated UNAUTHENTICATED",
            "Bearer x.y.z" => "Unauthenticated INVALID_CREDENTIAL",
            _ => "PermissionDenied SCOPE_REQUIRED",
        };
        assert_eq!(code, expected, "{token}");
    }
    // Money is moved by services only.
    let deposit = v1::DepositRequest {
        user_id: "u".to_owned(),
        amount_cents: 1,
        external_ref: String::new(),
    };
    let refused = wallet.deposit(with(deposit, &all)).await.unwrap_err();
    assert_eq!(refusal(&refused), "PermissionDenied SCOPE_REQUIRED");
    fixture.platform.stop().await;
}

/// A bet of another user and one that does not exist look the same.
#[actix_web::test]
async fn foreign_bet_does_not_exist() {
    let mut fixture = checked(",wallet,bets,confirmation", "true").await;
    fixture.show(market("E", 1, 1.5)).await;
    let folder = &fixture.platform.folder;
    let scopes = "bets:read,bets:write,wallet:read";
    let (u, other) = (
        token(folder, "u", scopes).await,
        token(folder, "other", scopes).await,
    );
    let operator = token(folder, "boss", "operator:*").await;
    let service = key(folder, "wallet:move").await;
    let mut wallet = wallet_api(&fixture.platform).await;
    until("the key is known", || {
        let mut wallet = wallet.clone();
        let deposit = v1::DepositRequest {
            user_id: "u".to_owned(),
            amount_cents: 1_000,
            external_ref: "first".to_owned(),
        };
        let deposit = call(deposit, &[("x-api-key", service.as_str())]);
        async move { wallet.deposit(deposit).await.is_ok().then_some(()) }
    })
    .await;
    let mut bets = bets_api(&fixture.platform).await;
    // The user need not be named.
    let placed = bets.place_bet(with(bet(""), &u)).await.unwrap();
    let bet_id = placed.into_inner().bet_id;
    let get = |id: &str| v1::GetBetRequest {
        bet_id: id.to_owned(),
    };
    let missing = "018f0000-0000-7000-8000-000000000000";
    for (id, token, expected) in [
        (bet_id.as_str(), &u, "found"),
        (&bet_id, &operator, "found"),
        (&bet_id, &other, "NotFound BET_NOT_FOUND"),
        (missing, &u, "NotFound BET_NOT_FOUND"),
    ] {
        let shown = match bets.get_bet(with(get(id), token)).await {
            Ok(_) => "found".to_owned(),
            Err(status) => refusal(&status),
        };
        assert_eq!(shown, expected);
    }
    let foreign = bets.place_bet(with(bet("u"), &other)).await.unwrap_err();
    assert_eq!(refusal(&foreign), "PermissionDenied OTHER_USER");
    let operator_bets = bets.place_bet(with(bet("u"), &operator)).await;
    assert_eq!(
        refusal(&operator_bets.unwrap_err()),
        "PermissionDenied SCOPE_REQUIRED"
    );
    let foreign = v1::GetWalletRequest {
        user_id: "u".to_owned(),
    };
    let foreign = wallet.get_wallet(with(foreign, &other)).await.unwrap_err();
    assert_eq!(refusal(&foreign), "PermissionDenied OTHER_USER");
    let own = wallet.get_wallet(with(v1::GetWalletRequest::default(), &u));
    assert_eq!(own.await.unwrap().into_inner().user_id, "u");
    fixture.platform.stop().await;
}

fn watch_e() -> v1::WatchOddsRequest {
    v1::WatchOddsRequest {
        events: vec![watched("E", None)],
        ..Default::default()
    }
}

#[actix_web::test]
async fn revocation_ends_streams() {
    let mut fixture = checked("", "true").await;
    let folder = &fixture.platform.folder;
    let of_user = token(folder, "u", "odds:read").await;
    let of_other = token(folder, "other", "odds:read").await;
    let service = key(folder, "odds:read").await;
    let mut api = odds_api(&fixture.platform).await;
    let by_user = [("authorization", of_user.as_str())];
    let by_other = [("authorization", of_other.as_str())];
    let by_key = [("x-api-key", service.as_str())];
    until("the key is known", || {
        let mut api = api.clone();
        let request = call(v1::ListEventsRequest::default(), &by_key);
        async move { api.list_events(request).await.is_ok().then_some(()) }
    })
    .await;
    let mut of_user = Stream::open_as(&mut api, watch_e(), &by_user).await;
    let mut of_other = Stream::open_as(&mut api, watch_e(), &by_other).await;
    let mut of_key = Stream::open_as(&mut api, watch_e(), &by_key).await;
    for stream in [&mut of_user, &mut of_other, &mut of_key] {
        stream.snapshot().await;
    }
    // Tokens of the second in which they are issued are revoked with the next one.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    printed(folder, &["user", "revoke", "u"]).await;
    let end = of_user.end().await;
    assert_eq!(refusal(&end), "Unauthenticated CREDENTIAL_REVOKED");
    let id = printed(folder, &["key", "list"]).await;
    let id = id
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter_map(|word| word.parse::<i64>().ok())
        .max()
        .unwrap();
    printed(folder, &["key", "revoke", &id.to_string()]).await;
    let end = of_key.end().await;
    assert_eq!(refusal(&end), "Unauthenticated CREDENTIAL_REVOKED");
    fixture.show(market("E", 1, 1.5)).await;
    assert_eq!(of_other.update().await.version(), 1);
    fixture.platform.stop().await;
}

/// Nothing reaches a client that does not read. Once it reads, it learns why its stream has ended.
#[actix_web::test]
async fn revocation_is_the_end_of_an_unread_stream() {
    let settings = [("WS_SESSION_QUEUE", "4"), ("SLOW_CLIENT_LIMIT", "60s")];
    let mut fixture = checked_with("", "true", &settings).await;
    let token = token(&fixture.platform.folder, "u", "odds:read").await;
    let mut narrow = Narrow::connect(&fixture).await;
    let credential = [("authorization", token.as_str())];
    let mut unread = Stream::open_as(&mut narrow.api, watch_e(), &credential).await;
    let mut beside = Stream::open(&mut narrow.api, watch_e()).await;
    for stream in [&mut unread, &mut beside] {
        stream.snapshot().await;
    }
    overflow(&mut fixture, &mut beside).await;
    let is_one = |it: f64| it == 1.0;
    let platform = &fixture.platform;
    let stalled = "odds_ws_stalled_sessions";
    platform.until_metric(Role::Odds, stalled, is_one).await;
    // Tokens of the second in which they are issued are revoked with the next one.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    printed(&platform.folder, &["user", "revoke", "u"]).await;
    let evicted = "odds_ws_evictions_total";
    platform.until_metric(Role::Odds, evicted, is_one).await;
    let end = unread.end().await;
    assert_eq!(refusal(&end), "Unauthenticated CREDENTIAL_REVOKED");
    fixture.platform.stop().await;
}

/// A stream cannot present a later token, so it ends with the token.
#[actix_web::test]
async fn expiry_ends_stream() {
    let fixture = checked("", "true").await;
    let short = [
        "token",
        "--user",
        "u",
        "--scope",
        "odds:read",
        "--for",
        "3s",
    ];
    let short = format!("Bearer {}", printed(&fixture.platform.folder, &short).await);
    let mut api = odds_api(&fixture.platform).await;
    let mut stream = Stream::open_as(&mut api, watch_e(), &[("authorization", &short)]).await;
    stream.snapshot().await;
    assert_eq!(
        refusal(&stream.end().await),
        "Unauthenticated CREDENTIAL_EXPIRED"
    );
    fixture.platform.stop().await;
}
