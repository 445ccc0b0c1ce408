//! The gateway's own pages and documents.

use actix_web::web;

use crate::http::index::Link;

/// What [`mount`] serves, for `GET /`.
pub(super) const LINKS: &[Link] = &[];

/// Registers the gateway's own pages and documents. Each is registered here and listed in
/// [`LINKS`].
pub(super) fn mount(_config: &mut web::ServiceConfig) {}
