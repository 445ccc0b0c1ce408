//! The platform as a whole: the same builder that `serve` uses, or the real binary, over real
//! sockets.

// Helpers may fail loudly; clippy.toml allows it within test functions only.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod betfair;
mod clients;
mod money;
mod operation;
mod original;
mod pipeline;
mod process;
mod rest;
mod stale;
mod support;
mod survive;
