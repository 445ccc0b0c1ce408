//! Traces: which work follows from which, across actors and processes, exported by OTLP/HTTP.
//!
//! A traced piece of work is a `Span`. What follows from it gets its [`TraceParent`], in a message
//! between actors, a header of a record or a request, or a column; `None` for everything that is not
//! traced, which therefore costs a branch. Without an exporter nothing begins a trace, and parents
//! that arrive are passed on.
//!
//! One exporter for the process, as for log lines: spans are made by code of all roles.

mod context;
mod export;
mod queue;
mod sampling;
mod span;

use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use futures_executor::block_on;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prometheus::{IntCounter, Registry};
use rustls::ClientConfig;
use url::Url;

pub(crate) use self::context::{current, scope, within};
use self::export::{Counts, Worker};
use self::queue::Queue;
use self::sampling::{RateSampler, ShareSampler};
pub(crate) use self::span::{Span, SpanKind};
use crate::domain::timestamp::Timestamp;
use crate::domain::trace_parent::TraceParent;

/// How long the collector may take for a request.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the last export.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

static ACTIVE: OnceLock<Active> = OnceLock::new();

static COUNTS: LazyLock<prometheus::Result<Counts>> = LazyLock::new(|| {
    Ok(Counts {
        exported: IntCounter::new(
            "process_trace_spans_exported_total",
            "Trace spans that the collector has accepted",
        )?,
        dropped: IntCounter::new(
            "process_trace_spans_dropped_total",
            "Trace spans that were lost because the queue was full or the collector did not accept them",
        )?,
    })
});

/// Where spans are sent, and how many there are.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// The collector; spans go to `/v1/traces` below this address.
    pub endpoint: Url,
    /// TLS for an https:// address.
    pub tls: Option<Arc<ClientConfig>>,
    /// The name of the service.
    pub service: String,
    /// Further attributes of the service.
    pub attributes: Vec<(String, String)>,
    /// The share of bets that are traced.
    pub bets: f64,
    /// The number of odds updates that are traced a second, at most.
    pub odds_per_second: u32,
}

/// Why the export was not set up.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The exporter cannot be built.
    #[error("cannot set up the export of traces: {0}")]
    Exporter(String),
    /// The thread cannot be started.
    #[error("cannot start the export of traces: {0}")]
    Thread(#[from] std::io::Error),
    /// A metric is invalid.
    #[error("cannot create the metrics of traces: {0}")]
    Metrics(String),
    /// It was set up before.
    #[error("the export of traces was set up twice")]
    Twice,
}

/// The exporter of this process.
#[derive(Debug)]
struct Active {
    queue: Arc<Queue<SpanData>>,
    scope: InstrumentationScope,
    odds: RateSampler,
    bets: ShareSampler,
}

fn active() -> Option<&'static Active> {
    ACTIVE.get()
}

/// The running export. Finish it at the end of the process, or the last spans are lost.
#[must_use = "the last spans are lost unless the export is finished"]
#[derive(Debug)]
pub struct TraceExport {
    queue: Arc<Queue<SpanData>>,
    worker: Worker,
}

impl TraceExport {
    /// Starts the export. May be called once per process, outside of async code: the client of the
    /// exporter blocks.
    pub fn start(options: TraceOptions) -> Result<TraceExport, TraceError> {
        let counts = counts().map_err(TraceError::Metrics)?;
        let queue = Arc::new(Queue::new(counts.dropped.clone()));
        let exporter = exporter(&options)?;
        let active = Active {
            queue: queue.clone(),
            scope: InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            odds: RateSampler::new(options.odds_per_second),
            bets: ShareSampler(options.bets),
        };
        ACTIVE.set(active).map_err(|_| TraceError::Twice)?;
        let export = move |batch| block_on(exporter.export(batch)).map_err(|it| beginning_of(&it));
        let worker = Worker::start(queue.clone(), counts, export)?;
        Ok(TraceExport { queue, worker })
    }

    /// Exports what is left, for at most two seconds.
    pub fn finish(self) {
        self.queue.close();
        if !self.worker.wait(FLUSH_LIMIT) {
            let spans = self.queue.len();
            log::warn!(spans; "the collector did not accept the last trace spans in time");
        }
    }
}

/// Adds the metrics of the export to those of a role. One process has one export, so its roles show
/// the same values.
pub(crate) fn register_metrics(registry: &Registry) -> prometheus::Result<()> {
    let counts = counts().map_err(prometheus::Error::Msg)?;
    registry.register(Box::new(counts.exported))?;
    registry.register(Box::new(counts.dropped))
}

fn counts() -> Result<Counts, String> {
    COUNTS.as_ref().cloned().map_err(ToString::to_string)
}

/// The span of an odds update that arrives, if it is sampled. It began at `received`.
pub(crate) fn sample_odds(name: &'static str, received: Timestamp) -> Option<Span> {
    let tracing = active()?;
    let micros = u64::try_from(received.micros()).ok()?;
    if !tracing.odds.samples(micros) {
        return None;
    }
    let began = UNIX_EPOCH + Duration::from_micros(micros);
    Some(Span::root(SpanKind::Consumer, name).began(began))
}

/// The span of a request for a bet, if it is sampled. It belongs to the trace of `incoming`, the
/// caller's `traceparent`. `is_trusted`: whether the caller may decide that the request is sampled.
pub(crate) fn sample_bet(
    incoming: Option<TraceParent>,
    is_trusted: bool,
    name: &'static str,
) -> SampledRequest {
    let Some(tracing) = active() else {
        // What follows may be traced elsewhere.
        let parent = incoming.filter(|parent| is_trusted && parent.is_sampled);
        return SampledRequest {
            span: Span::child(parent, SpanKind::Server, name),
            decision: None,
        };
    };
    let parent = incoming.unwrap_or_else(TraceParent::random);
    if !tracing.bets.decides(incoming, is_trusted, fastrand::f64()) {
        return SampledRequest {
            span: Span::default(),
            decision: Some(TraceParent {
                is_sampled: false,
                ..parent
            }),
        };
    }
    let parent = TraceParent {
        is_sampled: true,
        ..parent
    };
    let span = match incoming {
        Some(_) => Span::child(Some(parent), SpanKind::Server, name),
        None => Span::root(SpanKind::Server, name),
    };
    let decision = span.context();
    SampledRequest { span, decision }
}

/// What was decided about a request.
#[derive(Debug, Default)]
pub(crate) struct SampledRequest {
    /// The span of the request.
    pub span: Span,
    /// What a service behind this process is sent, so that it decides alike. `None` if nothing was
    /// decided, because this process exports no traces.
    pub decision: Option<TraceParent>,
}

fn exporter(options: &TraceOptions) -> Result<opentelemetry_otlp::SpanExporter, TraceError> {
    let failed = |error: &dyn std::fmt::Display| TraceError::Exporter(error.to_string());
    let mut client = reqwest::blocking::Client::builder()
        .timeout(EXPORT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if let Some(tls) = &options.tls {
        client = client.tls_backend_preconfigured(ClientConfig::clone(tls));
    }
    // It is built outside of async code, but `finish` may run where a runtime still exists.
    let client = client.build().map_err(|error| failed(&error))?;
    let mut endpoint = options.endpoint.clone();
    let path = format!("{}/v1/traces", endpoint.path().trim_end_matches('/'));
    endpoint.set_path(&path);
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| failed(&error))?;
    let attributes = options.attributes.iter().cloned();
    let attributes = attributes.map(|(key, value)| KeyValue::new(key, value));
    let resource = Resource::builder_empty()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(attributes)
        .with_service_name(options.service.clone())
        .build();
    exporter.set_resource(&resource);
    Ok(exporter)
}

/// The beginning of an error's text, which may quote the collector.
fn beginning_of(error: &dyn std::fmt::Display) -> String {
    error.to_string().chars().take(200).collect()
}
