//! Who may use a route. Each route names the scope that it requires; the caller's credential is read
//! from the header `Authorization: Bearer`, or `X-Api-Key`. If callers are not checked (`AUTH=off`),
//! both headers are ignored: they may be meant for somebody else.

use std::future::{Ready, ready};

use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};

use super::body::missing_query;
use super::errors::ApiError;
use super::limits::RequestLimits;
use super::query::Query;
use crate::access::{Access, api_key};
use crate::domain::access::{AccessDenied, Caller, Scope};
use crate::domain::ids::UserId;

/// A gateway with `AUTH=required` sends this header, with the value `required`. A service with
/// `AUTH=off` refuses such a request where a caller is needed, instead of serving everybody.
pub(super) const REQUIRED: &str = "sports-bet-auth";

/// Authenticates the caller of a request, counts the request against the caller's limits, and
/// checks the caller's right. Handlers get the caller as an argument.
pub(super) async fn authorize(
    scope: Scope,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let caller = checked(scope, &request);
    call_as(caller, request, next).await
}

/// Like [`authorize`], for the upgrade to a WebSocket. A caller without a credential passes, because
/// its first message may hold one.
pub(super) async fn authorize_upgrade(
    scope: Scope,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let caller = match checked(scope, &request) {
        Err(ApiError::AccessDenied(AccessDenied::Unauthenticated)) => Ok(Caller::Anonymous),
        checked => checked,
    };
    call_as(caller, request, next).await
}

async fn call_as(
    caller: Result<Caller, ApiError>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            let answer = next.call(request).await?;
            Ok(answer.map_into_left_body())
        }
        // An answer of this route, so that its latency is measured as such.
        Err(refused) => Ok(request.error_response(refused).map_into_right_body()),
    }
}

fn checked(scope: Scope, request: &ServiceRequest) -> Result<Caller, ApiError> {
    let access = request
        .app_data::<web::Data<Access>>()
        .ok_or(ApiError::AccessUnknown)?;
    let caller = authenticated(access, request);
    if let Some(limits) = request.app_data::<RequestLimits>() {
        let client = limits.client(request.head());
        match &caller {
            Ok(caller) => limits.admit_request(request.method(), caller, client)?,
            Err(ApiError::InvalidCredential(_)) => limits.charge_failed_authentication(client),
            // The caller is not at fault.
            Err(_) => {}
        }
    }
    let caller = caller?;
    let is_odds_public = access.is_odds_public();
    if caller == Caller::Unchecked && request.headers().contains_key(REQUIRED) {
        let caller = Caller::Anonymous;
        let allowed = caller.require(scope, is_odds_public);
        return allowed
            .map(|()| caller)
            .map_err(|_| ApiError::authentication_off());
    }
    caller.require(scope, is_odds_public)?;
    if request.method() == Method::POST && caller != Caller::Unchecked {
        refuse_user_in_query(&caller, request.query_string())?;
    }
    Ok(caller)
}

fn authenticated(access: &Access, request: &ServiceRequest) -> Result<Caller, ApiError> {
    let credential = match access.rules() {
        Some(_) => credential(request.headers())?,
        None => None,
    };
    access
        .authenticate(credential)
        .map_err(|invalid| match invalid.is_temporary() {
            true => ApiError::StoreUnavailable,
            false => ApiError::InvalidCredential(invalid.to_string()),
        })
}

/// Refuses a `userId` in the query of a POST: its user is in the body, and the two may differ.
/// Where callers are not checked it is ignored, as in the original.
fn refuse_user_in_query(caller: &Caller, query: &str) -> Result<(), ApiError> {
    let named: Option<UserId> = Query::read(query)?.parsed("userId")?;
    let Some(user) = named else {
        return Ok(());
    };
    caller.act_for(&user)?;
    Err(ApiError::BadQuery {
        parameter: "userId".to_owned(),
        problem: "it belongs in the body".to_owned(),
    })
}

/// The user whose data a request reads: the parameter `userId`, else the caller's own user.
pub(super) fn user_to_read(caller: &Caller, query: &Query) -> Result<UserId, ApiError> {
    let named: Option<UserId> = query.parsed("userId")?;
    let user = named
        .or_else(|| caller.own_user().cloned())
        .ok_or_else(|| missing_query("userId"))?;
    if caller.sees(&user) {
        Ok(user)
    } else {
        Err(AccessDenied::OtherUser.into())
    }
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
            .ok()
            .filter(|key| key.starts_with(api_key::MARK))
            .map(Some)
            .ok_or_else(|| invalid("the header X-Api-Key is not an API key (`sbk_…`)")),
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

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, HttpResponse};
    use pretty_assertions::assert_eq;

    use super::*;
    use crate::http::routes::read_resource;

    fn read(headers: &[(&str, &[u8])]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        match credential(&map) {
            Ok(credential) => format!("{credential:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn one_credential_is_read() {
        assert_eq!(read(&[]), "None");
        assert_eq!(read(&[("x-api-key", b"sbk_k")]), r#"Some("sbk_k")"#);
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let value = format!("{scheme} a.b.c");
            assert_eq!(
                read(&[("authorization", value.as_bytes())]),
                r#"Some("a.b.c")"#
            );
        }
    }

    #[test]
    fn two_credentials_are_refused() {
        let (token, key): ((_, &[u8]), (_, &[u8])) =
            (("authorization", b"Bearer t"), ("x-api-key", b"sbk_k"));
        for both in [[token, token], [key, key], [token, key], [key, token]] {
            assert_eq!(
                read(&both),
                "invalid credential: more than one credential is given"
            );
        }
    }

    #[test]
    fn malformed_credential_is_refused() {
        for value in ["Bearer", "t", "Basic dTpw", "Bearer\tt", ""] {
            assert_eq!(
                read(&[("authorization", value.as_bytes())]),
                "invalid credential: the header Authorization is not `Bearer TOKEN`",
                "{value:?}"
            );
        }
        // A token belongs into the other header.
        for value in ["é", "sbk_é", "a.b.c", "Bearer sbk_k", ""] {
            assert_eq!(
                read(&[("x-api-key", value.as_bytes())]),
                "invalid credential: the header X-Api-Key is not an API key (`sbk_…`)",
                "{value:?}"
            );
        }
    }

    /// Whatever credentials are meant for somebody else, such as a proxy.
    #[actix_web::test]
    async fn unchecked_callers_may_send_anything() {
        let handler = |caller: CurrentCaller| async move {
            assert_eq!(caller.0, Caller::Unchecked);
            HttpResponse::Ok().finish()
        };
        let resource = read_resource("/", Scope::WalletMove, handler);
        let access = web::Data::new(Access::off());
        let app = init_service(App::new().app_data(access).service(resource)).await;
        let sent: [&[(&str, &str)]; 4] = [
            &[("authorization", "Basic dTpw")],
            &[("authorization", "Negotiate"), ("x-api-key", "k")],
            &[("x-api-key", "k"), ("x-api-key", "l")],
            &[("x-api-key", "é")],
        ];
        for headers in sent {
            let mut request = TestRequest::get();
            for (name, value) in headers {
                let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
                request = request.append_header((*name, value));
            }
            let answer = call_service(&app, request.to_request()).await;
            assert_eq!(answer.status(), 200, "{headers:?}");
        }
    }

    /// A server that was started without rules serves nobody.
    #[actix_web::test]
    async fn route_without_rules_is_closed() {
        let handler = || async { HttpResponse::Ok().finish() };
        let resource = read_resource("/", Scope::OddsRead, handler);
        let app = init_service(App::new().service(resource)).await;
        let answer = call_service(&app, TestRequest::get().to_request()).await;
        assert_eq!(answer.status(), 500);
    }
}
