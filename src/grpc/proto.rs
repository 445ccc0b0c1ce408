//! The code generated from `proto/` by `make proto`. A test compares it with the files.

/// Version 1 of the package.
#[allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    rustdoc::all,
    clippy::all,
    clippy::pedantic
)]
pub(super) mod v1 {
    include!("generated/sports_bet.v1.rs");
}

/// The descriptors of the files and their imports, for reflection.
pub(super) const DESCRIPTORS: &[u8] = include_bytes!("generated/sports_bet.v1.bin");
