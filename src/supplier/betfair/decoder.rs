//! The protocol of the stream and the state of its markets.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::changes::Changes;
use super::market::{Market, Scope};
use super::segments::{Segments, Whole};
use super::wire::{
    Authentication, ChangeMessage, ChangeType, MarketChange, MarketDataFilter, MarketFilter,
    MarketSubscription, Op, SegmentType, StatusMessage,
};
use crate::config::settings::SupplierSettings;
use crate::domain::ids::EventId;
use crate::domain::json;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;
use crate::supplier::{Decoded, Decoder, FrameFault, future_time_detail};

const AUTHENTICATION: i64 = 1;
const SUBSCRIPTION: i64 = 2;
/// Best offers one level deep, the last traded price, and the definitions: everything a price is
/// made of.
const FIELDS: &[&str] = &["EX_BEST_OFFERS", "EX_LTP", "EX_MARKET_DEF"];
/// The stream's limits for `heartbeatMs`.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 500..=5_000;
/// The `status` of a message whose data the stream does not vouch for.
const UNRELIABLE: i64 = 503;
/// The maximum number of markets held, including ended ones.
const MAX_MARKETS: usize = 50_000;
/// The number of ended markets held; a late change of an older one is rejected as unknown.
const MAX_RETIRED: usize = 1_000;
/// The size limit of the segments of one message, in frames of the maximum size.
const MAX_SEGMENTS: usize = 64;
/// The maximum number of rejected parts reported per frame.
const MAX_REFUSED: usize = 32;
/// Minimum time between image requests. An image repairs markets left in doubt by a lost change.
/// The first request is immediate; the interval doubles up to six times while the images themselves
/// contain unreadable parts.
const IMAGE_INTERVAL: Duration = Duration::from_secs(10);
const IMAGE_DOUBLINGS: u32 = 6;

/// Decodes the Exchange Stream. Market state outlives a connection, so a reconnect only needs the
/// changes.
pub struct BetfairDecoder {
    app_key: SecretString,
    session: SecretString,
    market_ids: Vec<String>,
    heartbeat_ms: u64,
    clocks: Clocks,
    segments: Segments,
    markets: BTreeMap<EventId, Market>,
    /// Ended or removed markets, oldest first.
    retired: VecDeque<EventId>,
    /// The stream does not vouch for its data, or has been silent for too long.
    unreliable: bool,
    /// Changes of unidentified markets were lost.
    gap: bool,
    /// The connection cannot continue because one of its messages was rejected.
    missed: bool,
    /// A market needs an image.
    wants_image: bool,
    asking: ImageRequests,
    latest: Option<Timestamp>,
}

/// Image requests on an open connection.
#[derive(Default)]
struct ImageRequests {
    /// The earliest time of the next request.
    next: Option<Timestamp>,
    /// Consecutive images that did not help.
    failures: u32,
}

/// The position of the last complete message.
#[derive(Default)]
struct Clocks {
    initial: Option<String>,
    last: Option<String>,
}

impl BetfairDecoder {
    /// Creates a decoder without markets. Sends an empty key and session if none are configured.
    pub fn new(settings: &SupplierSettings) -> BetfairDecoder {
        let secret = |secret: &Option<SecretString>| {
            secret.clone().unwrap_or_else(|| SecretString::from(""))
        };
        let ids = settings
            .betfair_market_ids
            .iter()
            .map(|id| id.trim().to_owned());
        let silence = settings
            .supplier_read_timeout
            .min(settings.supplier_stale_after);
        let third_of_silence = u64::try_from(silence.as_millis() / 3).unwrap_or(u64::MAX);
        let frame = usize::try_from(settings.supplier_max_frame.as_u64()).unwrap_or(usize::MAX);
        BetfairDecoder {
            app_key: secret(&settings.betfair_app_key),
            session: secret(&settings.betfair_session_token),
            market_ids: ids.filter(|id| !id.is_empty()).collect(),
            heartbeat_ms: third_of_silence.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end()),
            clocks: Clocks::default(),
            segments: Segments::new(frame.saturating_mul(MAX_SEGMENTS)),
            markets: BTreeMap::new(),
            retired: VecDeque::new(),
            unreliable: false,
            gap: false,
            missed: false,
            wants_image: false,
            asking: ImageRequests::default(),
            latest: None,
        }
    }

    #[cfg(test)]
    pub(super) fn kept_markets(&self) -> usize {
        self.markets.len()
    }

    fn authentication(&self) -> Result<String, FrameFault> {
        to_json(&Authentication {
            op: "authentication",
            id: AUTHENTICATION,
            app_key: self.app_key.expose_secret(),
            session: self.session.expose_secret(),
        })
    }

    fn subscription(&self) -> Result<String, FrameFault> {
        let clocks = self
            .clocks
            .initial
            .as_deref()
            .zip(self.clocks.last.as_deref());
        to_json(&MarketSubscription {
            op: "marketSubscription",
            id: SUBSCRIPTION,
            market_filter: MarketFilter {
                market_ids: &self.market_ids,
            },
            market_data_filter: MarketDataFilter {
                fields: FIELDS,
                ladder_levels: 1,
            },
            heartbeat_ms: self.heartbeat_ms,
            conflate_ms: 0,
            segmentation_enabled: true,
            initial_clk: clocks.map(|(initial, _)| initial),
            clk: clocks.map(|(_, last)| last),
        })
    }

    fn on_status(&mut self, status: &StatusMessage) -> Result<Decoded, FrameFault> {
        if status.status_code != "SUCCESS" {
            let code = status.error_code.as_deref().unwrap_or_default();
            // A fresh image works whatever was wrong with the subscription.
            if code == "INVALID_CLOCK" || status.id == Some(SUBSCRIPTION) {
                self.clocks = Clocks::default();
            }
            let message = status.error_message.as_deref().unwrap_or_default();
            let detail = self.without_secrets(&format!("{} {code} {message}", status.status_code));
            return Err(FrameFault::Refused {
                reason: reason_of(code),
                detail,
            });
        }
        let send = if status.id == Some(AUTHENTICATION) {
            vec![self.subscription()?]
        } else {
            Vec::new()
        };
        Ok(Decoded {
            send,
            ..Decoded::default()
        })
    }

    /// The supplier's text, truncated and without our credentials.
    fn without_secrets(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in [&self.app_key, &self.session]
            .map(ExposeSecret::expose_secret)
            .into_iter()
            .filter(|s| !s.is_empty())
        {
            text = text.replace(secret, "***");
        }
        text.trim().chars().take(300).collect()
    }

    fn on_change(&mut self, frame: &[u8]) -> Result<Decoded, FrameFault> {
        let message: ChangeMessage<'_> = read(frame)?;
        match message.ct {
            Some(ChangeType::Heartbeat) => return self.apply(&[message]),
            Some(ChangeType::Other) => {
                let detail = "unknown change type (`ct`)".to_owned();
                return Err(FrameFault::Unreadable {
                    reason: "unknown_type",
                    detail,
                });
            }
            _ => {}
        }
        let begins = matches!(message.segment_type, None | Some(SegmentType::SegStart));
        if begins && message.ct == Some(ChangeType::SubImage) {
            // A requested image replaces a message that the stream did not finish.
            self.segments.clear();
        }
        match self.segments.take(message.segment_type, frame)? {
            Whole::NotYet => Ok(Decoded::default()),
            Whole::Alone => self.apply(&[message]),
            Whole::Complete(frames) => {
                let messages = frames
                    .iter()
                    .map(|frame| read(frame))
                    .collect::<Result<Vec<_>, _>>()?;
                self.apply(&messages)
            }
        }
    }

    /// Applies the messages as one, and publishes each market at most once.
    fn apply(&mut self, messages: &[ChangeMessage<'_>]) -> Result<Decoded, FrameFault> {
        let times = messages
            .iter()
            .map(time_of)
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(detail) = times
            .iter()
            .flatten()
            .find_map(|time| future_time_detail(*time, self.latest))
        {
            // Nothing is applied and the position is kept, so the next connection repeats the
            // message.
            return Err(FrameFault::Refused {
                reason: "future",
                detail,
            });
        }
        let is_image = messages
            .iter()
            .any(|message| message.ct == Some(ChangeType::SubImage));
        let mut changes = Changes {
            latest: times.iter().copied().flatten().max(),
            ..Changes::default()
        };
        for (message, time) in messages.iter().zip(times) {
            for text in message.mc.iter().flatten() {
                self.apply_market(text, is_image, time, &mut changes);
            }
        }
        self.suspend_lost(&mut changes);
        // A market missing from an image is suspended as absent.
        let unnamed = changes.unnamed && !is_image;
        if is_image {
            self.suspend_missing(&mut changes);
            self.wants_image = false;
            self.asking.failures = if changes.needs_image {
                self.asking.failures.saturating_add(1)
            } else {
                0
            };
        }
        self.wants_image |= changes.needs_image || unnamed;
        let resumed = messages
            .iter()
            .any(|message| message.ct == Some(ChangeType::ResubDelta));
        let gap = unnamed || (self.gap && !is_image && (self.wants_image || !resumed));
        let unreliable = messages
            .iter()
            .any(|message| message.status == Some(UNRELIABLE));
        // A heartbeat between segments does not vouch for the segments still to come, and its
        // position is ahead of the applied changes.
        let is_whole = self.segments.is_empty();
        self.set_trust(
            (self.unreliable && !is_whole) || unreliable,
            gap,
            &mut changes,
        );
        if is_whole {
            messages
                .iter()
                .for_each(|message| self.clocks.remember(message));
        }
        let mut decoded = self.publish(changes);
        decoded.send.extend(self.request_image()?);
        Ok(decoded)
    }

    /// Requests an image: a new subscription replaces the current one and is answered with an
    /// image.
    fn request_image(&mut self) -> Result<Option<String>, FrameFault> {
        let is_too_early = self
            .latest
            .zip(self.asking.next)
            .is_some_and(|(now, next)| now < next);
        if !(self.wants_image || self.gap) || !self.segments.is_empty() || is_too_early {
            return Ok(None);
        }
        let interval = IMAGE_INTERVAL * (1 << self.asking.failures.min(IMAGE_DOUBLINGS));
        let micros = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX);
        self.asking.next = self
            .latest
            .and_then(|now| Timestamp::from_micros(now.micros().saturating_add(micros)));
        self.clocks = Clocks::default();
        self.subscription().map(Some)
    }

    fn apply_market(
        &mut self,
        text: &RawValue,
        is_image: bool,
        time: Option<Timestamp>,
        changes: &mut Changes,
    ) {
        let change: MarketChange<'_> = match json::from_str(text.get()) {
            Ok(change) => change,
            Err(error) => return changes.lose(text, "bad_market", &error),
        };
        let id = match EventId::new(&change.id) {
            Ok(id) => id,
            Err(error) => return changes.lose(text, "bad_market", &error),
        };
        if time.is_none() {
            return changes.lose(text, "no_time", &"the message has no pt");
        }
        let scope = match (is_image, change.img == Some(true)) {
            (true, _) if !changes.is_read(&id) => Scope::Subscription,
            (_, true) => Scope::Market,
            (true, false) => Scope::Further,
            (false, false) => Scope::Difference,
        };
        if !self.markets.contains_key(&id) {
            if scope == Scope::Difference && change.market_definition.is_none() {
                return changes.refuse(
                    "unknown_market",
                    format!("market {id}: a change before its first image"),
                );
            }
            if self.markets.len() >= MAX_MARKETS {
                return changes.refuse(
                    "too_many_markets",
                    format!("market {id}: the limit of {MAX_MARKETS} markets is reached"),
                );
            }
        }
        changes.touch(&id, time);
        changes.read.insert(id.clone());
        let market = self
            .markets
            .entry(id.clone())
            .or_insert_with(|| Market::new(id));
        market.apply(&change, scope, &mut changes.refused);
        changes.needs_image |= market.needs_image();
    }

    /// Runs after all changes of the frame: the lost change may contradict whatever else the frame
    /// says about the market.
    fn suspend_lost(&mut self, changes: &mut Changes) {
        for id in std::mem::take(&mut changes.lost) {
            let Some(market) = self.markets.get_mut(&id) else {
                continue;
            };
            market.set_in_doubt();
            changes.needs_image |= market.needs_image();
            changes.touch(&id, changes.latest);
        }
    }

    /// An image contains the whole subscription. Known markets missing from it must not look live.
    fn suspend_missing(&mut self, changes: &mut Changes) {
        for (id, market) in self
            .markets
            .iter_mut()
            .filter(|(_, market)| !market.is_retired())
        {
            if !changes.touches(id) {
                market.set_absent();
                changes.touch(id, changes.latest);
            }
        }
    }

    /// Records that a message was rejected. It may have been a suspension, so a full image is
    /// needed unless the message is repeated.
    fn record_missed(&mut self, fault: &FrameFault) {
        self.missed = true;
        if let FrameFault::Unreadable { .. } = fault {
            self.clocks = Clocks::default();
        }
    }

    fn is_trusted(&self) -> bool {
        !self.unreliable && !self.gap
    }

    /// While the stream does not vouch for its data, or changes are missing, every open market is
    /// shown as suspended.
    fn set_trust(&mut self, unreliable: bool, gap: bool, changes: &mut Changes) {
        let before = self.is_trusted();
        (self.unreliable, self.gap) = (unreliable, gap);
        if self.is_trusted() != before {
            for (id, _) in self
                .markets
                .iter()
                .filter(|(_, market)| !market.has_ended())
            {
                changes.touch(id, changes.latest);
            }
        }
    }

    fn publish(&mut self, mut changes: Changes) -> Decoded {
        let mut updates = Vec::new();
        let trusted = self.is_trusted();
        for id in changes.order {
            let Some(market) = self.markets.get_mut(&id) else {
                continue;
            };
            updates.extend(market.publish(changes.times.get(&id).copied().flatten(), trusted));
            if market.is_retired() && !self.retired.contains(&id) {
                self.retired.push_back(id);
            }
        }
        while self.retired.len() > MAX_RETIRED {
            let Some(id) = self.retired.pop_front() else {
                break;
            };
            if self.markets.get(&id).is_some_and(Market::is_retired) {
                self.markets.remove(&id);
            }
        }
        let beyond = changes.refused.len().saturating_sub(MAX_REFUSED);
        changes.refused.truncate(MAX_REFUSED);
        if let Some(last) = changes.refused.last_mut().filter(|_| beyond > 0) {
            last.detail = format!("{}; and {beyond} more parts", last.detail);
        }
        Decoded {
            updates,
            send: Vec::new(),
            refused: changes.refused,
        }
    }
}

impl Decoder for BetfairDecoder {
    fn on_connected(&mut self) -> Vec<String> {
        self.segments.clear();
        self.missed = false;
        if self.wants_image {
            self.clocks = Clocks::default();
        }
        Vec::new()
    }

    fn on_frame(&mut self, frame: &[u8]) -> Result<Decoded, FrameFault> {
        if frame.trim_ascii().is_empty() {
            return Ok(Decoded::default());
        }
        let op = read::<Op<'_>>(frame).inspect_err(|fault| self.record_missed(fault))?;
        match op.op.as_ref() {
            "connection" => Ok(Decoded {
                send: vec![self.authentication()?],
                ..Decoded::default()
            }),
            "status" => self.on_status(&read(frame)?),
            "mcm" => self
                .on_change(frame)
                .inspect_err(|fault| self.record_missed(fault)),
            op => {
                let op: String = op.chars().take(40).collect();
                Err(FrameFault::Unreadable {
                    reason: "unknown_op",
                    detail: format!("unknown op `{op}`"),
                })
            }
        }
    }

    fn refuse_after(&mut self, latest: Timestamp) {
        self.latest = Some(latest);
    }

    // Equivalent to the stream not vouching for its data; its next message, even a heartbeat,
    // clears this.
    fn on_stale(&mut self) -> Vec<OddsUpdate> {
        let mut changes = Changes::default();
        self.set_trust(true, self.gap, &mut changes);
        self.publish(changes).updates
    }

    // The next connection starts with a full image, and all of it is published.
    fn on_unpublished(&mut self) -> Vec<OddsUpdate> {
        self.clocks = Clocks::default();
        self.segments.clear();
        self.markets.clear();
        self.retired.clear();
        (self.unreliable, self.gap, self.missed, self.wants_image) = (false, false, false, false);
        self.asking = ImageRequests::default();
        Vec::new()
    }

    // An incomplete or unreadable message may have been a suspension.
    fn on_lost(&mut self, missed: bool) -> Vec<OddsUpdate> {
        let gap = missed || std::mem::take(&mut self.missed) || !self.segments.is_empty();
        if missed {
            self.clocks = Clocks::default();
        }
        self.segments.clear();
        let mut changes = Changes::default();
        self.set_trust(self.unreliable, self.gap || gap, &mut changes);
        self.publish(changes).updates
    }
}

impl Clocks {
    fn remember(&mut self, message: &ChangeMessage<'_>) {
        if message.initial_clk.is_some() {
            self.initial.clone_from(&message.initial_clk);
        }
        if message.clk.is_some() {
            self.last.clone_from(&message.clk);
        }
    }
}

fn time_of(message: &ChangeMessage<'_>) -> Result<Option<Timestamp>, FrameFault> {
    let bad = |pt| FrameFault::Unreadable {
        reason: "bad_time",
        detail: format!("pt {pt} is not a time in milliseconds"),
    };
    message
        .pt
        .map(|pt| Timestamp::from_millis(pt).ok_or_else(|| bad(pt)))
        .transpose()
}

fn read<'a, T: Deserialize<'a>>(frame: &'a [u8]) -> Result<T, FrameFault> {
    json::from_slice(frame).map_err(|error| FrameFault::Unreadable {
        reason: "malformed",
        detail: format!("malformed message: {error}"),
    })
}

/// Serializing strings, numbers and lists to memory cannot fail; if it did, the connection would be
/// useless.
fn to_json(request: &impl serde::Serialize) -> Result<String, FrameFault> {
    serde_json::to_string(request).map_err(|_| FrameFault::Refused {
        reason: "unwritable",
        detail: "cannot serialize a request".to_owned(),
    })
}

/// Maps the stream's error codes to fixed codes: the number of metric labels must not depend on
/// foreign input.
fn reason_of(code: &str) -> &'static str {
    match code {
        "NO_APP_KEY" => "no_app_key",
        "INVALID_APP_KEY" => "invalid_app_key",
        "NO_SESSION" => "no_session",
        "INVALID_SESSION_INFORMATION" => "invalid_session",
        "NOT_AUTHORIZED" => "not_authorized",
        "INVALID_INPUT" | "INVALID_REQUEST" => "invalid_request",
        "INVALID_CLOCK" => "invalid_clock",
        "UNEXPECTED_ERROR" => "unexpected_error",
        "TIMEOUT" => "timeout",
        "SUBSCRIPTION_LIMIT_EXCEEDED" => "subscription_limit",
        "CONNECTION_FAILED" => "connection_failed",
        "MAX_CONNECTION_LIMIT_EXCEEDED" => "connection_limit",
        "TOO_MANY_REQUESTS" => "too_many_requests",
        _ => "refused",
    }
}
