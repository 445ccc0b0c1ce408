//! Shared building blocks: time, retries, health, batching.

pub(crate) mod actor;
pub(crate) mod backlog;
pub(crate) mod backoff;
pub(crate) mod circuit_breaker;
pub(crate) mod clock;
pub(crate) mod connection;
pub(crate) mod drain;
pub(crate) mod error_text;
pub mod feed_health;
pub(crate) mod health;
pub(crate) mod liveness;
pub(crate) mod permits;
pub mod tls;
