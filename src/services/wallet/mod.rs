//! Users' money.

pub(crate) mod executor;
