//! Updates for tests.

use proptest::prelude::*;
use strum::VariantArray;

use super::*;
use crate::domain::ids::MarketName;
use crate::domain::odds::price::Line;

/// A `1x2` update of `MATCH_00<event>` at second `time` with version `version`. Its home price
/// encodes both.
pub(crate) fn update(event: u32, time: i64, version: i64) -> OddsUpdate {
    market_update(&format!("MATCH_{event:03}"), "1x2", None, time, version)
}

/// An update of any market.
pub(crate) fn market_update(
    event: &str,
    market: &str,
    line: Option<&str>,
    time: i64,
    version: i64,
) -> OddsUpdate {
    let home = 1_100 + (time.rem_euclid(500) * 100 + version.rem_euclid(100)) as u32;
    let selection = |id: &str, price: u32| Selection {
        id: SelectionId::new(id).unwrap(),
        name: id.to_owned(),
        price: Price::from_thousandths(price),
        status: SelectionStatus::Active,
    };
    OddsUpdate {
        event_id: EventId::new(event).unwrap(),
        home_team: "Flamengo".to_owned(),
        away_team: "Palmeiras".to_owned(),
        sport: None,
        start_time: None,
        market: MarketKey {
            name: MarketName::new(market).unwrap(),
            line: line.map(|line| line.parse().unwrap()),
        },
        status: MarketStatus::Open,
        in_play: false,
        selections: vec![
            selection("home", home),
            selection("draw", 3_200),
            selection("away", 4_500),
        ],
        revision: Revision {
            updated_at: Timestamp::from_millis(1_762_722_465_000 + time * 1_000).unwrap(),
            version,
        },
        source: Source::new("test").unwrap(),
    }
}

/// Any valid update.
pub(crate) fn any_update() -> impl Strategy<Value = OddsUpdate> {
    let selection = (
        "[a-zA-Z0-9_. ]{0,8}x",
        "\\PC{0,12}",
        proptest::option::of(1_001u32..=1_000_000),
        0usize..6,
    )
        .prop_map(|(id, name, price, status)| Selection {
            id: SelectionId::new(id.trim_start()).unwrap(),
            name,
            price: price.and_then(Price::from_thousandths),
            status: SelectionStatus::VARIANTS[status],
        });
    (
        "[A-Z0-9._]{1,20}",
        ("\\PC{0,20}", "\\PC{0,20}"),
        (
            "[a-z0-9_]{1,12}",
            proptest::option::of(-100_000i32..100_000),
        ),
        (0usize..5, any::<bool>()),
        proptest::collection::vec(selection, 1..6),
        (0i64..4_000_000_000_000_000, any::<i64>()),
        (
            proptest::option::of("[a-z]{1,8}( [a-z]{1,8})?"),
            proptest::option::of(0i64..4_000_000_000_000_000),
        ),
    )
        .prop_map(
            |(
                event,
                teams,
                market,
                (status, in_play),
                mut selections,
                (micros, version),
                (sport, start),
            )| {
                let mut seen = std::collections::HashSet::new();
                selections.retain(|selection| seen.insert(selection.id.clone()));
                OddsUpdate {
                    event_id: EventId::new(&event).unwrap(),
                    home_team: teams.0,
                    away_team: teams.1,
                    sport: sport.map(Into::into),
                    start_time: start.and_then(Timestamp::from_micros),
                    market: MarketKey {
                        name: MarketName::new(&market.0).unwrap(),
                        line: market.1.and_then(Line::from_thousandths),
                    },
                    status: MarketStatus::VARIANTS[status],
                    in_play,
                    selections,
                    revision: Revision {
                        updated_at: Timestamp::from_micros(micros).unwrap(),
                        version,
                    },
                    source: Source::new("any").unwrap(),
                }
            },
        )
}
