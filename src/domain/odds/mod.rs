//! Updates, prices and books.

pub mod book;
pub mod continuity;
pub mod failover;
pub mod hold;
pub(crate) mod plausible;
pub(crate) mod price;
pub mod restriction_change;
pub mod restrictions;
pub mod source_status;
pub(crate) mod status;
pub(crate) mod unknown;
pub mod update;
pub(crate) mod version_stamp;
