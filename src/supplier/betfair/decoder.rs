//! The protocol of the stream: what each message means for the connection and the markets.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::changes::Changes;
use super::image_requests::ImageRequests;
use super::markets::Markets;
use super::requests::{AUTHENTICATION, Clocks, Requests};
use super::segments::{Segments, Whole};
use super::source;
use super::status;
use super::wire::{ChangeMessage, ChangeType, Op, SegmentType, StatusMessage};
use crate::config::settings::SupplierSettings;
use crate::domain::ids::{EventId, Source};
use crate::domain::json;
use crate::domain::odds::source_status::SourceState;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;
use crate::supplier::native::next_revision;
use crate::supplier::{AddedMarkets, Decoded, Decoder, FrameFault, future_time_detail};

/// The `status` of a message whose data the stream reports as unreliable.
const UNRELIABLE: i64 = 503;
/// The size limit of the segments of one message, in frames of the maximum size.
const MAX_SEGMENTS: usize = 64;

/// Decodes the Exchange Stream. Market state outlives a connection, so a reconnect only needs the
/// changes.
pub(crate) struct BetfairDecoder {
    requests: Requests,
    clocks: Clocks,
    segments: Segments,
    markets: Markets,
    /// The stream reports its data as unreliable, or has been silent for too long.
    unreliable: bool,
    /// Changes of unidentified markets were lost.
    gap: bool,
    /// The stream was silent for too long, or its connection ended amid a message; the markets are
    /// not suspended for that as long as another process has the stream live.
    silent: bool,
    lost: bool,
    /// The image of this connection, or all that changed since the last one, has been received.
    is_complete: bool,
    /// Open in the database, and not in the image.
    stored: BTreeMap<EventId, OddsUpdate>,
    /// The connection cannot continue because one of its messages was rejected.
    missed: bool,
    /// A market needs an image.
    wants_image: bool,
    image_requests: ImageRequests,
    latest: Option<Timestamp>,
}

impl BetfairDecoder {
    /// Creates a decoder without markets.
    pub(crate) fn new(settings: &SupplierSettings) -> BetfairDecoder {
        let frame = usize::try_from(settings.supplier_max_frame.as_u64()).unwrap_or(usize::MAX);
        BetfairDecoder {
            requests: Requests::new(settings),
            clocks: Clocks::default(),
            segments: Segments::new(frame.saturating_mul(MAX_SEGMENTS)),
            markets: Markets::default(),
            unreliable: false,
            gap: false,
            silent: false,
            lost: false,
            is_complete: false,
            stored: BTreeMap::new(),
            missed: false,
            wants_image: false,
            image_requests: ImageRequests::default(),
            latest: None,
        }
    }

    #[cfg(test)]
    pub(super) fn held_markets(&self) -> usize {
        self.markets.len()
    }

    fn on_status(&mut self, status: &StatusMessage) -> Result<Decoded, FrameFault> {
        status::check(status, &self.requests, &mut self.clocks)?;
        let send = if status.id == Some(AUTHENTICATION) {
            vec![self.requests.subscription(&self.clocks)?]
        } else {
            Vec::new()
        };
        Ok(Decoded {
            send,
            ..Decoded::default()
        })
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
        let times = self.plausible_times(messages)?;
        self.silent = false;
        self.gap |= std::mem::take(&mut self.lost);
        let is_image = messages
            .iter()
            .any(|message| message.ct == Some(ChangeType::SubImage));
        let mut changes = self.apply_markets(messages, &times, is_image);
        // A market missing from an image is suspended as absent.
        let has_unnamed_loss = changes.unnamed && !is_image;
        if is_image {
            self.wants_image = false;
            self.image_requests.record_image(changes.needs_image);
        }
        self.wants_image |= changes.needs_image || has_unnamed_loss;
        let resumed = messages
            .iter()
            .any(|message| message.ct == Some(ChangeType::ResubDelta));
        self.is_complete |= is_image || resumed;
        let keeps_gap = self.gap && !is_image && (self.wants_image || !resumed);
        self.update_trust(messages, has_unnamed_loss || keeps_gap, &mut changes);
        let mut decoded = self.publish(changes);
        decoded.send.extend(self.request_image()?);
        Ok(decoded)
    }

    /// The time of each message. If one is in the future, nothing is applied and the position is
    /// kept, so the next connection repeats the message.
    fn plausible_times(
        &self,
        messages: &[ChangeMessage<'_>],
    ) -> Result<Vec<Option<Timestamp>>, FrameFault> {
        let times = messages
            .iter()
            .map(time_of)
            .collect::<Result<Vec<_>, _>>()?;
        let future = times
            .iter()
            .flatten()
            .find_map(|time| future_time_detail(*time, self.latest));
        match future {
            Some(detail) => Err(FrameFault::Refused {
                reason: "future",
                detail,
            }),
            None => Ok(times),
        }
    }

    fn apply_markets(
        &mut self,
        messages: &[ChangeMessage<'_>],
        times: &[Option<Timestamp>],
        is_image: bool,
    ) -> Changes {
        let mut changes = Changes {
            latest: times.iter().copied().flatten().max(),
            ..Changes::default()
        };
        for (message, time) in messages.iter().zip(times) {
            for text in message.mc.iter().flatten() {
                self.markets.apply(text, is_image, *time, &mut changes);
            }
        }
        self.markets.suspend_lost(&mut changes);
        if is_image {
            self.markets.suspend_missing(&mut changes);
        }
        changes
    }

    /// Follows what the messages say about the stream itself, and its position.
    fn update_trust(&mut self, messages: &[ChangeMessage<'_>], gap: bool, changes: &mut Changes) {
        let unreliable = messages
            .iter()
            .any(|message| message.status == Some(UNRELIABLE));
        // A heartbeat between segments does not confirm the segments still to come, and its
        // position is ahead of the applied changes.
        let is_whole = self.segments.is_empty();
        self.set_trust((self.unreliable && !is_whole) || unreliable, gap, changes);
        if is_whole {
            messages
                .iter()
                .for_each(|message| self.clocks.remember(message));
        }
    }

    fn publish(&mut self, changes: Changes) -> Decoded {
        let is_trusted = self.is_trusted();
        self.markets.publish(changes, is_trusted)
    }

    /// Requests an image: a new subscription replaces the current one and is answered with an
    /// image.
    fn request_image(&mut self) -> Result<Option<String>, FrameFault> {
        let is_needed = self.wants_image || self.gap;
        if !is_needed || !self.segments.is_empty() || !self.image_requests.is_allowed(self.latest) {
            return Ok(None);
        }
        self.image_requests.record_request(self.latest);
        self.clocks = Clocks::default();
        self.requests.subscription(&self.clocks).map(Some)
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

    /// While the stream reports its data as unreliable, or changes are missing, every open market is
    /// shown as suspended.
    fn set_trust(&mut self, unreliable: bool, gap: bool, changes: &mut Changes) {
        let before = self.is_trusted();
        self.unreliable = unreliable;
        self.gap = gap;
        if self.is_trusted() != before {
            self.markets.touch_all(changes);
        }
    }
}

impl Decoder for BetfairDecoder {
    fn on_connected(&mut self) -> Vec<String> {
        self.segments.clear();
        self.missed = false;
        self.is_complete = false;
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
                send: vec![self.requests.authentication()?],
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

    fn sources(&self) -> Vec<(Source, SourceState)> {
        let state = if !self.is_complete {
            SourceState::Recovering
        } else if self.is_trusted() && !self.silent && !self.lost {
            SourceState::Live
        } else {
            SourceState::Stale
        };
        source().map(|source| (source, state)).into_iter().collect()
    }

    // Equivalent to unreliable data; the stream's next message, even a heartbeat,
    // clears this.
    fn record_silence(&mut self) {
        self.silent = true;
    }

    // An incomplete or unreadable message may have been a suspension.
    fn record_loss(&mut self, missed: bool) {
        self.lost |= missed || std::mem::take(&mut self.missed) || !self.segments.is_empty();
        if missed {
            self.clocks = Clocks::default();
        }
        self.segments.clear();
    }

    // An image has the time of its connection, so it opens what an earlier process has suspended.
    fn add_stored(&mut self, stored: Vec<OddsUpdate>) -> AddedMarkets {
        let before = self.stored.len();
        let absent = stored.into_iter().filter(|update| {
            update.status == MarketStatus::Open && !self.markets.holds(&update.event_id)
        });
        for update in absent {
            self.stored.insert(update.event_id.clone(), update);
        }
        AddedMarkets {
            unsent: self.stored.len() - before,
            updates: Vec::new(),
        }
    }

    fn forget_stored(&mut self, is_forgotten: &dyn Fn(&OddsUpdate) -> bool) {
        self.stored.retain(|_, market| !is_forgotten(market));
    }

    fn suspend_unconfirmed(&mut self, is_spared: &dyn Fn(&Source) -> bool) -> Vec<OddsUpdate> {
        let has_unconfirmed = self.silent || self.lost || !self.stored.is_empty();
        if !has_unconfirmed || source().is_some_and(|source| is_spared(&source)) {
            return Vec::new();
        }
        let mut changes = Changes::default();
        let gap = self.gap || std::mem::take(&mut self.lost);
        self.set_trust(self.unreliable || self.silent, gap, &mut changes);
        self.silent = false;
        let mut suspended = self.publish(changes).updates;
        let stored = std::mem::take(&mut self.stored).into_values();
        suspended.extend(
            stored
                .filter(|update| !self.markets.holds(&update.event_id))
                .map(suspended_update),
        );
        suspended
    }

    // The next connection starts with a full image, and all of it is published.
    fn on_unpublished(&mut self) -> Vec<OddsUpdate> {
        self.clocks = Clocks::default();
        self.segments.clear();
        self.markets = Markets::default();
        self.unreliable = false;
        self.gap = false;
        self.silent = false;
        self.lost = false;
        self.is_complete = false;
        self.missed = false;
        self.wants_image = false;
        self.image_requests = ImageRequests::default();
        Vec::new()
    }
}

/// A market that the stream no longer offers.
fn suspended_update(update: OddsUpdate) -> OddsUpdate {
    OddsUpdate {
        status: MarketStatus::Suspended,
        revision: next_revision(update.revision),
        ..update
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
