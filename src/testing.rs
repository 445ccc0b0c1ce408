//! Helpers that the unit tests of several modules share.

use std::time::Duration;

/// Waits until the condition holds; panics after 60 s.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    until_async(what, async || holds()).await;
}

/// Like [`until`], for a condition that has to be requested.
pub(crate) async fn until_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..6_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("timed out after 60 s: {what}");
}
