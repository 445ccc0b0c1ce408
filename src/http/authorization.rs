//! Who may use a route. Each route names the scope that it requires; the caller's credential is read
//! from the header `Authorization: Bearer`, or `X-Api-Key`.

use std::future::{Ready, ready};

use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};

use super::errors::ApiError;
use crate::access::Access;
use crate::domain::access::{AccessDenied, Caller, Scope};

/// Authenticates the caller of a request and checks its right. Handlers get the caller as an
/// argument.
pub(super) async fn authorize(
    scope: Scope,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let caller = checked(scope, &request)?;
    request.extensions_mut().insert(caller);
    next.call(request).await
}

/// Like [`authorize`], for the upgrade to a WebSocket. A caller without a credential passes, because
/// its first message may hold one.
pub(super) async fn authorize_upgrade(
    scope: Scope,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let caller = match checked(scope, &request) {
        Err(ApiError::AccessDenied(AccessDenied::Unauthenticated)) => Caller::Anonymous,
        checked => checked?,
    };
    request.extensions_mut().insert(caller);
    next.call(request).await
}

fn checked(scope: Scope, request: &ServiceRequest) -> Result<Caller, ApiError> {
    let access = request
        .app_data::<web::Data<Access>>()
        .ok_or(ApiError::AccessUnknown)?;
    let credential = credential(request.headers())?;
    let caller =
        access
            .authenticate(credential)
            .map_err(|invalid| match invalid.is_temporary() {
                true => ApiError::StoreUnavailable,
                false => ApiError::InvalidCredential(invalid.to_string()),
            })?;
    caller.require(scope, access.is_odds_public())?;
    Ok(caller)
}

/// The token or API key of a request.
pub(crate) fn credential(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let invalid = |problem: &str| ApiError::InvalidCredential(problem.to_owned());
    let mut keys = headers.get_all("x-api-key");
    let mut tokens = headers.get_all(header::AUTHORIZATION);
    let (key, token) = (keys.next(), tokens.next());
    if keys.next().is_some() || tokens.next().is_some() || key.is_some() && token.is_some() {
        return Err(invalid("more than one credential is given"));
    }
    match (key, token) {
        (None, None) => Ok(None),
        (Some(key), _) => key
            .to_str()
            .map(Some)
            .map_err(|_| invalid("the header X-Api-Key is not ASCII")),
        (None, Some(token)) => {
            let token = token.to_str().ok().and_then(|text| text.split_once(' '));
            token
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .map(|(_, token)| Some(token.trim()))
                .ok_or_else(|| invalid("the header Authorization is not `Bearer TOKEN`"))
        }
    }
}

/// The caller of a request, in handlers. Present on every route that names a scope.
#[derive(Clone, Debug)]
pub(crate) struct CurrentCaller(pub Caller);

impl FromRequest for CurrentCaller {
    type Error = ApiError;
    type Future = Ready<Result<CurrentCaller, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = request.extensions().get::<Caller>().cloned();
        ready(caller.map(CurrentCaller).ok_or(ApiError::AccessUnknown))
    }
}
