//! The body of a request to place a bet.

use actix_web::HttpRequest;
use serde::Deserialize;

use crate::domain::access::Caller;
use crate::domain::bets::bet::BetRequest;
use crate::domain::ids::{MarketKey, UserId};
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
    /// Reads the command of a caller. `request` may have the idempotency key in a header.
    pub(super) fn command(
        &self,
        caller: &Caller,
        request: &HttpRequest,
    ) -> Result<PlaceBet, ApiError> {
        Ok(PlaceBet {
            request: self.bet(caller)?,
            key: idempotency::key(request.headers(), &self.request_id)?,
        })
    }

    /// The user who bets: `userId`, else the caller's own user.
    fn user(&self, caller: &Caller) -> Result<UserId, ApiError> {
        let named: Option<UserId> = body::optional("userId", &self.user_id)?;
        let user = named
            .or_else(|| caller.own_user().cloned())
            .ok_or_else(|| body::missing("userId"))?;
        caller.act_for(&user)?;
        Ok(user)
    }

    fn bet(&self, caller: &Caller) -> Result<BetRequest, ApiError> {
        let price = body::number("odd_value", &self.odd_value)?
            .ok_or_else(|| body::missing("odd_value"))?;
        Ok(BetRequest {
            user_id: self.user(caller)?,
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
