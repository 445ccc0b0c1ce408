//! `/v1/events…`: reads of events, markets, current odds and their history. The original's paths
//! and fields, with additions.

use actix_web::http::header::{self, EntityTag, IfNoneMatch};
use actix_web::{HttpResponse, web};
use serde::Serialize;

use super::response_cache::{CachedResponse, ResponseCache};
use super::state::OddsState;
use crate::domain::ids::{EventId, MarketKey, MarketName, Source};
use crate::domain::odds::price::{Line, Price};
use crate::domain::odds::status::{EventStatus, MarketStatus};
use crate::domain::odds::update::Selection;
use crate::domain::timestamp::Timestamp;
use crate::http::errors::ApiError;
use crate::http::query::Query;
use crate::http::revalidation::revalidate;
use crate::services::odds::ShownMarket;
use crate::store::events::{EventQuery, EventSummary};
use crate::store::{HistoryCursor, HistoryQuery};

/// Maximum and default number of events in one response.
const MAX_EVENTS: usize = 10_000;
/// Maximum number of history rows in one response.
const MAX_HISTORY: usize = 1_000;
/// Default number of history rows in one response.
const DEFAULT_HISTORY: usize = 100;
/// Set to `true` in a response whose odds may be stale because no changes are arriving.
const STALE_HEADER: header::HeaderName = header::HeaderName::from_static("odds-stale");

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventBody {
    event_id: EventId,
    home_team: String,
    away_team: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sport: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Timestamp>,
    status: EventStatus,
    in_play: bool,
    open_markets: u64,
}

impl EventBody {
    fn of(event: EventSummary) -> EventBody {
        EventBody {
            event_id: event.event_id,
            home_team: event.home_team,
            away_team: event.away_team,
            sport: event.sport,
            start_time: event.start_time,
            status: event.status,
            in_play: event.status.is_in_play(),
            open_markets: event.open_markets,
        }
    }
}

#[derive(Serialize)]
struct MarketBody<'a> {
    market: &'a MarketName,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<Line>,
    status: MarketStatus,
    seq: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    #[serde(rename = "asOf", skip_serializing_if = "Option::is_none")]
    as_of: Option<Timestamp>,
}

impl<'a> MarketBody<'a> {
    fn of(shown: &'a ShownMarket) -> MarketBody<'a> {
        let update = &shown.state.update;
        MarketBody {
            market: &update.market.name,
            line: update.market.line,
            status: update.status,
            seq: shown.state.seq,
            stale: shown.is_stale,
            as_of: shown.as_of,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OddsBody<'a> {
    event_id: &'a EventId,
    market: &'a MarketName,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<Line>,
    #[serde(skip_serializing_if = "Option::is_none")]
    home_odd: Option<Price>,
    #[serde(skip_serializing_if = "Option::is_none")]
    draw_odd: Option<Price>,
    #[serde(skip_serializing_if = "Option::is_none")]
    away_odd: Option<Price>,
    version: i64,
    updated_at: Timestamp,
    selections: &'a [Selection],
    status: MarketStatus,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    in_play: bool,
    source: &'a Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    /// Until when the source has confirmed the odds, if it is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HistoryBody<'a> {
    entries: Vec<OddsBody<'a>>,
    next_cursor: Option<String>,
}

/// The filters of the event list.
const EVENT_FILTERS: [&str; 6] = ["status", "sport", "inPlay", "from", "to", "q"];

/// `GET /v1/events?status&sport&inPlay&from&to&q&after&limit`: the events, ordered by id; without
/// `status`, those that have not ended. If there may be more, a `Link` header leads to the next
/// page, even from a page that is not full.
pub(crate) async fn list_events(
    state: web::Data<OddsState>,
    query: Query,
) -> Result<HttpResponse, ApiError> {
    let event_query = EventQuery {
        after: query.parsed("after")?,
        limit: query.number("limit", 1, MAX_EVENTS)?.unwrap_or(MAX_EVENTS),
        status: query.parsed("status")?.unwrap_or_default(),
        in_play: query.parsed("inPlay")?,
        sport: query.parsed("sport")?,
        from: query.parsed("from")?,
        to: query.parsed("to")?,
        name: query.parsed("q")?,
    };
    let limit = event_query.limit;
    let page = state.queries.events(event_query).await?;
    let mut response = HttpResponse::Ok();
    response.insert_header(revalidate());
    if let Some(after) = &page.next {
        let mut next = url::form_urlencoded::Serializer::new(String::new());
        next.append_pair("limit", &limit.to_string());
        for filter in EVENT_FILTERS {
            query
                .text(filter)
                .map(|text| next.append_pair(filter, text));
        }
        next.append_pair("after", after.as_str());
        response.insert_header((
            header::LINK,
            // Relative, so that it is also right behind a prefix.
            format!("<?{}>; rel=\"next\"", next.finish()),
        ));
    }
    let body: Vec<_> = page.events.into_iter().map(EventBody::of).collect();
    Ok(response.json(body))
}

/// `GET /v1/events/{id}/markets`: the markets of an event, ordered by name and line.
pub(crate) async fn list_markets(
    state: web::Data<OddsState>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let book = state.queries.book(&path).await?;
    let body: Vec<_> = book.markets.iter().map(MarketBody::of).collect();
    let mut response = HttpResponse::Ok();
    mark(&mut response, book.is_stale);
    Ok(response.insert_header(revalidate()).json(body))
}

/// `GET /v1/events/{id}/odds`: the current odds of every market of an event, with an `ETag`. A
/// request with `If-None-Match` gets 304 while nothing has changed.
pub(crate) async fn get_odds(
    state: web::Data<OddsState>,
    answers: web::Data<ResponseCache>,
    path: web::Path<String>,
    known: Option<web::Header<IfNoneMatch>>,
) -> Result<HttpResponse, ApiError> {
    let known = known.map(|header| header.0);
    if state.queries.feed.is_live()
        && let Some(ready) = answers.get(&path)
    {
        state.metrics.ready_answers.inc();
        return Ok(ready.answer(known.as_ref(), |_| ()));
    }
    let book = state.queries.book(&path).await?;
    let odds = book.markets.iter().map(|shown| OddsBody {
        stale: shown.is_stale,
        as_of: shown.as_of,
        ..odds_of(&shown.state.update, Some(shown.state.seq))
    });
    let odds: Vec<_> = odds.collect();
    let unavailable = |error: &dyn std::fmt::Display| ApiError::BooksUnavailable(error.to_string());
    let body = serde_json::to_string(&odds).map_err(|error| unavailable(&error))?;
    let tag = EntityTag::new_weak(format!("{}-{:016x}", book.seq, fingerprint(&body)));
    let ready =
        CachedResponse::new(body, tag, book.versions).map_err(|error| unavailable(&error))?;
    let response = ready.answer(known.as_ref(), |response| mark(response, book.is_stale));
    if !book.is_stale {
        answers.keep(&path, ready);
    }
    Ok(response)
}

/// `GET /v1/events/{id}/markets/{market}/history?line&from&to&limit&cursor`: the odds that were
/// offered, in the supplier's order. `from` is inclusive, `to` is exclusive; `nextCursor` leads to
/// the next page while there is one.
pub(crate) async fn get_history(
    state: web::Data<OddsState>,
    path: web::Path<(String, String)>,
    query: Query,
) -> Result<HttpResponse, ApiError> {
    let (event, market) = path.into_inner();
    let not_found = |_| ApiError::MarketNotFound {
        event: event.clone(),
        market: market.clone(),
    };
    let event_id = EventId::new(&event).map_err(|_| ApiError::EventNotFound(event.clone()))?;
    let name = MarketName::new(&market).map_err(not_found)?;
    let limit = query
        .number("limit", 1, MAX_HISTORY)?
        .unwrap_or(DEFAULT_HISTORY);
    let history_query = HistoryQuery {
        event_id,
        market: MarketKey {
            name,
            line: query.parsed("line")?,
        },
        from: query.parsed("from")?,
        to: query.parsed("to")?,
        after: query.parsed("cursor")?,
        limit,
    };
    let page = state.queries.history(history_query).await?;
    let rows = &page.entries;
    let next_cursor = rows
        .last()
        .filter(|_| page.has_more)
        .map(|row| row.cursor.to_string());
    let entries = rows.iter().map(|row| odds_of(&row.update, None)).collect();
    Ok(HttpResponse::Ok()
        .insert_header(revalidate())
        .json(HistoryBody {
            entries,
            next_cursor,
        }))
}

fn odds_of(update: &crate::domain::odds::update::OddsUpdate, seq: Option<u64>) -> OddsBody<'_> {
    OddsBody {
        event_id: &update.event_id,
        market: &update.market.name,
        line: update.market.line,
        home_odd: update.price_of("home"),
        draw_odd: update.price_of("draw"),
        away_odd: update.price_of("away"),
        version: update.revision.version,
        updated_at: update.revision.updated_at,
        selections: &update.selections,
        status: update.status,
        in_play: update.in_play,
        source: &update.source,
        seq,
        stale: false,
        as_of: None,
    }
}

fn mark(response: &mut actix_web::HttpResponseBuilder, stale: bool) {
    if stale {
        response.insert_header((STALE_HEADER, "true"));
    }
}

/// Distinguishes two bodies with the same sequence number: the database may have been emptied in
/// between.
fn fingerprint(body: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

impl std::fmt::Display for HistoryCursor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{}_{}_{}",
            self.revision.updated_at.micros(),
            self.revision.version,
            self.row
        )
    }
}

impl std::str::FromStr for HistoryCursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<HistoryCursor, &'static str> {
        const WANTED: &str = "not a cursor; use the nextCursor of the previous page";
        let mut parts = text
            .split('_')
            .map(|part| part.parse::<i64>().map_err(|_| WANTED));
        let mut next = || parts.next().unwrap_or(Err(WANTED));
        let updated_at = Timestamp::from_micros(next()?).ok_or(WANTED)?;
        let revision = crate::domain::odds::update::Revision {
            updated_at,
            version: next()?,
        };
        Ok(HistoryCursor {
            revision,
            row: next()?,
        })
    }
}
