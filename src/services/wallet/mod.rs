//! Users' money.

pub mod executor;
