//! The messages of the Exchange Stream, limited to the fields used here. Unknown fields are
//! ignored.
//!
//! Parts that may be invalid on their own (a market's change, a runner's change, a price) stay raw
//! text, so that the rest of the message is usable and prices are parsed from their exact text.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::json;

/// The message type; decoded first to choose how to decode the rest.
#[derive(Deserialize)]
pub(crate) struct Op<'a> {
    /// `connection`, `status` or `mcm`.
    #[serde(borrow)]
    pub op: Cow<'a, str>,
}

/// The answer to a request, or the stream's closing message.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusMessage {
    /// The request id; `None` for an unsolicited message.
    pub id: Option<i64>,
    /// `SUCCESS` or `FAILURE`.
    pub status_code: String,
    /// The kind of failure.
    pub error_code: Option<String>,
    /// The failure message.
    pub error_message: Option<String>,
}

/// Market changes (`mcm`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChangeMessage<'a> {
    /// Publish time, in milliseconds since 1970.
    pub pt: Option<i64>,
    /// The position after this message, for a later resubscription.
    pub clk: Option<String>,
    /// The other part of the position.
    pub initial_clk: Option<String>,
    /// An image, a catch-up or a heartbeat; `None` for a plain change.
    pub ct: Option<ChangeType>,
    /// The position within a segmented message; `None` if the message is complete.
    pub segment_type: Option<SegmentType>,
    /// 503: the stream's own data is late.
    pub status: Option<i64>,
    /// The changed markets.
    #[serde(borrow)]
    pub mc: Option<Vec<&'a RawValue>>,
}

/// The type of an `mcm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum ChangeType {
    /// The whole current subscription.
    SubImage,
    /// The changes since the position of a resubscription.
    ResubDelta,
    /// No change.
    Heartbeat,
    /// An unknown type.
    #[serde(other)]
    Other,
}

/// The position of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum SegmentType {
    /// The first segment.
    SegStart,
    /// A middle segment.
    Seg,
    /// The last segment.
    SegEnd,
}

/// The change of one market.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MarketChange<'a> {
    /// The market id.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// Whether it replaces everything known about the market.
    pub img: Option<bool>,
    /// The market definition; sent in full when any part changes.
    #[serde(borrow)]
    pub market_definition: Option<&'a RawValue>,
    /// The runners with changed prices.
    #[serde(borrow)]
    pub rc: Option<Vec<&'a RawValue>>,
}

/// Only the market id of a change: names the market if the change is unreadable.
#[derive(Deserialize)]
pub(crate) struct MarketId<'a> {
    /// The market id.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
}

/// Only the version of a definition: orders an unreadable definition.
#[derive(Deserialize)]
pub(crate) struct DefinitionVersion {
    /// Increases with every change of the definition.
    pub version: Option<i64>,
}

/// The definition of a market.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MarketDefinition<'a> {
    /// `OPEN`, `SUSPENDED`, `INACTIVE` or `CLOSED`.
    pub status: String,
    /// Increases with every change of the definition. Of two definitions of one market, the higher
    /// version is valid.
    pub version: Option<i64>,
    /// Whether the event is in play.
    pub in_play: Option<bool>,
    /// For example `WIN` or `MATCH_ODDS`.
    pub market_type: Option<String>,
    /// What a price means: odds, or the line of a spread.
    pub betting_type: Option<String>,
    /// The event name.
    pub event_name: Option<String>,
    /// The market name.
    pub name: Option<String>,
    /// The venue.
    pub venue: Option<String>,
    /// The sport id.
    #[serde(borrow)]
    pub event_type_id: Option<&'a RawValue>,
    /// How many runners win. Raw, as all fields that only a result depends on: an unreadable one
    /// must not make the prices unreadable.
    #[serde(borrow)]
    pub number_of_winners: Option<&'a RawValue>,
    /// The part of the odds that a placed runner pays, in an each way market.
    #[serde(borrow)]
    pub each_way_divisor: Option<&'a RawValue>,
    /// When the market was settled.
    #[serde(borrow)]
    pub settled_time: Option<&'a RawValue>,
    /// The start time of the market.
    #[serde(borrow)]
    pub market_time: Option<&'a RawValue>,
    /// The start time of the event.
    #[serde(borrow)]
    pub open_date: Option<&'a RawValue>,
    /// The runners.
    #[serde(borrow, deserialize_with = "json::objects")]
    pub runners: Vec<RunnerDefinition<'a>>,
}

/// The definition of a runner.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunnerDefinition<'a> {
    /// The runner id.
    pub id: i64,
    /// The handicap, if the market has several entries per runner.
    #[serde(borrow)]
    pub hc: Option<&'a RawValue>,
    /// For example `ACTIVE` or `REMOVED`.
    pub status: String,
    /// By how much the prices of the others fall when the runner is removed, in percent.
    #[serde(borrow)]
    pub adjustment_factor: Option<&'a RawValue>,
    /// When it was removed.
    #[serde(borrow)]
    pub removal_date: Option<&'a RawValue>,
    /// The position in the list.
    pub sort_priority: Option<i64>,
    /// The runner's name; the stream rarely sends one.
    pub name: Option<String>,
}

/// The change of one runner's prices.
#[derive(Deserialize)]
pub(crate) struct RunnerChange<'a> {
    /// The runner id.
    pub id: i64,
    /// The handicap.
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
pub(crate) struct Authentication<'a> {
    /// `authentication`.
    pub op: &'static str,
    /// Returned in the answer.
    pub id: i64,
    /// The application key.
    pub app_key: &'a str,
    /// The session token of the user.
    pub session: &'a str,
}

/// The second request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MarketSubscription<'a> {
    /// `marketSubscription`.
    pub op: &'static str,
    /// Returned in the answer.
    pub id: i64,
    /// The markets to subscribe to.
    pub market_filter: MarketFilter<'a>,
    /// The data to receive.
    pub market_data_filter: MarketDataFilter,
    /// The interval of heartbeats when nothing changes.
    pub heartbeat_ms: u64,
    /// How long the stream may conflate changes; 0 disables conflation.
    pub conflate_ms: u64,
    /// Allows the stream to split a large message. Without it an image of many markets is one line.
    pub segmentation_enabled: bool,
    /// The position to resume from; send both parts or neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_clk: Option<&'a str>,
    /// The position to resume from; send both parts or neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clk: Option<&'a str>,
}

/// The subscribed markets; an empty filter means all markets visible to the key.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MarketFilter<'a> {
    /// Only these market ids.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub market_ids: &'a [String],
}

/// The requested data of a market.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MarketDataFilter {
    /// Names of field groups.
    pub fields: &'static [&'static str],
    /// The depth of the best offers.
    pub ladder_levels: u32,
}
