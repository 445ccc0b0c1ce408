//! Logs, metrics and traces.

pub(crate) mod limited_logger;
pub(crate) mod log_filter;
pub mod log_format;
pub mod log_limit;
pub mod logging;
pub mod metrics;
pub(crate) mod redact;
pub(crate) mod role;
pub mod trace;
pub mod version;
