//! The body of a request to place a bet.

use actix_web::HttpRequest;
use serde::Deserialize;

use crate::domain::bets::bet::BetRequest;
use crate::domain::ids::MarketKey;
use crate::http::body::{self, Field};
use crate::http::errors::ApiError;
use crate::http::idempotency;
use crate::services::bets::placement::PlaceBet;

/// The body of a request to place a bet.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BetBody {
    user_id: Field,
    event_id: Field,
    market: Field,
    line: Field,
    selection: Field,
    #[serde(rename = "stake_cents")]
    stake_cents: Field,
    #[serde(rename = "odd_value")]
    odd_value: Field,
    odds_change: Field,
    request_id: Field,
}

impl BetBody {
    /// Reads the command. `request` may have the idempotency key in a header.
    pub(super) fn command(&self, request: &HttpRequest) -> Result<PlaceBet, ApiError> {
        Ok(PlaceBet {
            request: self.bet()?,
            key: idempotency::key(request.headers(), &self.request_id)?,
        })
    }

    fn bet(&self) -> Result<BetRequest, ApiError> {
        let price = body::number("odd_value", &self.odd_value)?
            .ok_or_else(|| body::missing("odd_value"))?;
        Ok(BetRequest {
            user_id: body::text("userId", &self.user_id)?,
            event_id: body::text("eventId", &self.event_id)?,
            market: MarketKey {
                name: body::text("market", &self.market)?,
                line: body::number("line", &self.line)?,
            },
            selection: body::text("selection", &self.selection)?,
            stake: body::amount("stake_cents", &self.stake_cents)?,
            price,
            odds_change: body::optional("oddsChange", &self.odds_change)?.unwrap_or_default(),
        })
    }
}
