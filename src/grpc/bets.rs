//! `BetsService`.

use std::sync::Arc;

use super::admission::{Admission, Call, Rule};
use super::convert;
use super::method::service;
use super::proto::v1;
use super::read;
use super::status::CallError;
use crate::domain::access::Scope;
use crate::domain::bets::bet::{Bet, BetId, BetRequest, OddsChange};
use crate::http::errors::ApiError;
use crate::http::request_trace;
use crate::services::bets::placement::{PlaceBet, PlacementService};
use crate::services::bets::queries::BetQueries;
use crate::store::money::{BetFilter, Page};
use crate::telemetry::trace;

/// Default number of bets of a page.
const DEFAULT_BETS: usize = 100;
/// The longest part of an unknown id that an error repeats, in characters.
const MAX_SHOWN: usize = 80;

/// Serves `BetsService`.
#[derive(Clone)]
pub(crate) struct BetsApi {
    pub(super) admission: Admission,
    pub(super) placements: Arc<PlacementService>,
    pub(super) queries: Arc<BetQueries>,
}

service! {
    v1::bets_service_server::BetsService, for BetsApi, named "BetsService";
    "PlaceBet" place_bet(v1::PlaceBetRequest) -> v1::PlaceBetResponse: Rule::write(Scope::BetsWrite);
    "GetBet" get_bet(v1::GetBetRequest) -> v1::Bet: Rule::read(Scope::BetsRead);
    "ListBets" list_bets(v1::ListBetsRequest) -> v1::ListBetsResponse: Rule::read(Scope::BetsRead);
}

impl BetsApi {
    /// Serves bets to callers that `admission` admits.
    pub(crate) fn new(
        admission: Admission,
        placements: Arc<PlacementService>,
        queries: Arc<BetQueries>,
    ) -> BetsApi {
        BetsApi {
            admission,
            placements,
            queries,
        }
    }

    /// The methods, as in metrics.
    pub(crate) const METHODS: &'static [&'static str] = METHODS;

    async fn place_bet(
        &self,
        call: Call,
        request: v1::PlaceBetRequest,
    ) -> Result<v1::PlaceBetResponse, CallError> {
        let span = call.begin_trace("PlaceBet");
        let placing = self.place_traced(call, request);
        let answer = trace::scope(span.context(), placing).await;
        request_trace::end(span, answer.as_ref().err().map(CallError::error));
        answer
    }

    async fn place_traced(
        &self,
        call: Call,
        request: v1::PlaceBetRequest,
    ) -> Result<v1::PlaceBetResponse, CallError> {
        let odds_change = read::known("odds_change", request.odds_change, odds_change)?;
        let bet = BetRequest {
            user_id: call.user_to_act_for(&request.user_id)?,
            event_id: read::id("event_id", &request.event_id)?,
            market: read::market(request.market)?,
            selection: read::id("selection_id", &request.selection_id)?,
            stake: read::amount("stake_cents", request.stake_cents)?,
            price: read::price("price", request.price)?,
            odds_change: odds_change.unwrap_or_default(),
        };
        let key = call.key()?;
        let command = PlaceBet { request: bet, key };
        let placed = self.placements.place(command).await;
        placed
            .map(|placed| convert::placed(&placed))
            .map_err(CallError::of_placement)
    }

    async fn get_bet(&self, call: Call, request: v1::GetBetRequest) -> Result<v1::Bet, CallError> {
        let id = request.bet_id;
        let not_found = || ApiError::BetNotFound(id.chars().take(MAX_SHOWN).collect());
        let bet_id: BetId = id.parse().map_err(|_| not_found())?;
        let caller = call.caller;
        let is_visible = move |bet: &Bet| caller.sees(&bet.user_id);
        let found = self.queries.bet(bet_id, is_visible).await?;
        let (bet, history) = found.ok_or_else(not_found)?;
        Ok(convert::bet(&bet, &history))
    }

    async fn list_bets(
        &self,
        call: Call,
        request: v1::ListBetsRequest,
    ) -> Result<v1::ListBetsResponse, CallError> {
        let user_id = call.user_to_read(&request.user_id)?;
        let filter = BetFilter {
            status: read::known("status", request.status, convert::status_of_bet)?,
            outcome: read::known("outcome", request.outcome, convert::outcome_of)?,
        };
        let limit = read::page_size(request.page_size, DEFAULT_BETS)?;
        let before = read::optional("page_token", &request.page_token)?;
        let page = Page { before, limit };
        let bets = self.queries.bets(user_id, filter, page).await?;
        let last = bets.last().filter(|_| bets.len() == limit);
        Ok(v1::ListBetsResponse {
            next_page_token: last.map(|last| last.id.to_string()).unwrap_or_default(),
            bets: bets.iter().map(|bet| convert::bet(bet, &[])).collect(),
        })
    }
}

fn odds_change(change: v1::OddsChange) -> Option<OddsChange> {
    match change {
        v1::OddsChange::Unspecified => None,
        v1::OddsChange::None => Some(OddsChange::None),
        v1::OddsChange::Higher => Some(OddsChange::Higher),
        v1::OddsChange::Any => Some(OddsChange::Any),
    }
}
