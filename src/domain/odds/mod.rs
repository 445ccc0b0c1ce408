//! Updates, prices and books.

pub mod book;
pub(crate) mod plausible;
pub(crate) mod price;
pub(crate) mod status;
pub(crate) mod unknown;
pub mod update;
pub(crate) mod version_stamp;
