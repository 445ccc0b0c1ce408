//! The documents of the API, embedded in the binary: `/openapi.yaml` and `/asyncapi.yaml`, for anybody.

pub mod swagger;

use std::future::ready;
use std::hash::{DefaultHasher, Hash, Hasher};

use actix_web::http::header::{EntityTag, IfNoneMatch};
use actix_web::{Resource, web};

use super::index::Link;
use super::revalidation::respond;
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
        ready(respond(
            text.as_bytes(),
            "application/yaml",
            &tag,
            known.as_deref(),
        ))
    })
}

fn fingerprint(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests;
