//! `WalletService` and `BetsService`.

use pretty_assertions::assert_eq;
use serde_json::json;
use tonic_types::StatusExt;

use super::{Fixture, market};
use crate::support::grpc::{bets_api, call, refusal, v1, wallet_api};
use crate::support::send;

const ROLES: &str = ",wallet,bets,confirmation";

fn deposit(user: &str, cents: i64, reference: &str) -> v1::DepositRequest {
    v1::DepositRequest {
        user_id: user.to_owned(),
        amount_cents: cents,
        external_ref: reference.to_owned(),
    }
}

fn bet(user: &str, stake_cents: i64, price_thousandths: u32) -> v1::PlaceBetRequest {
    v1::PlaceBetRequest {
        user_id: user.to_owned(),
        event_id: "E".to_owned(),
        market: Some(v1::MarketKey {
            name: "1x2".to_owned(),
            line: None,
        }),
        selection_id: "home".to_owned(),
        stake_cents,
        price: Some(v1::Price {
            price_thousandths,
            text: String::new(),
        }),
        odds_change: 0,
    }
}

#[actix_web::test]
async fn money_moves_once() {
    let fixture = Fixture::start(ROLES, &[]).await;
    let mut api = wallet_api(&fixture.platform).await;
    let key = [("idempotency-key", "k1")];
    for _ in 0..2 {
        let wallet = api.deposit(call(deposit("u", 1_000, ""), &key)).await;
        assert_eq!(wallet.unwrap().into_inner().balance_cents, 1_000);
    }
    // The same key over REST is the same request.
    let url = format!("http://{}/wallet/deposit", fixture.platform.wallet());
    let rest = reqwest::Client::new()
        .post(&url)
        .header("Idempotency-Key", "k1")
        .json(&json!({"userId": "u", "amount_cents": 1_000}));
    assert_eq!(send(rest).await.json()["balance_cents"], 1_000);
    let other = api.deposit(call(deposit("u", 2_000, ""), &key)).await;
    assert_eq!(
        refusal(&other.unwrap_err()),
        "Aborted IDEMPOTENCY_KEY_REUSED"
    );
    let reserve = v1::ReserveRequest {
        user_id: "u".to_owned(),
        amount_cents: 300,
        external_ref: "r1".to_owned(),
    };
    let reserved = api.reserve(call(reserve.clone(), &[])).await.unwrap();
    let reserved = reserved.into_inner();
    assert_eq!(reserved.status(), v1::ReservationStatus::Pending);
    let conflict = v1::ReserveRequest {
        amount_cents: 301,
        ..reserve.clone()
    };
    let conflict = api.reserve(call(conflict, &[])).await.unwrap_err();
    assert_eq!(refusal(&conflict), "Aborted IDEMPOTENCY_CONFLICT");
    let commit = v1::CommitReservationRequest {
        user_id: "u".to_owned(),
        external_ref: "r1".to_owned(),
    };
    let committed = api.commit_reservation(call(commit, &[])).await.unwrap();
    let committed = committed.into_inner();
    assert_eq!(committed.status(), v1::ReservationStatus::Committed);
    let refund = v1::RefundReservationRequest {
        user_id: "u".to_owned(),
        external_ref: "r1".to_owned(),
    };
    let refund = api.refund_reservation(call(refund, &[])).await.unwrap_err();
    assert_eq!(refusal(&refund), "Aborted ALREADY_COMMITTED");
    let withdraw = v1::WithdrawRequest {
        user_id: "u".to_owned(),
        amount_cents: 701,
        external_ref: String::new(),
    };
    let withdraw = api.withdraw(call(withdraw, &[])).await.unwrap_err();
    assert_eq!(refusal(&withdraw), "FailedPrecondition INSUFFICIENT_FUNDS");
    let wallet = v1::GetWalletRequest {
        user_id: "u".to_owned(),
    };
    let wallet = api
        .get_wallet(call(wallet, &[]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            wallet.balance_cents,
            wallet.reserved_cents,
            wallet.owed_cents
        ),
        (700, 0, Some(0))
    );
    let list = v1::ListTransfersRequest {
        user_id: "u".to_owned(),
        page_size: 2,
        ..Default::default()
    };
    let page = api.list_transfers(call(list.clone(), &[])).await.unwrap();
    let page = page.into_inner();
    let kinds: Vec<_> = page.transfers.iter().map(v1::Transfer::kind).collect();
    assert_eq!(kinds, [v1::TransferKind::Commit, v1::TransferKind::Reserve]);
    let next = v1::ListTransfersRequest {
        page_token: page.next_page_token,
        ..list
    };
    let next = api
        .list_transfers(call(next, &[]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next.transfers[0].kind(), v1::TransferKind::Deposit);
    assert_eq!(
        (next.transfers.len(), next.next_page_token.as_str()),
        (1, "")
    );
    let list = v1::ListReservationsRequest {
        user_id: "u".to_owned(),
        status: v1::ReservationStatus::Pending.into(),
        ..Default::default()
    };
    let pending = api.list_reservations(call(list, &[])).await.unwrap();
    assert_eq!(pending.into_inner().reservations, []);
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn wrong_amounts_and_users_are_refused() {
    let fixture = Fixture::start(ROLES, &[]).await;
    let mut api = wallet_api(&fixture.platform).await;
    for (request, expected) in [
        (deposit("u", 0, ""), "InvalidArgument INVALID_AMOUNT"),
        (deposit("u", -1, ""), "InvalidArgument INVALID_AMOUNT"),
        (deposit("", 1, ""), "InvalidArgument BAD_REQUEST"),
        (
            deposit(&"u".repeat(500), 1, ""),
            "InvalidArgument BAD_REQUEST",
        ),
        (deposit("u", 1, "\n"), "InvalidArgument BAD_REQUEST"),
    ] {
        let refused = api.deposit(call(request, &[])).await.unwrap_err();
        assert_eq!(refusal(&refused), expected);
    }
    let keys = [("idempotency-key", "a"), ("idempotency-key", "b")];
    let refused = api.deposit(call(deposit("u", 1, ""), &keys)).await;
    assert_eq!(
        refusal(&refused.unwrap_err()),
        "InvalidArgument BAD_REQUEST"
    );
    let nobody = v1::GetWalletRequest {
        user_id: "nobody".to_owned(),
    };
    let refused = api.get_wallet(call(nobody, &[])).await.unwrap_err();
    assert_eq!(refusal(&refused), "NotFound WALLET_NOT_FOUND");
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn bet_is_placed_at_current_price() {
    let mut fixture = Fixture::start(ROLES, &[]).await;
    fixture.show(market("E", 1, 1.5)).await;
    let mut wallet = wallet_api(&fixture.platform).await;
    wallet
        .deposit(call(deposit("u", 1_000, ""), &[]))
        .await
        .unwrap();
    let mut api = bets_api(&fixture.platform).await;
    let key = [("idempotency-key", "bet-1")];
    let placed = api.place_bet(call(bet("u", 300, 1_500), &key)).await;
    let placed = placed.unwrap().into_inner();
    assert_eq!(placed.balance_cents, 700);
    assert_eq!(placed.status(), v1::BetStatus::PendingConfirmation);
    fixture.show(market("E", 2, 1.6)).await;
    // A repeated request gets the first answer, also at another price.
    let again = api.place_bet(call(bet("u", 300, 1_500), &key)).await;
    assert_eq!(again.unwrap().into_inner(), placed);
    let changed = api.place_bet(call(bet("u", 300, 1_500), &[])).await;
    let changed = changed.unwrap_err();
    assert_eq!(refusal(&changed), "FailedPrecondition ODDS_CHANGED");
    let details = changed.get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!(metadata["price_thousandths"], "1600");
    let higher = v1::PlaceBetRequest {
        odds_change: v1::OddsChange::Higher.into(),
        ..bet("u", 300, 1_500)
    };
    let higher = api.place_bet(call(higher, &[])).await.unwrap().into_inner();
    assert_eq!(higher.price.unwrap().text, "1.6");
    let get = v1::GetBetRequest {
        bet_id: placed.bet_id.clone(),
    };
    let shown = api.get_bet(call(get, &[])).await.unwrap().into_inner();
    assert_eq!(
        (shown.stake_cents, shown.potential_payout_cents),
        (300, 450)
    );
    let steps: Vec<_> = shown
        .history
        .iter()
        .map(|it| (it.from(), it.to()))
        .collect();
    assert_eq!(
        steps,
        [(
            v1::BetStatus::Unspecified,
            v1::BetStatus::PendingConfirmation
        )]
    );
    let list = v1::ListBetsRequest {
        user_id: "u".to_owned(),
        ..Default::default()
    };
    let bets = api.list_bets(call(list, &[])).await.unwrap().into_inner();
    let ids: Vec<_> = bets.bets.iter().map(|it| it.bet_id.as_str()).collect();
    assert_eq!(ids, [higher.bet_id.as_str(), placed.bet_id.as_str()]);
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn refused_bets_say_why() {
    let limits = [("BET_MAX_STAKE_CENTS", "500")];
    let mut fixture = Fixture::start(ROLES, &limits).await;
    fixture.show(market("E", 1, 1.5)).await;
    let mut api = bets_api(&fixture.platform).await;
    let other = |change: fn(&mut v1::PlaceBetRequest)| {
        let mut request = bet("u", 300, 1_500);
        change(&mut request);
        request
    };
    for (request, expected) in [
        (bet("u", 300, 1_500), "NotFound WALLET_NOT_FOUND"),
        (bet("u", 501, 1_500), "FailedPrecondition STAKE_TOO_HIGH"),
        (bet("u", 0, 1_500), "InvalidArgument INVALID_AMOUNT"),
        (bet("u", 300, 1_000), "InvalidArgument BAD_REQUEST"),
        (
            other(|it| it.event_id = "NONE".to_owned()),
            "NotFound EVENT_NOT_FOUND",
        ),
        (
            other(|it| it.selection_id = "none".to_owned()),
            "NotFound SELECTION_NOT_FOUND",
        ),
        (other(|it| it.price = None), "InvalidArgument BAD_REQUEST"),
        (other(|it| it.market = None), "InvalidArgument BAD_REQUEST"),
        (
            other(|it| it.odds_change = 9),
            "InvalidArgument BAD_REQUEST",
        ),
    ] {
        let refused = api.place_bet(call(request, &[])).await.unwrap_err();
        assert_eq!(refusal(&refused), expected);
    }
    let suspended = market("E", 2, 1.5).replace(r#""open""#, r#""suspended""#);
    fixture.show(suspended).await;
    let refused = api.place_bet(call(bet("u", 300, 1_500), &[])).await;
    assert_eq!(
        refusal(&refused.unwrap_err()),
        "FailedPrecondition MARKET_SUSPENDED"
    );
    for id in ["x", "", "018f0000-0000-7000-8000-000000000000"] {
        let get = v1::GetBetRequest {
            bet_id: id.to_owned(),
        };
        let refused = api.get_bet(call(get, &[])).await.unwrap_err();
        assert_eq!(refusal(&refused), "NotFound BET_NOT_FOUND");
    }
    fixture.platform.stop().await;
}
