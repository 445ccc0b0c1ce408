//! The messages of the Exchange Stream, as far as they are read here. Unknown fields are ignored.
//!
//! Parts that may be wrong on their own (a market's change, a runner's change, a price) stay raw
//! text, so that the rest of their message can be taken, and prices are read from their exact text.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::json;

/// What kind of message it is; read first, the rest then by kind.
#[derive(Deserialize)]
pub struct Op<'a> {
    /// `connection`, `status` or `mcm`.
    #[serde(borrow)]
    pub op: Cow<'a, str>,
}

/// The answer to a request, or the stream's own farewell.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusMessage {
    /// The id of the request; none where nothing was asked.
    pub id: Option<i64>,
    /// `SUCCESS` or `FAILURE`.
    pub status_code: String,
    /// What kind of failure.
    pub error_code: Option<String>,
    /// The failure in words.
    pub error_message: Option<String>,
}

/// Changes of markets (`mcm`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeMessage<'a> {
    /// When it was published, in milliseconds since 1970.
    pub pt: Option<i64>,
    /// The position behind this message, for a later resubscription.
    pub clk: Option<String>,
    /// The other half of the position.
    pub initial_clk: Option<String>,
    /// An image, a catch-up or a heartbeat; none: a plain change.
    pub ct: Option<ChangeType>,
    /// Where in a message of several segments; none: it is whole.
    pub segment_type: Option<SegmentType>,
    /// 503: the stream's own data is late.
    pub status: Option<i64>,
    /// The markets that changed.
    #[serde(borrow)]
    pub mc: Option<Vec<&'a RawValue>>,
}

/// The kind of an `mcm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ChangeType {
    /// The whole subscription as it is now.
    SubImage,
    /// What changed since the position of a resubscription.
    ResubDelta,
    /// Nothing changed.
    Heartbeat,
    /// A kind that is not known here.
    #[serde(other)]
    Other,
}

/// Where a segment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SegmentType {
    /// The first one.
    SegStart,
    /// One in between.
    Seg,
    /// The last one.
    SegEnd,
}

/// The change of one market.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MarketChange<'a> {
    /// The market.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// Whether it replaces all that was known of the market.
    pub img: Option<bool>,
    /// What the market is; sent whole when any of it changes.
    #[serde(borrow)]
    pub market_definition: Option<&'a RawValue>,
    /// The runners whose prices changed.
    #[serde(borrow)]
    pub rc: Option<Vec<&'a RawValue>>,
}

/// Only the id of a market's change: names the market whose change cannot be read.
#[derive(Deserialize)]
pub struct MarketId<'a> {
    /// The market.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
}

/// Only the version of a definition: orders a definition that cannot be read.
#[derive(Deserialize)]
pub struct DefinitionVersion {
    /// Grows with every change of the definition.
    pub version: Option<i64>,
}

/// What a market is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MarketDefinition<'a> {
    /// `OPEN`, `SUSPENDED`, `INACTIVE` or `CLOSED`.
    pub status: String,
    /// Grows with every change of the definition. Of two definitions of one market, the higher
    /// version is valid.
    pub version: Option<i64>,
    /// Whether the event is under way.
    pub in_play: Option<bool>,
    /// As `WIN` or `MATCH_ODDS`.
    pub market_type: Option<String>,
    /// What a price is: odds, or the line of a spread.
    pub betting_type: Option<String>,
    /// The event's title.
    pub event_name: Option<String>,
    /// The market's title.
    pub name: Option<String>,
    /// Where it takes place.
    pub venue: Option<String>,
    /// The sport, as an id.
    #[serde(borrow)]
    pub event_type_id: Option<&'a RawValue>,
    /// When the market starts.
    #[serde(borrow)]
    pub market_time: Option<&'a RawValue>,
    /// When the event starts.
    #[serde(borrow)]
    pub open_date: Option<&'a RawValue>,
    /// Who takes part.
    #[serde(borrow, deserialize_with = "json::objects")]
    pub runners: Vec<RunnerDefinition<'a>>,
}

/// Who a runner is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunnerDefinition<'a> {
    /// The runner.
    pub id: i64,
    /// Its handicap, where the market has several of one runner.
    #[serde(borrow)]
    pub hc: Option<&'a RawValue>,
    /// As `ACTIVE` or `REMOVED`.
    pub status: String,
    /// Its place in the list.
    pub sort_priority: Option<i64>,
    /// Its name; the stream itself rarely sends one.
    pub name: Option<String>,
}

/// The change of one runner's prices.
#[derive(Deserialize)]
pub struct RunnerChange<'a> {
    /// The runner.
    pub id: i64,
    /// Its handicap.
    #[serde(borrow)]
    pub hc: Option<&'a RawValue>,
    /// The last traded price.
    #[serde(borrow)]
    pub ltp: Option<&'a RawValue>,
    /// Available to back: price, size.
    #[serde(borrow)]
    pub atb: Option<Vec<(&'a RawValue, f64)>>,
    /// Best available to back: level, price, size.
    #[serde(borrow)]
    pub batb: Option<Vec<(u32, &'a RawValue, f64)>>,
}

/// The first request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authentication<'a> {
    /// `authentication`.
    pub op: &'static str,
    /// Comes back in the answer.
    pub id: i64,
    /// Who the application is.
    pub app_key: &'a str,
    /// Who the user is.
    pub session: &'a str,
}

/// The second request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MarketSubscription<'a> {
    /// `marketSubscription`.
    pub op: &'static str,
    /// Comes back in the answer.
    pub id: i64,
    /// Which markets.
    pub market_filter: MarketFilter<'a>,
    /// Which data of them.
    pub market_data_filter: MarketDataFilter,
    /// How often the stream says that nothing changed.
    pub heartbeat_ms: u64,
    /// How long the stream may gather changes; 0: not at all.
    pub conflate_ms: u64,
    /// Allows the stream to split a large message. Without it an image of many markets is one line.
    pub segmentation_enabled: bool,
    /// Where to go on; neither or both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_clk: Option<&'a str>,
    /// Where to go on; neither or both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clk: Option<&'a str>,
}

/// Which markets; an empty one is all that the key may see.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MarketFilter<'a> {
    /// Only these.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub market_ids: &'a [String],
}

/// Which data of a market.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MarketDataFilter {
    /// Names of field groups.
    pub fields: &'static [&'static str],
    /// How deep the best offers go.
    pub ladder_levels: u32,
}
