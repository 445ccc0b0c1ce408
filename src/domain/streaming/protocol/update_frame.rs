//! The `update` message, encoded once for all clients.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use bytestring::ByteString;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{EncodingCount, text_frame};
use crate::domain::ids::{EventId, MarketKey, SelectionId};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::restrictions::Restrictions;
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::streaming::shown_at::ShownAt;
use crate::domain::timestamp::Timestamp;

/// How a message says that earlier changes may have been left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// None was left out. For clients without the extended protocol.
    Plain,
    /// Some may have been left out. For clients without the extended protocol.
    Conflated,
    /// None was left out.
    Extended,
    /// Some may have been left out because the client was slow, or because the server may have
    /// missed some.
    Slow,
    /// Some were left out because the client requested it.
    Requested,
}

impl Form {
    /// The form for a client.
    pub(in crate::domain::streaming) fn of(conflated: bool, is_extended: bool) -> Form {
        match (conflated, is_extended) {
            (false, false) => Form::Plain,
            (true, false) => Form::Conflated,
            (false, true) => Form::Extended,
            (true, true) => Form::Slow,
        }
    }

    /// The form of a change that has replaced another one before it was sent.
    pub(in crate::domain::streaming) fn after_replacing(self) -> Form {
        match self {
            Form::Plain => Form::Conflated,
            Form::Extended => Form::Slow,
            conflated => conflated,
        }
    }
}

/// How much of a market can be bet on. A change to less is never held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::domain::streaming) struct Openness {
    status: MarketStatus,
    /// The selections that can be backed while the market is open.
    offered: Vec<SelectionId>,
    /// Whether other selections cannot be backed.
    is_partial: bool,
}

impl Openness {
    fn of(state: &MarketState) -> Openness {
        let selections = &state.update.selections;
        let offered: Vec<SelectionId> = selections
            .iter()
            .filter(|it| it.status == SelectionStatus::Active && it.price.is_some())
            .map(|it| it.id.clone())
            .collect();
        Openness {
            status: state.update.status,
            is_partial: offered.len() < selections.len(),
            offered,
        }
    }

    /// Whether the market, or one of its selections, stops being offered. If the earlier state is
    /// not known, it may have been open.
    pub(in crate::domain::streaming) fn is_less_than(&self, earlier: Option<&Openness>) -> bool {
        let Some(earlier) = earlier else {
            return self.status != MarketStatus::Open || self.is_partial;
        };
        let stops = self.status != MarketStatus::Open && self.status != earlier.status;
        stops || self.withdraws(earlier)
    }

    /// Whether a selection is not offered any more.
    fn withdraws(&self, earlier: &Openness) -> bool {
        if self.offered == earlier.offered {
            return false;
        }
        let offered: HashSet<&SelectionId> = self.offered.iter().collect();
        earlier.offered.iter().any(|id| !offered.contains(id))
    }
}

/// How a state is shown.
#[derive(Clone, Copy, Debug, Default)]
struct Display {
    /// Whether the prices may be stale; `None` to say nothing about it.
    stale: Option<bool>,
    /// Whether a client that has this change can resume.
    is_resumable: bool,
    /// For a state that was sent before and is now shown in another way: from when.
    restated_at: Option<ShownAt>,
}

/// One change of one market as sent to clients, encoded once for all of them.
#[derive(Debug)]
pub struct UpdateFrame {
    /// The event.
    pub event_id: EventId,
    /// The market.
    pub market: MarketKey,
    /// The event's sequence number of the change.
    pub seq: u64,
    /// The supplier's time of the change.
    pub updated_at: Timestamp,
    state: Arc<MarketState>,
    display: Display,
    plain: Encoded,
    /// The other forms, in the order of [`Form`]. Most changes need none.
    others: [OnceLock<Box<Encoded>>; 4],
    /// The forms of streams, which have a format of their own. Made when a stream needs them.
    stream_forms: OnceLock<Box<[OnceLock<Bytes>; 3]>>,
    count: Option<EncodingCount>,
}

impl UpdateFrame {
    /// Encodes the `update` message of a market's new state.
    pub fn new(state: &Arc<MarketState>) -> UpdateFrame {
        let display = Display {
            is_resumable: true,
            ..Display::default()
        };
        UpdateFrame::displayed(state.clone(), display)
    }

    /// Encodes the `update` message of a state under these restrictions. `conflated`: whether
    /// earlier changes may not have been published. `restated_at`: for a state that was sent before,
    /// the last sequence number of the event now.
    pub fn restricted(
        state: &Arc<MarketState>,
        restrictions: &Restrictions,
        conflated: bool,
        restated_at: Option<u64>,
    ) -> UpdateFrame {
        let is_stale = restrictions.is_stale(state);
        let shown = restrictions.shown(state);
        let display = Display {
            stale: (is_stale || restated_at.is_some()).then_some(is_stale),
            // Restrictions have no sequence number. A client that has seen one cannot say so when
            // it resumes.
            is_resumable: !conflated
                && restated_at.is_none()
                && !is_stale
                && Arc::ptr_eq(&shown, state),
            restated_at: restated_at.map(|seq| ShownAt::new(seq, restrictions)),
        };
        UpdateFrame::displayed(shown.into_owned(), display)
    }

    fn displayed(state: Arc<MarketState>, display: Display) -> UpdateFrame {
        let update = &state.update;
        let message = WireUpdate {
            stale: display.stale,
            ..WireUpdate::plain(&update.event_id, state.seq)
        };
        UpdateFrame {
            event_id: update.event_id.clone(),
            market: update.market.clone(),
            seq: state.seq,
            updated_at: update.revision.updated_at,
            display,
            plain: Encoded::new(message.encode(&update.to_json())),
            others: Default::default(),
            stream_forms: OnceLock::new(),
            count: None,
            state,
        }
    }

    /// Counts the encodings of this frame, including those that clients need later.
    pub fn counted_by(self, count: &EncodingCount) -> UpdateFrame {
        count.add();
        UpdateFrame {
            count: Some(count.clone()),
            ..self
        }
    }

    /// How much of the market can be bet on. Only conflation needs it, so it is not kept.
    pub(in crate::domain::streaming) fn openness(&self) -> Openness {
        Openness::of(&self.state)
    }

    /// The state as it is shown.
    pub(crate) fn state(&self) -> &Arc<MarketState> {
        &self.state
    }

    /// Whether the prices may be stale; `None` to say nothing about it.
    pub(crate) fn stale(&self) -> Option<bool> {
        self.display.stale
    }

    /// Whether a client that has this change can resume from it.
    pub(crate) fn is_resumable(&self) -> bool {
        self.display.is_resumable
    }

    /// For a state that was sent before and is now shown in another way: from when.
    pub fn restated_at(&self) -> Option<ShownAt> {
        self.display.restated_at
    }

    /// Whether every client that misses no change gets the same bytes.
    pub(in crate::domain::streaming) fn is_same_for_all(&self) -> bool {
        self.display.is_resumable
    }

    /// The message in the format of streams, which `encode` makes for the first one in this form.
    pub(crate) fn encoded_for_stream(&self, form: Form, encode: impl FnOnce() -> Bytes) -> &Bytes {
        let place = match form {
            Form::Plain | Form::Extended => 0,
            Form::Conflated | Form::Slow => 1,
            Form::Requested => 2,
        };
        let forms = self.stream_forms.get_or_init(Default::default);
        forms[place].get_or_init(|| {
            self.count.iter().for_each(EncodingCount::add);
            encode()
        })
    }

    /// The message in this form.
    pub fn text(&self, form: Form) -> &ByteString {
        &self.encoded(form).text
    }

    /// The same message as a WebSocket frame.
    pub fn wire(&self, form: Form) -> &Bytes {
        &self.encoded(form).wire
    }

    fn encoded(&self, form: Form) -> &Encoded {
        let place = match form {
            Form::Plain => return &self.plain,
            Form::Extended if self.display.is_resumable => return &self.plain,
            Form::Conflated => 0,
            Form::Extended => 1,
            Form::Slow => 2,
            Form::Requested => 3,
        };
        self.others[place].get_or_init(|| Box::new(Encoded::new(self.encode(form))))
    }

    fn encode(&self, form: Form) -> ByteString {
        self.count.iter().for_each(EncodingCount::add);
        let is_extended = form != Form::Conflated;
        let why = match form {
            Form::Slow => Some("slow"),
            Form::Requested => Some("requested"),
            _ => None,
        };
        let message = WireUpdate {
            conflated: form != Form::Extended,
            why,
            stale: self.display.stale,
            resumable: (is_extended && !self.display.is_resumable).then_some(false),
            ..WireUpdate::plain(&self.event_id, self.seq)
        };
        message.encode(&self.state.update.to_json())
    }
}

#[derive(Debug)]
struct Encoded {
    text: ByteString,
    wire: Bytes,
}

impl Encoded {
    fn new(text: ByteString) -> Encoded {
        Encoded {
            wire: text_frame(&text),
            text,
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "update", rename_all = "camelCase")]
struct WireUpdate<'a> {
    event_id: &'a EventId,
    seq: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    conflated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
}

impl<'a> WireUpdate<'a> {
    fn plain(event_id: &'a EventId, seq: u64) -> WireUpdate<'a> {
        WireUpdate {
            event_id,
            seq,
            conflated: false,
            why: None,
            stale: None,
            resumable: None,
            payload: None,
        }
    }

    fn encode(self, payload: &'a str) -> ByteString {
        match serde_json::from_str(payload) {
            Ok(payload) => super::encode(&WireUpdate {
                payload: Some(payload),
                ..self
            }),
            Err(_) => ByteString::new(),
        }
    }
}
