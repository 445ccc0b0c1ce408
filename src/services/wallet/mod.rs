//! Users' money.

pub(crate) mod executor;
pub(crate) mod operations;
