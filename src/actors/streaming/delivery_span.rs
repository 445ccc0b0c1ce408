//! The spans of the delivery of traced changes: one for each change, however many sessions it goes to.

use parking_lot::Mutex;
use std::time::SystemTime;

use crate::actors::odds::messages::BookChanged;
use crate::domain::streaming::fanout::DeliveryTrace;
use crate::telemetry::trace::{Span, SpanKind};

/// The spans of one delivery. They end with the last report, and are exported when no session holds
/// the delivery any more: a client that reads nothing delays that, but does not make them longer.
#[derive(Debug)]
struct DeliverySpans(Mutex<Progress>);

#[derive(Debug)]
struct Progress {
    spans: Vec<Span>,
    changes: usize,
    subscribers: usize,
    last: SystemTime,
}

/// Begins the spans of the traced changes. `None` if there is none.
pub(super) fn begin(changed: &BookChanged) -> Option<Box<dyn DeliveryTrace>> {
    let traced = changed.traced.as_deref()?;
    let spans = traced.iter().filter_map(|traced| {
        let update = &changed.states.get(traced.state)?.update;
        let span = Span::child(Some(traced.parent), SpanKind::Producer, "deliver");
        let span = span.with_market(&update.event_id, &update.market);
        span.is_recorded().then_some(span)
    });
    let spans: Vec<Span> = spans.collect();
    if spans.is_empty() {
        return None;
    }
    Some(Box::new(DeliverySpans(Mutex::new(Progress {
        spans,
        changes: changed.states.len(),
        subscribers: 0,
        last: SystemTime::now(),
    }))))
}

impl DeliveryTrace for DeliverySpans {
    fn offered(&self, accepted: usize) {
        let mut progress = self.0.lock();
        progress.subscribers += accepted / progress.changes.max(1);
        progress.last = SystemTime::now();
    }

    fn written(&self) {
        self.0.lock().last = SystemTime::now();
    }
}

impl Drop for DeliverySpans {
    fn drop(&mut self) {
        let progress = self.0.get_mut();
        let subscribers = i64::try_from(progress.subscribers).unwrap_or(i64::MAX);
        for mut span in progress.spans.drain(..) {
            span.set("subscribers", subscribers);
            span.end_at(progress.last);
        }
    }
}
