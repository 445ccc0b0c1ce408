//! `/v1/events/{id}/results`: the results of an event's markets.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use serde::Serialize;

use super::state::OddsState;
use crate::domain::ids::{EventId, MarketKey, MarketName, SelectionId, Source};
use crate::domain::odds::price::Line;
use crate::domain::settlement::market_results::MarketResults;
use crate::domain::settlement::record::{Certainty, Outcome, SelectionResult};
use crate::domain::settlement::shown::{Cancellation, SourceResult};
use crate::domain::timestamp::Timestamp;
use crate::http::errors::ApiError;
use crate::http::revalidation::revalidate;
use crate::store::blocking::blocking;

/// Maximum number of records that are read for one response: those of many markets, with corrections.
const MAX_RECORDS: usize = 10_000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResultsBody<'a> {
    event_id: &'a EventId,
    markets: Vec<MarketBody<'a>>,
}

/// The results of a market, by source.
#[derive(Serialize)]
struct MarketBody<'a> {
    market: &'a MarketName,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<Line>,
    results: Vec<ResultBody<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cancellations: Vec<CancellationBody<'a>>,
}

/// What a source says now about the bets of a round.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResultBody<'a> {
    source: &'a Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    bets_from: Option<Timestamp>,
    updated_at: Timestamp,
    certainty: Certainty,
    winners: Vec<&'a SelectionId>,
    losers: Vec<&'a SelectionId>,
    voids: Vec<&'a SelectionId>,
    selections: &'a [SelectionResult],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    contradictory: bool,
}

/// A cancellation, or its rollback.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CancellationBody<'a> {
    source: &'a Source,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    updated_at: Timestamp,
}

impl<'a> ResultBody<'a> {
    fn of(result: &'a SourceResult) -> ResultBody<'a> {
        let with = |is_meant: fn(&Outcome) -> bool| {
            let selections = result.selections.iter();
            selections
                .filter(|one| is_meant(&one.outcome))
                .map(|one| &one.id)
                .collect()
        };
        ResultBody {
            source: &result.source,
            bets_from: result.bets_from,
            updated_at: result.updated_at,
            certainty: result.certainty,
            winners: with(|outcome| matches!(outcome, Outcome::Won(_))),
            losers: with(|outcome| matches!(outcome, Outcome::Lost { .. })),
            voids: with(|outcome| matches!(outcome, Outcome::Void { .. })),
            selections: &result.selections,
            contradictory: result.is_contradictory,
        }
    }
}

impl<'a> CancellationBody<'a> {
    fn of(cancellation: &'a Cancellation) -> CancellationBody<'a> {
        CancellationBody {
            source: &cancellation.source,
            kind: if cancellation.is_rollback {
                "rollback_cancel"
            } else {
                "cancel"
            },
            from: cancellation.window.from(),
            until: cancellation.window.until(),
            reason: cancellation.reason.as_deref(),
            updated_at: cancellation.updated_at,
        }
    }
}

/// `GET /v1/events/{id}/results`: what each source says about the markets of an event, whether it is
/// paid or not; empty until the first result.
pub(crate) async fn get_results(
    state: web::Data<OddsState>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let event_id = EventId::new(&path).map_err(|_| ApiError::EventNotFound(path.clone()))?;
    let stored = {
        let store = state.results.clone();
        let id = event_id.clone();
        let _turn = state.queries.reads.enter()?.turn().await?;
        blocking(move || store.event_results(&id, MAX_RECORDS)).await?
    };
    if stored.is_empty() {
        // An unknown event is an error.
        state.queries.book(&path).await?;
    }
    let mut markets: BTreeMap<MarketKey, MarketResults> = BTreeMap::new();
    for stored in stored {
        let market = markets.entry(stored.record.market.clone()).or_default();
        market.insert(stored.record);
    }
    let markets: Vec<_> = markets
        .into_iter()
        .map(|(market, results)| (market, results.by_source(), results.cancellations()))
        .collect();
    let body = ResultsBody {
        event_id: &event_id,
        markets: markets
            .iter()
            .map(|(market, results, cancellations)| MarketBody {
                market: &market.name,
                line: market.line,
                results: results.iter().map(ResultBody::of).collect(),
                cancellations: cancellations.iter().map(CancellationBody::of).collect(),
            })
            .collect(),
    };
    Ok(HttpResponse::Ok().insert_header(revalidate()).json(body))
}
