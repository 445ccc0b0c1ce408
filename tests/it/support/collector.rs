//! A collector of traces: it decodes OTLP/HTTP, and confirms bets as the supplier of bets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Content;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use parking_lot::Mutex;
use prost::Message;
use serde_json::json;

use super::until;

/// A span as it was received.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedSpan {
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty for the first span of a trace.
    pub parent: String,
    /// The name of the process.
    pub service: String,
    pub attributes: BTreeMap<String, String>,
    /// The ids of the spans that it links to.
    pub links: Vec<String>,
    pub is_error: bool,
    /// In nanoseconds.
    pub start: u64,
    pub end: u64,
}

/// How the collector responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Accept,
    Refuse,
    Hang,
}

#[derive(Clone)]
struct Shared {
    spans: Arc<Mutex<Vec<ReceivedSpan>>>,
    /// `traceparent` of each call to the supplier.
    calls: Arc<Mutex<Vec<Option<String>>>>,
    behaviour: Arc<Mutex<Behaviour>>,
}

/// A running collector. It stops when it is dropped.
pub struct Collector {
    shared: Shared,
    address: SocketAddr,
    server: ServerHandle,
}

impl Collector {
    /// Listens on a free port, on a thread of its own: a busy test must not slow it down.
    pub fn start(behaviour: Behaviour) -> Collector {
        let shared = Shared {
            spans: Arc::default(),
            calls: Arc::default(),
            behaviour: Arc::new(Mutex::new(behaviour)),
        };
        let (started, address) = channel();
        let state = shared.clone();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new()
                        .app_data(web::Data::new(state.clone()))
                        .app_data(web::PayloadConfig::new(64 * 1024 * 1024))
                        .route("/v1/traces", web::post().to(receive))
                        .route("/supplier/confirm", web::post().to(confirm))
                });
                let server = server.workers(1).disable_signals();
                let server = server.bind("127.0.0.1:0").unwrap();
                let address = server.addrs()[0];
                let server = server.run();
                started.send((address, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (address, server) = address.recv().unwrap();
        Collector {
            shared,
            address,
            server,
        }
    }

    /// The value for `OTEL_EXPORTER_OTLP_ENDPOINT`, and for `SUPPLIER_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Responds in this way from now on.
    pub fn set(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock() = behaviour;
    }

    /// Everything received so far.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        self.shared.spans.lock().clone()
    }

    /// `traceparent` of each call to the supplier so far.
    pub fn calls(&self) -> Vec<Option<String>> {
        self.shared.calls.lock().clone()
    }

    /// Waits until a trace satisfies a condition, and returns it.
    pub async fn until_trace(&self, what: &str, wanted: impl Fn(&Trace) -> bool) -> Trace {
        until(what, || async {
            let mut traces: BTreeMap<String, Vec<ReceivedSpan>> = BTreeMap::new();
            for span in self.spans() {
                traces.entry(span.trace.clone()).or_default().push(span);
            }
            traces.into_values().map(Trace).find(|trace| wanted(trace))
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // Sent when it is called; the future only waits for the end.
        drop(self.server.stop(false));
    }
}

/// The spans of one trace.
#[derive(Clone, Debug)]
pub struct Trace(pub Vec<ReceivedSpan>);

impl Trace {
    /// The spans with this name.
    pub fn all(&self, name: &str) -> Vec<&ReceivedSpan> {
        self.0.iter().filter(|span| span.name == name).collect()
    }

    /// The only span with this name.
    pub fn one(&self, name: &str) -> &ReceivedSpan {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "{name}: {self:#?}");
        all[0]
    }

    /// Whether it has a span with this name.
    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// Whether it has a span with each of these names.
    pub fn has_all(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.has(name))
    }

    /// The names from the first span to this one.
    pub fn path(&self, span: &ReceivedSpan) -> Vec<&str> {
        let parent = self.0.iter().find(|it| it.id == span.parent);
        let mut path = parent.map_or(Vec::new(), |parent| self.path(parent));
        let span = self.0.iter().find(|it| it.id == span.id).unwrap();
        path.push(&span.name);
        path
    }
}

async fn receive(state: web::Data<Shared>, body: web::Bytes) -> HttpResponse {
    let behaviour = *state.behaviour.lock();
    match behaviour {
        Behaviour::Accept => {}
        Behaviour::Refuse => return HttpResponse::InternalServerError().finish(),
        Behaviour::Hang => std::future::pending().await,
    }
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut received = Vec::new();
    for group in request.resource_spans {
        let resource = attributes(group.resource.unwrap_or_default().attributes);
        let service = resource.get("service.name").cloned().unwrap_or_default();
        for span in group.scope_spans.into_iter().flat_map(|it| it.spans) {
            received.push(ReceivedSpan {
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                service: service.clone(),
                attributes: attributes(span.attributes),
                links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
                is_error: span.status.is_some_and(|status| status.code == 2),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
            });
        }
    }
    state.spans.lock().extend(received);
    HttpResponse::Ok().finish()
}

async fn confirm(state: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let trace = request.headers().get("traceparent");
    let trace = trace.map(|value| value.to_str().unwrap().to_owned());
    state.calls.lock().push(trace);
    HttpResponse::Ok().json(json!({"status": "CONFIRMED", "providerRef": "p1"}))
}

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|it| it.value) {
        Some(Content::StringValue(text)) => text,
        Some(Content::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    list.into_iter()
        .map(|pair| (pair.key, text(pair.value)))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How long a test waits before it concludes that nothing is traced: several exports.
pub const QUIET: Duration = Duration::from_millis(1_500);
