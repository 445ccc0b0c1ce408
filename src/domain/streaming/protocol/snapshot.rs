//! The `snapshot` message.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use serde::Serialize;

use super::client_message::ResumePoint;
use crate::domain::ids::EventId;
use crate::domain::odds::book::{MarketState, Snapshot, number_of};
use crate::domain::odds::restrictions::Restrictions;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::streaming::shown_at::ShownAt;
use crate::domain::timestamp::Timestamp;

/// The first delay before a snapshot for a client that is ahead of the book is requested again; it
/// doubles each time.
const CATCH_UP_DELAY: Duration = Duration::from_millis(20);
/// How often it is requested again.
const CATCH_UP_TRIES: u32 = 6;

/// How a book is shown in a snapshot.
#[derive(Clone, Debug, Default)]
pub struct SnapshotView<'a> {
    /// Whether changes cannot arrive at the moment.
    pub is_stale: bool,
    /// What is shown as suspended.
    pub restrictions: Arc<Restrictions>,
    /// What only clients of the extended protocol get.
    pub extension: Option<SnapshotExtension<'a>>,
}

/// What only clients of the extended protocol get.
#[derive(Clone, Debug, Default)]
pub struct SnapshotExtension<'a> {
    /// The epoch of the sequence numbers, if it is known.
    pub epoch: Option<&'a str>,
    /// From where the client resumes.
    pub resume: Option<ResumePoint>,
    /// The conflation of the subscription, in milliseconds.
    pub conflate_ms: u32,
    /// The heartbeat of the session, in milliseconds.
    pub heartbeat_ms: Option<u32>,
}

/// A snapshot as a client is shown it, in no format yet.
#[derive(Clone, Debug)]
pub struct ShownSnapshot {
    /// The event.
    pub event_id: EventId,
    /// The sequence number of its last change.
    pub seq: u64,
    /// The epoch of the numbers, if a client can resume from here.
    pub epoch: Option<String>,
    /// The number from which the client resumes: there are only the markets that changed since.
    pub since: Option<u64>,
    /// Whether changes cannot arrive at the moment.
    pub is_stale: bool,
    /// The conflation of the subscription, in milliseconds.
    pub conflate_ms: u32,
    /// The heartbeat of the session, in milliseconds.
    pub heartbeat_ms: Option<u32>,
    /// The markets, ordered by key.
    pub markets: Vec<SnapshotMarket>,
}

/// A market of a snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotMarket {
    /// The state as it is shown.
    pub state: Arc<MarketState>,
    /// Whether its prices may be stale.
    pub is_stale: bool,
    /// Until when its source has confirmed it, if the source is lost.
    pub as_of: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "snapshot", rename_all = "camelCase")]
struct WireSnapshot<'a> {
    event_id: &'a EventId,
    seq: u64,
    #[serde(flatten)]
    extension: Option<WireExtension<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    markets: Vec<WireMarket<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a OddsUpdate>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireExtension<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'a str>,
    recovered: bool,
    conflate_ms: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat_ms: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireMarket<'a> {
    seq: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    conflated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<Timestamp>,
    payload: &'a OddsUpdate,
}

/// The `snapshot` message of a book. `payload` is the market that the original would show; an empty
/// book has none. A client that resumes gets only what has changed since, without `payload`.
pub fn snapshot_message(snapshot: &Snapshot, view: &SnapshotView<'_>) -> ByteString {
    let restrictions = &*view.restrictions;
    let shown: Vec<_> = snapshot
        .markets
        .iter()
        .map(|state| restrictions.shown(state))
        .collect();
    let epoch = view.epoch_of(snapshot);
    let since = view.since(snapshot, epoch);
    let is_missed = |state: &MarketState| since.is_none_or(|since| state.seq > since);
    let markets = shown
        .iter()
        .filter(|state| is_missed(state))
        .map(|state| WireMarket {
            seq: state.seq,
            conflated: since.is_some(),
            why: since.map(|_| "resume"),
            stale: restrictions.is_stale(state),
            as_of: view
                .extension
                .as_ref()
                .and_then(|_| restrictions.confirmed_until(&state.update.source)),
            payload: &state.update,
        });
    let headline = snapshot
        .headline()
        .filter(|_| since.is_none())
        .map(|state| restrictions.shown(state));
    super::encode(&WireSnapshot {
        event_id: &snapshot.event_id,
        seq: snapshot.seq,
        extension: view.extension.as_ref().map(|extension| WireExtension {
            epoch,
            recovered: since.is_some(),
            conflate_ms: extension.conflate_ms,
            heartbeat_ms: extension.heartbeat_ms,
        }),
        stale: view.is_stale,
        markets: markets.collect(),
        payload: headline.as_ref().map(|state| &state.update),
    })
}

impl<'a> SnapshotView<'a> {
    /// What a snapshot of a book shows, in this view.
    pub fn shown_at(&self, snapshot: &Snapshot) -> ShownAt {
        ShownAt::new(snapshot.seq, &self.restrictions)
    }

    /// The snapshot of a book as the client is shown it.
    pub fn show(&self, snapshot: &Snapshot) -> ShownSnapshot {
        let epoch = self.epoch_of(snapshot);
        let since = self.since(snapshot, epoch);
        let shown = snapshot.markets.iter().map(|state| SnapshotMarket {
            state: self.restrictions.shown(state).into_owned(),
            is_stale: self.restrictions.is_stale(state),
            as_of: self.restrictions.confirmed_until(&state.update.source),
        });
        let is_missed = |market: &SnapshotMarket| since.is_none_or(|it| market.state.seq > it);
        let extension = self.extension.as_ref();
        ShownSnapshot {
            event_id: snapshot.event_id.clone(),
            seq: snapshot.seq,
            epoch: epoch.map(str::to_owned),
            since,
            is_stale: self.is_stale,
            conflate_ms: extension.map_or(0, |it| it.conflate_ms),
            heartbeat_ms: extension.and_then(|it| it.heartbeat_ms),
            markets: shown.filter(is_missed).collect(),
        }
    }

    /// Whether the client gets only what it missed; `None` if it does not resume.
    pub fn recovers(&self, snapshot: &Snapshot) -> Option<bool> {
        self.extension.as_ref()?.resume.as_ref()?;
        let since = self.since(snapshot, self.epoch_of(snapshot));
        Some(since.is_some())
    }

    /// How long to wait before the snapshot is requested again because the book is behind the client;
    /// `None` if it is not, or after the last of `tries`: the client's number may never have been
    /// given. About a second in all.
    pub fn catch_up_delay(&self, snapshot: &Snapshot, tries: u32) -> Option<Duration> {
        let waits = tries < CATCH_UP_TRIES && self.is_behind_client(snapshot);
        waits.then(|| CATCH_UP_DELAY * 2_u32.pow(tries))
    }

    /// Whether the client has changes that the book has not got yet. Another process has sent them, so
    /// they are on their way here.
    fn is_behind_client(&self, snapshot: &Snapshot) -> bool {
        let Some(extension) = &self.extension else {
            return false;
        };
        let is_ahead = |resume: &ResumePoint| {
            resume.epoch.as_deref() == extension.epoch && resume.since > snapshot.seq
        };
        !self.is_stale
            && extension.epoch.is_some()
            && extension.resume.as_ref().is_some_and(is_ahead)
    }

    /// The epoch, if a client can resume from this snapshot: it is current, every process gives its
    /// last change the same number, and it shows no restriction, which has no number.
    fn epoch_of(&self, snapshot: &Snapshot) -> Option<&'a str> {
        let epoch = self.extension.as_ref()?.epoch?;
        let is_restricted = |state: &Arc<MarketState>| {
            self.restrictions.is_stale(state)
                || !Arc::ptr_eq(&self.restrictions.shown(state), state)
        };
        // The original numbers nothing: the number is made from the time, and its cache holds one
        // market of an event.
        let is_unnumbered =
            |state: &Arc<MarketState>| state.seq == number_of(state.update.revision);
        let is_resumable = !self.is_stale
            && !snapshot.markets.iter().any(is_unnumbered)
            && snapshot.continuity.is_shared(snapshot.seq)
            && !snapshot.markets.iter().any(is_restricted);
        is_resumable.then_some(epoch)
    }

    /// The number up to which the client has every change; `None` if it must replace what it has.
    fn since(&self, snapshot: &Snapshot, epoch: Option<&str>) -> Option<u64> {
        let resume = self.extension.as_ref()?.resume.as_ref()?;
        let is_same = epoch.is_some() && resume.epoch.as_deref() == epoch;
        let is_covered = snapshot.continuity.covers(resume.since, snapshot.seq);
        (is_same && is_covered).then_some(resume.since)
    }
}
