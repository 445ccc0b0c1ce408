//! Shared building blocks: time, retries, health, batching.

pub mod actor;
pub mod address_permit;
pub mod backlog;
pub mod backoff;
pub mod circuit_breaker;
pub mod clock;
pub mod connection;
pub mod drain;
pub mod feed_health;
pub mod health;
pub mod liveness;
pub mod tls;
