//! The trace of a record: the header `traceparent` of records that are traced, and no other ones.

use bytes::Bytes;

use super::{BusError, NewRecord, Record};
use crate::domain::trace_parent::{TRACEPARENT, TraceParent};
use crate::telemetry::trace::{Span, SpanKind};

/// Begins the span in which a record is sent to a topic, and adds it to the record.
pub(crate) fn begin_send(parent: Option<TraceParent>, topic: &str, record: &mut NewRecord) -> Span {
    let Some(parent) = parent else {
        return Span::default();
    };
    let span = Span::child(Some(parent), SpanKind::Producer, format!("send {topic}"));
    if let Some(sent) = span.context() {
        let header = (TRACEPARENT.to_owned(), Bytes::from(sent.to_string()));
        record.headers.push(header);
    }
    span.with_topic(topic)
}

/// Ends the spans in which records were sent.
pub(crate) fn end_sends(spans: Vec<Span>, result: &Result<(), BusError>) {
    if let Err(error) = result {
        for mut span in spans {
            span.fail(error.kind());
        }
    }
}

/// Begins the span in which a record is processed.
pub(crate) fn begin_process(parent: Option<TraceParent>, topic: &str) -> Span {
    if parent.is_none() {
        return Span::default();
    }
    Span::child(parent, SpanKind::Consumer, format!("process {topic}")).with_topic(topic)
}

impl Record {
    /// The span in which the record was sent, if it is traced.
    pub(crate) fn traceparent(&self) -> Option<TraceParent> {
        let mut headers = self.record.headers.iter();
        let (_, value) = headers.find(|(name, _)| name == TRACEPARENT)?;
        TraceParent::sampled(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(headers: &[(&str, &str)]) -> Record {
        let header = |(name, value): &(&str, &str)| {
            ((*name).to_owned(), Bytes::copy_from_slice(value.as_bytes()))
        };
        Record {
            partition: 0,
            offset: 0,
            published_at: None,
            record: NewRecord {
                key: Bytes::new(),
                payload: Bytes::new(),
                headers: headers.iter().map(header).collect(),
            },
        }
    }

    #[test]
    fn damaged_header_is_no_trace() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let read = |headers: &[(&str, &str)]| record(headers).traceparent();
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[("traceparent", "00-x")]), None);
        assert_eq!(read(&[("other", good)]), None);
        let parent = read(&[("other", "1"), ("traceparent", good)]);
        assert_eq!(parent.unwrap().to_string(), good);
    }

    /// A process without an exporter passes the trace on, and untraced records stay as they are.
    #[test]
    fn parent_is_passed_on_without_exporter() {
        let mut untraced = record(&[]).record;
        begin_send(None, "odds", &mut untraced);
        assert_eq!(untraced.headers, []);
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse();
        let mut traced = record(&[]);
        begin_send(parent.ok(), "odds", &mut traced.record);
        assert_eq!(traced.traceparent(), parent.ok());
    }
}
