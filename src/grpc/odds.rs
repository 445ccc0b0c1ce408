//! `OddsService`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use actix::Addr;
use tokio::sync::Semaphore;

use super::admission::{Admission, Call, Rule};
use super::convert;
use super::method::service;
use super::proto::v1;
use super::read::{self, bad};
use super::status::CallError;
use super::watch::WatchStream;
use crate::actors::streaming::stream_session::StreamStarter;
use crate::domain::access::Scope;
use crate::domain::odds::status::EventStatus;
use crate::http::addresses::Addresses;
use crate::services::odds::OddsQueries;
use crate::store::HistoryQuery;
use crate::store::events::{EventQuery, StatusFilter};

/// Default and maximum number of events of a page.
const DEFAULT_EVENTS: usize = 1_000;
/// Default number of entries of a page of the history.
const DEFAULT_HISTORY: usize = 100;

/// The limits on streams, in common with the sessions of sockets.
#[derive(Clone)]
pub(crate) struct WatchLimits {
    /// The permits of sessions, `max_sessions` in all.
    pub session_permits: Arc<Semaphore>,
    /// Maximum number of open sessions and streams.
    pub max_sessions: usize,
    /// The number of the next session or stream.
    pub next_session: Arc<AtomicU64>,
    /// Sessions and streams by client address.
    pub addresses: Addresses,
}

/// Serves `OddsService` on one thread.
#[derive(Clone)]
pub(crate) struct OddsApi {
    pub(super) admission: Admission,
    pub(super) queries: Arc<OddsQueries>,
    /// Starts the streams of this thread.
    pub(super) streams: Addr<StreamStarter>,
    pub(super) limits: WatchLimits,
}

service! {
    v1::odds_service_server::OddsService, for OddsApi, named "OddsService";
    "ListEvents" list_events(v1::ListEventsRequest) -> v1::ListEventsResponse: Rule::read(Scope::OddsRead);
    "GetOdds" get_odds(v1::GetOddsRequest) -> v1::GetOddsResponse: Rule::read(Scope::OddsRead);
    "GetHistory" get_history(v1::GetHistoryRequest) -> v1::GetHistoryResponse: Rule::read(Scope::OddsRead);
    stream WatchOddsStream: WatchStream = "WatchOdds" watch_odds(v1::WatchOddsRequest): Rule::stream(Scope::OddsRead);
}

impl OddsApi {
    /// Serves odds from `queries`, and streams that `streams` starts, to callers that `admission` admits.
    pub(crate) fn new(
        admission: Admission,
        queries: Arc<OddsQueries>,
        streams: Addr<StreamStarter>,
        limits: WatchLimits,
    ) -> OddsApi {
        OddsApi {
            admission,
            queries,
            streams,
            limits,
        }
    }

    /// The methods, as in metrics.
    pub(crate) const METHODS: &'static [&'static str] = METHODS;

    async fn list_events(
        &self,
        _: Call,
        request: v1::ListEventsRequest,
    ) -> Result<v1::ListEventsResponse, CallError> {
        let status = read::known("status", request.status, status_filter)?;
        let query = EventQuery {
            after: read::optional("page_token", &request.page_token)?,
            limit: read::page_size(request.page_size, DEFAULT_EVENTS)?,
            status: status.unwrap_or_default(),
            in_play: request.in_play,
            sport: read::optional("sport", &request.sport)?,
            from: read::time("from", request.from)?,
            to: read::time("to", request.to)?,
            name: read::optional("name_part", &request.name_part)?,
        };
        let page = self.queries.events(query).await?;
        Ok(v1::ListEventsResponse {
            next_page_token: page.next.map(|next| next.to_string()).unwrap_or_default(),
            events: page.events.into_iter().map(convert::event).collect(),
        })
    }

    async fn get_odds(
        &self,
        _: Call,
        request: v1::GetOddsRequest,
    ) -> Result<v1::GetOddsResponse, CallError> {
        let book = self.queries.book(&request.event_id).await?;
        Ok(v1::GetOddsResponse {
            event_id: book.event_id.to_string(),
            seq: book.seq,
            stale: book.is_stale,
            markets: book.markets.iter().map(convert::shown_market).collect(),
        })
    }

    async fn get_history(
        &self,
        _: Call,
        request: v1::GetHistoryRequest,
    ) -> Result<v1::GetHistoryResponse, CallError> {
        let token = request.page_token.as_str();
        let after = match token {
            "" => None,
            token => Some(token.parse().map_err(|error| bad("page_token", error))?),
        };
        let query = HistoryQuery {
            event_id: read::id("event_id", &request.event_id)?,
            market: read::market(request.market)?,
            from: read::time("from", request.from)?,
            to: read::time("to", request.to)?,
            after,
            limit: read::page_size(request.page_size, DEFAULT_HISTORY)?,
        };
        let page = self.queries.history(query).await?;
        let last = page.entries.last().filter(|_| page.has_more);
        let entries = page.entries.iter();
        Ok(v1::GetHistoryResponse {
            next_page_token: last.map(|last| last.cursor.to_string()).unwrap_or_default(),
            entries: entries.map(|it| convert::market_odds(&it.update)).collect(),
        })
    }
}

fn status_filter(filter: v1::EventStatusFilter) -> Option<StatusFilter> {
    match filter {
        v1::EventStatusFilter::Unspecified => None,
        v1::EventStatusFilter::All => Some(StatusFilter::All),
        v1::EventStatusFilter::Upcoming => Some(StatusFilter::Only(EventStatus::Upcoming)),
        v1::EventStatusFilter::Live => Some(StatusFilter::Only(EventStatus::Live)),
        v1::EventStatusFilter::Ended => Some(StatusFilter::Only(EventStatus::Ended)),
    }
}
