//! The rows of both databases. The databases differ only in how they store times and ids, so a
//! query of either loads the same row types.

pub(super) mod access;
mod columns;
pub(super) mod holds;
pub(super) mod money;
pub(super) mod odds;
pub(super) mod settlements;

pub(super) use self::columns::*;
