//! Who may call a method. Each method names the scope that it requires in the table of its service
//! (`method.rs`); the caller's credential is read from the metadata, as REST reads it from headers.

use std::net::IpAddr;

use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::status::{CallError, refused};
use crate::access::Access;
use crate::domain::access::{Caller, Scope};
use crate::domain::ids::UserId;
use crate::domain::trace_parent::TRACEPARENT;
use crate::http::addresses::Client;
use crate::http::authorization::credential;
use crate::http::errors::ApiError;
use crate::http::idempotency;
use crate::http::limits::RequestLimits;
use crate::http::origin::log_refusal;
use crate::http::request_trace;
use crate::telemetry::metrics::GrpcMetrics;
use crate::telemetry::trace::Span;

/// The metadata that REST reads from headers of the same names.
const HEADERS: [&str; 6] = [
    "authorization",
    "x-api-key",
    "idempotency-key",
    "x-forwarded-for",
    "forwarded",
    TRACEPARENT,
];

/// What only browsers send.
const PAGE_HEADERS: [&str; 2] = ["origin", "sec-fetch-site"];
/// The longest part of a header that an error repeats, in characters.
const MAX_SHOWN: usize = 120;

/// The address of the other side of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub IpAddr);

/// What a method requires of its caller, and what its calls count as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    scope: Scope,
    counts_as: CountsAs,
}

#[derive(Clone, Copy, Debug)]
enum CountsAs {
    Read,
    Write,
    Stream,
}

impl Rule {
    /// A method that reads.
    pub(super) const fn read(scope: Scope) -> Rule {
        let counts_as = CountsAs::Read;
        Rule { scope, counts_as }
    }

    /// A method that changes something.
    pub(super) const fn write(scope: Scope) -> Rule {
        let counts_as = CountsAs::Write;
        Rule { scope, counts_as }
    }

    /// A method that opens a stream.
    pub(super) const fn stream(scope: Scope) -> Rule {
        let counts_as = CountsAs::Stream;
        Rule { scope, counts_as }
    }
}

/// A call that was admitted.
pub(super) struct Call {
    /// Who calls.
    pub caller: Caller,
    /// Whom limits by address count it for. `None` only in tests.
    pub client: Option<Client>,
    headers: HeaderMap,
    /// Whether a trusted proxy sends the call.
    is_from_proxy: bool,
}

impl Call {
    /// Begins the span of a call for a bet.
    pub(super) fn begin_trace(&self, name: &'static str) -> Span {
        request_trace::begin_call(&self.headers, self.is_from_proxy, &self.caller, name)
    }

    /// The idempotency key, if there is one.
    pub(super) fn key(&self) -> Result<Option<String>, ApiError> {
        idempotency::key(&self.headers, &None)
    }

    /// The user whose data is read: the one that is named, else the caller's own.
    pub(super) fn user_to_read(&self, named: &str) -> Result<UserId, ApiError> {
        let user = self.user(named)?;
        if self.caller.sees(&user) {
            Ok(user)
        } else {
            Err(crate::domain::access::AccessDenied::OtherUser.into())
        }
    }

    /// The user for whom something is done: the one that is named, else the caller's own.
    pub(super) fn user_to_act_for(&self, named: &str) -> Result<UserId, ApiError> {
        let user = self.user(named)?;
        self.caller.act_for(&user)?;
        Ok(user)
    }

    fn user(&self, named: &str) -> Result<UserId, ApiError> {
        match (named, self.caller.own_user()) {
            ("", Some(own)) => Ok(own.clone()),
            _ => super::read::id("user_id", named),
        }
    }
}

/// Admits the calls of a service.
#[derive(Clone)]
pub(crate) struct Admission {
    /// Authenticates callers.
    pub access: Access,
    /// How many calls a client may make, in common with REST.
    pub limits: RequestLimits,
    /// The metrics.
    pub metrics: GrpcMetrics,
}

impl Admission {
    /// Refuses the pages of browsers, and counts a request against the limit of its address, before
    /// it is routed.
    pub(super) fn admit_request(&self, request: Request<()>) -> Result<Request<()>, Status> {
        refuse_page(request.metadata()).map_err(refused)?;
        let client = self.client(&request, &headers(request.metadata()));
        self.limits.admit_address(client).map_err(refused)?;
        Ok(request)
    }

    /// Admits a call and handles it.
    pub(super) async fn call<Q, A, F>(
        &self,
        method: &'static str,
        rule: Rule,
        request: Request<Q>,
        handle: impl FnOnce(Call, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, CallError>>,
    {
        let mut count = CountOnDrop {
            metrics: &self.metrics,
            method,
            code: Some(tonic::Code::Cancelled),
        };
        let answer = match self.admit(rule, &request) {
            Ok(call) => handle(call, request.into_inner()).await,
            Err(error) => Err(error.into()),
        };
        let answer = answer.map_err(|error| error.status());
        let is_open = answer.is_ok() && matches!(rule.counts_as, CountsAs::Stream);
        let code = answer
            .as_ref()
            .map_or_else(Status::code, |_| tonic::Code::Ok);
        // A stream is counted at its end.
        count.code = Some(code).filter(|_| !is_open);
        answer.map(Response::new)
    }

    /// Authenticates a caller, counts the call against the caller's limits, and checks the caller's
    /// right.
    fn admit<Q>(&self, rule: Rule, request: &Request<Q>) -> Result<Call, ApiError> {
        let headers = headers(request.metadata());
        let client = self.client(request, &headers);
        let caller = self.authenticate(&headers);
        match &caller {
            Ok(caller) => self.count(rule, caller, client)?,
            Err(ApiError::InvalidCredential(_)) => self.limits.charge_failed_authentication(client),
            // The caller is not at fault.
            Err(_) => {}
        }
        let caller = caller?;
        caller.require(rule.scope, self.access.is_odds_public())?;
        let peer = request.extensions().get::<Peer>();
        Ok(Call {
            caller,
            client,
            headers,
            is_from_proxy: peer.is_some_and(|peer| self.limits.is_proxy(peer.0)),
        })
    }

    fn count(&self, rule: Rule, caller: &Caller, client: Option<Client>) -> Result<(), ApiError> {
        match rule.counts_as {
            CountsAs::Read => self.limits.admit_request(&Method::GET, caller, client),
            CountsAs::Write => self.limits.admit_request(&Method::POST, caller, client),
            CountsAs::Stream => self.limits.admit_socket(caller, client),
        }
    }

    fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let credential = match self.access.rules() {
            Some(_) => credential(headers)?,
            None => None,
        };
        self.access
            .authenticate(credential)
            .map_err(|invalid| match invalid.is_temporary() {
                true => ApiError::StoreUnavailable,
                false => ApiError::InvalidCredential(invalid.to_string()),
            })
    }

    fn client<Q>(&self, request: &Request<Q>, headers: &HeaderMap) -> Option<Client> {
        let peer = request.extensions().get::<Peer>()?;
        self.limits.client_of(peer.0, headers)
    }
}

/// Counts a call, also if its client has ended it before it was answered.
struct CountOnDrop<'a> {
    metrics: &'a GrpcMetrics,
    method: &'static str,
    code: Option<tonic::Code>,
}

impl Drop for CountOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(code) = self.code {
            self.metrics.count(self.method, code_label(code));
        }
    }
}

/// The label of a code in metrics.
pub(super) fn code_label(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::Unknown => "UNKNOWN",
    }
}

/// Refuses requests of web pages: browsers send both headers with every request that changes
/// something, programs send neither. A page could otherwise move money where callers are not checked,
/// because a request of a simple content type needs no preflight.
fn refuse_page(metadata: &MetadataMap) -> Result<(), ApiError> {
    let origin = PAGE_HEADERS.iter().find_map(|name| metadata.get(*name));
    let Some(origin) = origin else { return Ok(()) };
    let shown = origin.as_encoded_bytes().escape_ascii().to_string();
    let refusal = ApiError::OriginNotAllowed(shown.chars().take(MAX_SHOWN).collect());
    log_refusal(&refusal);
    Err(refusal)
}

/// The headers of REST among the metadata of a call.
fn headers(metadata: &MetadataMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in HEADERS {
        for value in metadata.get_all(name) {
            // Every value of one is a value of the other.
            if let Ok(value) = HeaderValue::from_bytes(value.as_encoded_bytes()) {
                headers.append(HeaderName::from_static(name), value);
            }
        }
    }
    headers
}
