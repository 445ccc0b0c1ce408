//! Updates, prices and books.

pub mod book;
pub mod plausible;
pub mod price;
pub mod status;
pub mod unknown;
pub mod update;
pub mod version_stamp;
