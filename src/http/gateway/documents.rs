//! The gateway's own pages and documents.

use actix_web::web;

use crate::http::index::Link;
use crate::http::{documents, pages};

/// The gateway's own page, for `GET /`.
pub(super) const BOARD: Link = Link::new("board", "board");

/// Registers the gateway's own pages and documents.
pub(super) fn mount(config: &mut web::ServiceConfig) {
    documents::routes(config);
    documents::swagger::routes(config);
    pages::pages(config);
}
