//! A span: a piece of traced work with a beginning and an end.

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::trace::{Link, SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

pub(crate) use opentelemetry::trace::SpanKind;

use super::active;
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::trace_parent::TraceParent;
use crate::telemetry::role;

/// A piece of work that is traced, or none. It ends when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Span {
    /// What the work continues, if it is not recorded here: a process without an exporter passes on
    /// what it gets.
    parent: Option<TraceParent>,
    recorded: Option<Box<SpanData>>,
}

impl Span {
    /// Begins work that continues `parent`. Not recorded if there is no parent.
    pub(crate) fn child(
        parent: Option<TraceParent>,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
    ) -> Span {
        // Untraced work costs this branch.
        let Some(parent) = parent else {
            return Span::default();
        };
        Span::begin(parent, kind, name.into())
    }

    /// Begins the first work of a trace.
    pub(crate) fn root(kind: SpanKind, name: impl Into<Cow<'static, str>>) -> Span {
        if active().is_none() {
            return Span::default();
        }
        let parent = TraceParent {
            span_id: [0; 8],
            ..TraceParent::random()
        };
        Span::begin(parent, kind, name.into())
    }

    /// Begins work on a batch, which links to the spans of its records. It has a trace of its own,
    /// because its records belong to several.
    pub(crate) fn batch(
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        records: impl IntoIterator<Item = TraceParent>,
    ) -> Span {
        let mut records = records.into_iter().peekable();
        if records.peek().is_none() {
            return Span::default();
        }
        let mut span = Span::root(kind, name);
        if let Some(data) = &mut span.recorded {
            let link = |parent: TraceParent| Link::new(span_context(&parent, true), Vec::new(), 0);
            data.links.links.extend(records.map(link));
        }
        span
    }

    fn begin(parent: TraceParent, kind: SpanKind, name: Cow<'static, str>) -> Span {
        let Some(tracing) = active().filter(|_| parent.is_sampled) else {
            return Span {
                parent: Some(parent),
                recorded: None,
            };
        };
        let own = TraceParent {
            trace_id: parent.trace_id,
            ..TraceParent::random()
        };
        let now = SystemTime::now();
        let role = role::current().map(|role| KeyValue::new("role", role));
        Span {
            parent: None,
            recorded: Some(Box::new(SpanData {
                span_context: span_context(&own, false),
                parent_span_id: SpanId::from_bytes(parent.span_id),
                parent_span_is_remote: false,
                span_kind: kind,
                name,
                start_time: now,
                end_time: now,
                attributes: role.into_iter().collect(),
                dropped_attributes_count: 0,
                events: SpanEvents::default(),
                links: SpanLinks::default(),
                status: Status::Unset,
                instrumentation_scope: tracing.scope.clone(),
            })),
        }
    }

    /// The parent of what follows from this work.
    pub(crate) fn context(&self) -> Option<TraceParent> {
        match &self.recorded {
            Some(data) => Some(TraceParent {
                trace_id: data.span_context.trace_id().to_bytes(),
                span_id: data.span_context.span_id().to_bytes(),
                is_sampled: true,
            }),
            None => self.parent,
        }
    }

    /// Whether the span is recorded.
    pub(crate) fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// The work began at this time.
    pub(crate) fn began(mut self, at: SystemTime) -> Span {
        if let Some(data) = &mut self.recorded {
            data.start_time = at;
        }
        self
    }

    /// Adds an attribute. Never a user, an amount or a name: whoever reads traces need not be
    /// allowed to see them.
    pub(crate) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(data) = &mut self.recorded {
            data.attributes.push(KeyValue::new(key, value));
        }
    }

    /// Adds the attributes of a market of an event.
    pub(crate) fn with_market(mut self, event_id: &EventId, market: &MarketKey) -> Span {
        if self.is_recorded() {
            self.set("event.id", event_id.as_str().to_owned());
            self.set("market", market.to_string());
        }
        self
    }

    /// Adds the attribute of a bet.
    pub(crate) fn with_bet(mut self, bet_id: &dyn std::fmt::Display) -> Span {
        if self.is_recorded() {
            self.set("bet.id", bet_id.to_string());
        }
        self
    }

    /// Adds the attribute of a topic.
    pub(crate) fn with_topic(mut self, topic: &str) -> Span {
        if self.is_recorded() {
            self.set("messaging.destination.name", topic.to_owned());
        }
        self
    }

    /// The work failed with this code. The error's text is in the log, because it may quote a client.
    pub(crate) fn fail(&mut self, code: &'static str) {
        if let Some(data) = &mut self.recorded {
            data.status = Status::error("");
            data.attributes.push(KeyValue::new("error.type", code));
        }
    }

    /// Drops the span without recording it.
    pub(crate) fn discard(mut self) {
        self.recorded = None;
    }

    /// Ends the span at this time instead of now.
    pub(crate) fn end_at(mut self, at: SystemTime) {
        if let Some(mut data) = self.recorded.take() {
            data.end_time = at;
            submit(*data);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(mut data) = self.recorded.take() {
            data.end_time = SystemTime::now();
            submit(*data);
        }
    }
}

impl TraceParent {
    /// New ids, sampled.
    pub(super) fn random() -> TraceParent {
        TraceParent {
            trace_id: fastrand::u128(1..).to_be_bytes(),
            span_id: fastrand::u64(1..).to_be_bytes(),
            is_sampled: true,
        }
    }
}

fn submit(data: SpanData) {
    if let Some(tracing) = active() {
        tracing.queue.push(data);
    }
}

fn span_context(parent: &TraceParent, is_remote: bool) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.span_id),
        TraceFlags::SAMPLED,
        is_remote,
        TraceState::NONE,
    )
}
