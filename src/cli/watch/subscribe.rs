//! The messages that subscribe to events.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio_tungstenite::tungstenite::Message;

use super::view::View;
use crate::domain::ids::EventId;

/// The heartbeat that the client requests. A server that does not know it sends pings only.
const HEARTBEAT_MS: u32 = 5_000;
/// Maximum number of events in one message.
const MAX_EVENTS: usize = 100;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Subscribe<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    events: Events<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conflate_ms: Option<u32>,
    heartbeat_ms: u32,
}

#[derive(Serialize)]
#[serde(rename_all_fields = "camelCase", untagged)]
enum Events<'a> {
    One {
        event_id: &'a EventId,
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<String>,
    },
    Many {
        event_ids: &'a [EventId],
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        since: BTreeMap<&'a EventId, u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<String>,
    },
}

/// The messages that subscribe to these events, from what `view` has of them.
pub(super) fn subscribe(
    events: &[EventId],
    view: &View,
    conflate_ms: Option<u32>,
) -> impl Iterator<Item = Message> {
    events.chunks(MAX_EVENTS).map(move |events| {
        let subscribe = Subscribe {
            kind: "subscribe",
            events: Events::of(events, view),
            conflate_ms,
            heartbeat_ms: HEARTBEAT_MS,
        };
        // Serializing strings and numbers cannot fail.
        Message::text(serde_json::to_string(&subscribe).unwrap_or_default())
    })
}

impl<'a> Events<'a> {
    fn of(events: &'a [EventId], view: &View) -> Events<'a> {
        let mut since = BTreeMap::new();
        let mut epoch = None;
        // A message has one epoch. Events of another one are sent whole, which is right in any case.
        for event in events {
            if let Some(token) = view.token(event)
                && *epoch.get_or_insert_with(|| token.epoch.clone()) == token.epoch
            {
                since.insert(event, token.since);
            }
        }
        match events {
            [event_id] => Events::One {
                event_id,
                since: since.remove(event_id),
                epoch,
            },
            event_ids => Events::Many {
                event_ids,
                since,
                epoch,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_share_a_message() {
        let events: Vec<EventId> = (0..102)
            .map(|number| format!("E{number}").parse().unwrap())
            .collect();
        let text = |count: usize| -> Vec<String> {
            let view = View::new(&events);
            let messages = subscribe(&events[..count], &view, Some(250));
            messages.map(|message| message.to_string()).collect()
        };
        assert_eq!(
            text(1),
            [r#"{"type":"subscribe","eventId":"E0","conflateMs":250,"heartbeatMs":5000}"#]
        );
        assert_eq!(
            text(2),
            [r#"{"type":"subscribe","eventIds":["E0","E1"],"conflateMs":250,"heartbeatMs":5000}"#]
        );
        assert_eq!(text(102).len(), 2);
    }
}
