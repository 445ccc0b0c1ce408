//! Web pages that are part of the binary: `/board`, the live board. A page is static and public;
//! what it shows comes from the same routes that every client uses, under the caller's rights.

mod assets;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, ETag, EntityTag, HeaderMap, HeaderValue, IfNoneMatch};
use actix_web::middleware::{Compress, Next, from_fn};
use actix_web::{HttpResponse, web};

use self::assets::{ASSETS, Asset, INDEX};
use super::errors::not_found;
use super::origin;
use super::routes::open_resource;

/// Mounts the pages. Their requests to the services go to `/api/…` of the same origin.
pub fn pages(config: &mut web::ServiceConfig) {
    let mut board = web::scope("/board")
        .wrap(Compress::default())
        .wrap(from_fn(protect))
        .service(file("", &INDEX))
        .service(open_resource("/", || async {
            // The page refers to its files relative to `/board`.
            HttpResponse::PermanentRedirect()
                .insert_header((header::LOCATION, "../board"))
                .finish()
        }));
    for asset in ASSETS {
        board = board.service(file(asset.path, asset));
    }
    config.service(board.default_service(web::to(not_found)));
}

fn file(path: &'static str, asset: &'static Asset) -> actix_web::Resource {
    let tag = asset.tag();
    open_resource(path, move |known: Option<web::Header<IfNoneMatch>>| {
        let answer = answer(asset, &tag, known.as_deref());
        async move { answer }
    })
}

/// The file, or 304 if the client has it. A client may keep it but asks each time, because the names
/// of the files stay the same from version to version.
fn answer(asset: &Asset, tag: &EntityTag, known: Option<&IfNoneMatch>) -> HttpResponse {
    let is_known = match known {
        Some(IfNoneMatch::Any) => true,
        Some(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(tag)),
        None => false,
    };
    let mut response = if is_known {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    response
        .insert_header(ETag(tag.clone()))
        .insert_header((header::CACHE_CONTROL, "no-cache"));
    if is_known {
        response.finish()
    } else {
        response.content_type(asset.content_type).body(asset.body)
    }
}

/// Adds the headers that restrict what a page may do.
async fn protect(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let policy = content_security_policy(request.headers());
    let mut response = next.call(request).await?;
    let headers = response.headers_mut();
    let mut set = |name, value| {
        headers.insert(name, value);
    };
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        set(header::CONTENT_SECURITY_POLICY, policy);
    }
    let fixed = HeaderValue::from_static;
    set(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    set(header::REFERRER_POLICY, fixed("no-referrer"));
    Ok(response)
}

/// Scripts, styles and images of this origin only, nothing inline, and connections to this origin
/// only. Some browsers do not take `'self'` for the WebSockets of the same host, so it is named.
fn content_security_policy(headers: &HeaderMap) -> String {
    let sockets = socket_host(headers)
        .map(|host| format!(" ws://{host} wss://{host}"))
        .unwrap_or_default();
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'{sockets}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
}

/// The `Host` of a request if it may stand in a policy: a valid name with a port. A policy cannot
/// name IPv6 addresses.
fn socket_host(headers: &HeaderMap) -> Option<&str> {
    origin::host(headers).ok()?;
    let text = headers.get(header::HOST)?.to_str().ok()?;
    (!text.starts_with('[')).then_some(text)
}

#[cfg(test)]
mod tests;
