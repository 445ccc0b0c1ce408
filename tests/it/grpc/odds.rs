//! `ListEvents`, `GetOdds` and `GetHistory`.

use pretty_assertions::assert_eq;
use serde_json::json;

use super::{Fixture, market, market_of};
use crate::support::grpc::{call, odds_api, refusal, v1};
use crate::support::{get_json, until};

/// The same as REST shows.
#[actix_web::test]
async fn odds_are_those_of_rest() {
    let mut fixture = Fixture::odds(&[]).await;
    fixture.show(market("E", 1, 1.5)).await;
    fixture.show(market_of("E", "btts", 2, 1.85)).await;
    let mut api = odds_api(&fixture.platform).await;
    let request = || v1::GetOddsRequest {
        event_id: "E".to_owned(),
    };
    let shown = api
        .get_odds(call(request(), &[]))
        .await
        .unwrap()
        .into_inner();
    let (_, rest) = get_json(&fixture.platform.url("/v1/events/E/odds")).await;
    let markets = shown.markets.iter().map(|market| {
        let odds = market.odds.as_ref().unwrap();
        let home = odds.selections[0].price.as_ref().unwrap();
        assert_eq!(
            f64::from(home.price_thousandths) / 1_000.0,
            home.text.parse::<f64>().unwrap()
        );
        json!([
            odds.market.as_ref().unwrap().name,
            market.seq,
            odds.version,
            home.text.parse::<f64>().unwrap(),
            market.stale
        ])
    });
    let markets: Vec<_> = markets.collect();
    let expected = rest.as_array().unwrap().iter().map(|odds| {
        json!([
            odds["market"],
            odds["seq"],
            odds["version"],
            odds["home_odd"].as_f64().or(odds["homeOdd"].as_f64()),
            false
        ])
    });
    assert_eq!(markets, expected.collect::<Vec<_>>());
    assert_eq!(
        (shown.seq, shown.stale),
        (shown.markets.iter().map(|it| it.seq).max().unwrap(), false)
    );
    let time = shown.markets[0].odds.as_ref().unwrap().updated_at.unwrap();
    assert_eq!((time.seconds, time.nanos), (1_762_722_001, 0));

    let events = until("the event is stored", || async {
        let list = v1::ListEventsRequest::default();
        let events = odds_api(&fixture.platform)
            .await
            .list_events(call(list, &[]))
            .await;
        let events = events.unwrap().into_inner().events;
        events
            .first()
            .is_some_and(|it| it.open_markets == 2)
            .then_some(events)
    })
    .await;
    assert_eq!(events[0].home_team, "Flamengo");
    assert_eq!(events[0].status(), v1::EventStatus::Upcoming);
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn lists_have_pages() {
    let mut fixture = Fixture::odds(&[]).await;
    for event in ["A", "B", "C"] {
        fixture.show(market(event, 1, 1.5)).await;
    }
    for version in 2..=5 {
        fixture
            .show(market("A", version, 1.5 + version as f64))
            .await;
    }
    let mut api = odds_api(&fixture.platform).await;
    let key = || v1::MarketKey {
        name: "1x2".to_owned(),
        line: None,
    };
    until("the history is stored", || async {
        let all = v1::GetHistoryRequest {
            event_id: "A".to_owned(),
            market: Some(key()),
            ..Default::default()
        };
        let answer = odds_api(&fixture.platform)
            .await
            .get_history(call(all, &[]))
            .await;
        answer
            .is_ok_and(|it| it.into_inner().entries.len() == 5)
            .then_some(())
    })
    .await;
    let (mut token, mut versions) = (String::new(), Vec::new());
    loop {
        let page = v1::GetHistoryRequest {
            event_id: "A".to_owned(),
            market: Some(key()),
            page_size: 2,
            page_token: token,
            ..Default::default()
        };
        let page = api.get_history(call(page, &[])).await.unwrap().into_inner();
        assert!(page.entries.len() <= 2);
        versions.extend(page.entries.iter().map(|it| it.version));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(versions, [1, 2, 3, 4, 5]);
    let (mut token, mut events) = (String::new(), Vec::new());
    loop {
        let page = v1::ListEventsRequest {
            page_size: 2,
            page_token: token,
            ..Default::default()
        };
        let page = api.list_events(call(page, &[])).await.unwrap().into_inner();
        events.extend(page.events.into_iter().map(|it| it.event_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(events, ["A", "B", "C"]);
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn wrong_requests_are_refused() {
    let mut fixture = Fixture::odds(&[]).await;
    fixture.show(market("E", 1, 1.5)).await;
    let mut api = odds_api(&fixture.platform).await;
    let odds = |event: &str| v1::GetOddsRequest {
        event_id: event.to_owned(),
    };
    for unknown in ["NONE", "", "\u{0}"] {
        let refused = api.get_odds(call(odds(unknown), &[])).await.unwrap_err();
        assert_eq!(refusal(&refused), "NotFound EVENT_NOT_FOUND", "{unknown:?}");
    }
    let history = |event: &str, market: &str| v1::GetHistoryRequest {
        event_id: event.to_owned(),
        market: Some(v1::MarketKey {
            name: market.to_owned(),
            line: None,
        }),
        ..Default::default()
    };
    until("the market is stored", || async {
        let mut api = odds_api(&fixture.platform).await;
        api.get_history(call(history("E", "1x2"), &[]))
            .await
            .is_ok()
            .then_some(())
    })
    .await;
    for (request, expected) in [
        (history("NONE", "1x2"), "NotFound EVENT_NOT_FOUND"),
        (history("E", "none"), "NotFound MARKET_NOT_FOUND"),
        (history("", "1x2"), "InvalidArgument BAD_REQUEST"),
        (history("E", ""), "InvalidArgument BAD_REQUEST"),
        (
            v1::GetHistoryRequest {
                market: None,
                ..history("E", "1x2")
            },
            "InvalidArgument BAD_REQUEST",
        ),
        (
            v1::GetHistoryRequest {
                page_size: 1_001,
                ..history("E", "1x2")
            },
            "InvalidArgument BAD_REQUEST",
        ),
        (
            v1::GetHistoryRequest {
                page_token: "x".to_owned(),
                ..history("E", "1x2")
            },
            "InvalidArgument BAD_REQUEST",
        ),
        (
            v1::GetHistoryRequest {
                from: Some(prost_types::Timestamp {
                    seconds: i64::MAX,
                    nanos: 0,
                }),
                ..history("E", "1x2")
            },
            "InvalidArgument BAD_REQUEST",
        ),
        (
            v1::GetHistoryRequest {
                to: Some(prost_types::Timestamp {
                    seconds: 0,
                    nanos: -1,
                }),
                ..history("E", "1x2")
            },
            "InvalidArgument BAD_REQUEST",
        ),
    ] {
        let shown = format!("{request:?}");
        let refused = api.get_history(call(request, &[])).await.unwrap_err();
        assert_eq!(refusal(&refused), expected, "{shown}");
    }
    let list = v1::ListEventsRequest {
        status: 9,
        ..Default::default()
    };
    let refused = api.list_events(call(list, &[])).await.unwrap_err();
    assert_eq!(refusal(&refused), "InvalidArgument BAD_REQUEST");
    assert!(refused.message().contains("status"), "{refused:?}");
    fixture.platform.stop().await;
}
