//! Messages with odds.

use super::{market, price, time};
use crate::actors::streaming::stream_session::StreamMessage;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::status::{EventStatus, MarketStatus, SelectionStatus};
use crate::domain::odds::update::{OddsUpdate, Selection};
use crate::domain::streaming::fanout::SourceNotice;
use crate::domain::streaming::protocol::{
    FeedStatus, Form, Refusal, ShownSnapshot, SnapshotMarket, UpdateFrame,
};
use crate::domain::timestamp::Timestamp;
use crate::grpc::encoded::{EncodedResponse, field};
use crate::grpc::proto::v1;
use crate::services::odds::ShownMarket;
use crate::store::events::EventSummary;

/// An event of a list.
pub(in crate::grpc) fn event(event: EventSummary) -> v1::Event {
    let status = match event.status {
        EventStatus::Upcoming => v1::EventStatus::Upcoming,
        EventStatus::Live => v1::EventStatus::Live,
        EventStatus::Ended => v1::EventStatus::Ended,
    };
    v1::Event {
        event_id: event.event_id.to_string(),
        home_team: event.home_team,
        away_team: event.away_team,
        sport: event.sport,
        start_time: event.start_time.map(time),
        status: status.into(),
        in_play: event.status.is_in_play(),
        open_markets: event.open_markets,
    }
}

/// The odds of a market.
pub(in crate::grpc) fn market_odds(update: &OddsUpdate) -> v1::MarketOdds {
    v1::MarketOdds {
        event_id: update.event_id.to_string(),
        home_team: update.home_team.clone(),
        away_team: update.away_team.clone(),
        market: Some(market(&update.market)),
        status: market_status(update.status).into(),
        in_play: update.in_play,
        selections: update.selections.iter().map(selection).collect(),
        updated_at: Some(time(update.revision.updated_at)),
        version: update.revision.version,
        source: update.source.to_string(),
    }
}

/// A market of a book.
pub(in crate::grpc) fn shown_market(shown: &ShownMarket) -> v1::MarketState {
    market_state(&shown.state, shown.is_stale, shown.as_of)
}

/// The state of a market.
pub(in crate::grpc) fn market_state(
    state: &MarketState,
    stale: bool,
    as_of: Option<Timestamp>,
) -> v1::MarketState {
    v1::MarketState {
        odds: Some(market_odds(&state.update)),
        seq: state.seq,
        stale,
        as_of: as_of.map(time),
    }
}

/// A message of a stream.
pub(in crate::grpc) fn stream_message(message: &StreamMessage) -> EncodedResponse {
    match message {
        StreamMessage::Snapshot(shown) => EncodedResponse::of(field::SNAPSHOT, &snapshot(shown)),
        StreamMessage::Update(frame, form) => {
            let encode = || EncodedResponse::of(field::UPDATE, &update(frame, *form)).into_bytes();
            EncodedResponse::from_bytes(frame.encoded_for_stream(*form, encode).clone())
        }
        StreamMessage::Notice(notice) => EncodedResponse::of(field::FEED, &source_status(notice)),
        StreamMessage::Feed(status) => EncodedResponse::of(
            field::FEED,
            &v1::Feed {
                status: feed_status(*status).into(),
                source: None,
                event_id: None,
            },
        ),
        StreamMessage::Heartbeat(as_of) => {
            let as_of = Some(time(*as_of));
            EncodedResponse::of(field::HEARTBEAT, &v1::Heartbeat { as_of })
        }
        StreamMessage::Reconnect(within) => {
            let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            EncodedResponse::of(field::RECONNECT, &v1::Reconnect { within_ms })
        }
        StreamMessage::Refused(refusal) => EncodedResponse::of(field::ERROR, &error(refusal)),
    }
}

fn snapshot(shown: &ShownSnapshot) -> v1::Snapshot {
    let state = |it: &SnapshotMarket| market_state(&it.state, it.is_stale, it.as_of);
    v1::Snapshot {
        event_id: shown.event_id.to_string(),
        seq: shown.seq,
        epoch: shown.epoch.clone(),
        recovered: shown.since.is_some(),
        conflate_ms: shown.conflate_ms,
        heartbeat_ms: shown.heartbeat_ms,
        stale: shown.is_stale,
        markets: shown.markets.iter().map(state).collect(),
    }
}

fn update(frame: &UpdateFrame, form: Form) -> v1::Update {
    let why = match form {
        Form::Plain | Form::Extended => v1::Why::Unspecified,
        Form::Conflated | Form::Slow => v1::Why::Slow,
        Form::Requested => v1::Why::Requested,
    };
    v1::Update {
        seq: frame.seq,
        conflated: why != v1::Why::Unspecified,
        why: why.into(),
        stale: frame.stale(),
        resumable: frame.is_resumable(),
        odds: Some(market_odds(&frame.state().update)),
    }
}

fn source_status(notice: &SourceNotice) -> v1::Feed {
    v1::Feed {
        status: feed_status(notice.status).into(),
        source: Some(notice.source.to_string()),
        event_id: Some(notice.event_id.to_string()),
    }
}

fn error(refusal: &Refusal) -> v1::EventError {
    let event_id = match refusal {
        Refusal::SnapshotUnavailable(event_id) => event_id.to_string(),
        _ => String::new(),
    };
    v1::EventError {
        event_id,
        code: refusal.code().to_owned(),
        message: refusal.to_string(),
    }
}

fn selection(selection: &Selection) -> v1::Selection {
    let status = match selection.status {
        SelectionStatus::Active => v1::SelectionStatus::Active,
        SelectionStatus::Suspended => v1::SelectionStatus::Suspended,
        SelectionStatus::Removed => v1::SelectionStatus::Removed,
        SelectionStatus::Winner => v1::SelectionStatus::Winner,
        SelectionStatus::Loser => v1::SelectionStatus::Loser,
        SelectionStatus::Void => v1::SelectionStatus::Void,
    };
    v1::Selection {
        selection_id: selection.id.to_string(),
        name: selection.name.clone(),
        price: selection.price.map(price),
        status: status.into(),
    }
}

fn market_status(status: MarketStatus) -> v1::MarketStatus {
    match status {
        MarketStatus::Open => v1::MarketStatus::Open,
        MarketStatus::Suspended => v1::MarketStatus::Suspended,
        MarketStatus::Closed => v1::MarketStatus::Closed,
        MarketStatus::Settled => v1::MarketStatus::Settled,
        MarketStatus::Cancelled => v1::MarketStatus::Cancelled,
    }
}

fn feed_status(status: FeedStatus) -> v1::FeedStatus {
    match status {
        FeedStatus::Live => v1::FeedStatus::Live,
        FeedStatus::Stale => v1::FeedStatus::Stale,
    }
}
