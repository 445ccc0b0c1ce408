//! Web pages that are part of the binary: `/board`, the live board. A page is static and public;
//! what it shows comes from the same routes that every client uses, under the caller's rights.

mod assets;

use std::future::ready;

use actix_web::http::header::{self, IfNoneMatch};
use actix_web::middleware::Compress;
use actix_web::{HttpResponse, web};

use self::assets::{ASSETS, Asset, INDEX};
use super::errors::not_found;
use super::revalidation::respond;
use super::routes::open_resource;

/// Mounts the pages. Their requests to the services go to `/api/…` of the same origin. The server
/// adds the policy that restricts what they may load (`headers.rs`).
pub fn pages(config: &mut web::ServiceConfig) {
    let mut board = web::scope("/board")
        .wrap(Compress::default())
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
        ready(respond(
            asset.body,
            asset.content_type,
            &tag,
            known.as_deref(),
        ))
    })
}

#[cfg(test)]
mod tests;
