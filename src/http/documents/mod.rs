//! The documents of the API, embedded in the binary: `/openapi.yaml` and `/asyncapi.yaml`, for anybody.

pub mod swagger;

use std::future::ready;
use std::hash::{DefaultHasher, Hash, Hasher};

use actix_web::http::header::{ETag, EntityTag, HeaderValue, IfNoneMatch};
use actix_web::{HttpResponse, Resource, web};

use super::index::Link;
use super::revalidation::{has, revalidate};
use super::routes::open_resource;

/// The REST API, in OpenAPI.
pub const OPENAPI: &str = include_str!("../../../docs/api/openapi.yaml");
/// The messages of the WebSocket, of Kafka and of Redis, in AsyncAPI.
pub const ASYNCAPI: &str = include_str!("../../../docs/api/asyncapi.yaml");

/// What every public port has, for `GET /`.
pub(super) const LINKS: [Link; 3] = [
    Link::new("openapi", "openapi.yaml"),
    Link::new("asyncapi", "asyncapi.yaml"),
    Link::new("swagger", "swagger/"),
];

/// The routes of the documents. Every public port has them.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(document("/openapi.yaml", OPENAPI))
        .service(document("/asyncapi.yaml", ASYNCAPI));
}

fn document(path: &'static str, text: &'static str) -> Resource {
    let tag = EntityTag::new_strong(fingerprint(text));
    open_resource(path, move |known: Option<web::Header<IfNoneMatch>>| {
        ready(answer(text, &tag, known))
    })
}

fn answer(
    text: &'static str,
    tag: &EntityTag,
    known: Option<web::Header<IfNoneMatch>>,
) -> HttpResponse {
    let is_known = has(known.as_deref(), tag);
    let mut response = if is_known {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    response.insert_header(ETag(tag.clone()));
    response.insert_header(revalidate());
    if is_known {
        response.finish()
    } else {
        response
            .content_type(HeaderValue::from_static("application/yaml"))
            .body(text)
    }
}

fn fingerprint(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests;
