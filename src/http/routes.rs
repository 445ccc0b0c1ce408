//! Parts shared by all routes.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::middleware::{Next, from_fn};
use actix_web::{FromRequest, Handler, Resource, Responder, Route, web};
use serde::Serialize;

use super::authorization::{authorize, authorize_upgrade};
use super::errors::method_not_allowed;
use super::latency::{Timed, Timer, status_of};
use super::query::check_escapes;
use crate::domain::access::Scope;

/// A page of a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageBody<T> {
    /// Its entries, newest first.
    pub entries: Vec<T>,
    /// The cursor of the next page; `None` on the last page.
    pub next_cursor: Option<String>,
}

impl<T> PageBody<T> {
    /// The page of these rows, of which at most `limit` were read. `cursor` is that of a row.
    pub(super) fn new<'a, R>(
        rows: &'a [R],
        limit: usize,
        view: impl FnMut(&'a R) -> T,
        cursor: impl FnOnce(&R) -> String,
    ) -> PageBody<T> {
        let last = rows.last().filter(|_| rows.len() == limit);
        PageBody {
            entries: rows.iter().map(view).collect(),
            next_cursor: last.map(cursor),
        }
    }
}

/// State whose requests are counted.
pub(super) trait CountsRequests: Timed {
    /// Counts a response.
    fn count(&self, status: StatusCode);
}

/// Refuses a URL that cannot be decoded, counts responses by status, and measures their latency.
pub(super) async fn count_requests<S: CountsRequests>(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let state = request.app_data::<web::Data<S>>().cloned();
    let timer = Timer::start(&request);
    let readable =
        check_escapes(request.uri().path()).and_then(|()| check_escapes(request.query_string()));
    let answer = match readable {
        Ok(()) => next.call(request).await,
        Err(error) => Err(error.into()),
    };
    if let Some(state) = state {
        timer.stop(state.request_seconds(), &answer);
        state.count(status_of(&answer));
    }
    answer
}

/// A GET route of a resource. The caller needs this scope.
pub(super) fn get<F, Args>(scope: Scope, handler: F) -> Route
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    required(scope, web::get().to(handler))
}

/// A HEAD route of a resource. The caller needs this scope.
pub(super) fn head<F, Args>(scope: Scope, handler: F) -> Route
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    required(scope, web::head().to(handler))
}

/// A POST route of a resource. The caller needs this scope.
pub(super) fn post<F, Args>(scope: Scope, handler: F) -> Route
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    required(scope, web::post().to(handler))
}

/// The GET route of a WebSocket. A caller with a credential needs this scope; any other one has to
/// authenticate with its first message, or reads what is public.
pub(super) fn upgrade<F, Args>(scope: Scope, handler: F) -> Route
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::get().to(handler).wrap(from_fn(move |request, next| {
        authorize_upgrade(scope, request, next)
    }))
}

fn required(scope: Scope, route: Route) -> Route {
    route.wrap(from_fn(move |request, next| {
        authorize(scope, request, next)
    }))
}

/// A resource with GET and HEAD that refuses all other methods.
pub(super) fn read_resource<F, Args>(path: &'static str, scope: Scope, handler: F) -> Resource
where
    F: Handler<Args> + Clone,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path)
        .route(get(scope, handler.clone()))
        .route(head(scope, handler))
        .default_service(web::to(|request| method_not_allowed(request, "GET, HEAD")))
}

/// A resource with GET and HEAD for anybody, such as a health check.
pub(super) fn open_resource<F, Args>(path: &'static str, handler: F) -> Resource
where
    F: Handler<Args> + Clone,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path)
        .route(web::get().to(handler.clone()))
        .route(web::head().to(handler))
        .default_service(web::to(|request| method_not_allowed(request, "GET, HEAD")))
}

/// A resource that accepts only POST.
pub(super) fn post_resource<F, Args>(path: &'static str, scope: Scope, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path)
        .route(post(scope, handler))
        .default_service(web::to(|request| method_not_allowed(request, "POST")))
}
