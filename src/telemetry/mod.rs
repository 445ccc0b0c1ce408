//! Logs and metrics.

pub mod limited_logger;
pub mod log_filter;
pub mod log_format;
pub mod log_limit;
pub mod logging;
pub mod metrics;
pub mod redact;
pub mod role;
