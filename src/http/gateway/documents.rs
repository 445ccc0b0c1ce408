//! The gateway's own pages and documents.

use actix_web::web;

use crate::http::index::Link;
use crate::http::{documents, pages};

/// What [`mount`] serves, for `GET /`.
pub(super) const LINKS: &[Link] = &[
    Link::new("board", "board"),
    Link::new("openapi", "openapi.yaml"),
    Link::new("asyncapi", "asyncapi.yaml"),
    Link::new("swagger", "swagger/"),
];

/// Registers the gateway's own pages and documents. Each is registered here and listed in
/// [`LINKS`].
pub(super) fn mount(config: &mut web::ServiceConfig) {
    documents::routes(config);
    documents::swagger::routes(config);
    pages::pages(config);
}
