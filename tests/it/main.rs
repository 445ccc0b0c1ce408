//! The platform as a whole, over real sockets: either through the same builder that `serve` uses,
//! or as the real binary.

// Helpers may panic; clippy.toml allows it within test functions only.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod architecture;
mod betfair;
mod clients;
mod documents;
mod gateway;
mod grpc;
mod money;
mod operation;
mod original;
mod pipeline;
mod process;
mod rest;
mod stale;
mod support;
mod survive;
mod tls;
mod tracing;
