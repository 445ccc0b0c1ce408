//! From the domain to messages.

mod bets;
mod odds;
mod wallet;

pub(super) use self::bets::{bet, outcome_of, placed, status_of_bet};
pub(super) use self::odds::{event, market_odds, shown_market, stream_message};
pub(super) use self::wallet::{reservation, status_of_reservation, transfer, wallet};
use super::proto::v1;
use crate::domain::ids::MarketKey;
use crate::domain::odds::price::{Line, Price};
use crate::domain::timestamp::Timestamp;

fn time(time: Timestamp) -> prost_types::Timestamp {
    let micros = time.micros();
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        // Below a thousand million.
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or_default(),
    }
}

fn price(price: Price) -> v1::Price {
    v1::Price {
        price_thousandths: price.thousandths(),
        text: price.to_string(),
    }
}

fn line(line: Line) -> v1::Line {
    v1::Line {
        line_thousandths: line.thousandths(),
        text: line.to_string(),
    }
}

fn market(key: &MarketKey) -> v1::MarketKey {
    v1::MarketKey {
        name: key.name.to_string(),
        line: key.line.map(line),
    }
}
