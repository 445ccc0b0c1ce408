//! The files of the pages.

use std::hash::{DefaultHasher, Hash, Hasher};

use actix_web::http::header::EntityTag;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file that is part of the binary.
pub(super) struct Asset {
    /// Its path below that of its page.
    pub path: &'static str,
    /// Its type.
    pub content_type: &'static str,
    /// Its bytes.
    pub body: &'static [u8],
}

impl Asset {
    /// Identifies the content. Weak, because it also stands for the compressed form.
    pub(super) fn tag(&self) -> EntityTag {
        let mut hasher = DefaultHasher::new();
        self.body.hash(&mut hasher);
        EntityTag::new_weak(format!("{:016x}", hasher.finish()))
    }
}

macro_rules! asset {
    ($path:literal, $content_type:expr) => {
        Asset {
            path: $path,
            content_type: $content_type,
            body: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/board", $path)),
        }
    };
}

/// The page itself.
pub(super) static INDEX: Asset = asset!("/index.html", HTML);

/// The files that the page loads. A test compares them with the folder.
pub(super) static ASSETS: &[Asset] = &[
    asset!("/board.css", CSS),
    asset!("/icon.svg", SVG),
    asset!("/account-view.js", JAVASCRIPT),
    asset!("/api.js", JAVASCRIPT),
    asset!("/bet-desk.js", JAVASCRIPT),
    asset!("/board-view.js", JAVASCRIPT),
    asset!("/book.js", JAVASCRIPT),
    asset!("/chart.js", JAVASCRIPT),
    asset!("/connection.js", JAVASCRIPT),
    asset!("/dom.js", JAVASCRIPT),
    asset!("/event-list.js", JAVASCRIPT),
    asset!("/exact.js", JAVASCRIPT),
    asset!("/flash.js", JAVASCRIPT),
    asset!("/format.js", JAVASCRIPT),
    asset!("/history-view.js", JAVASCRIPT),
    asset!("/identity.js", JAVASCRIPT),
    asset!("/list-view.js", JAVASCRIPT),
    asset!("/main.js", JAVASCRIPT),
    asset!("/market-row.js", JAVASCRIPT),
    asset!("/painter.js", JAVASCRIPT),
    asset!("/panels.js", JAVASCRIPT),
    asset!("/price-cell.js", JAVASCRIPT),
    asset!("/protocol.js", JAVASCRIPT),
    asset!("/sign-in.js", JAVASCRIPT),
    asset!("/slip-view.js", JAVASCRIPT),
    asset!("/slip.js", JAVASCRIPT),
    asset!("/status-view.js", JAVASCRIPT),
];
