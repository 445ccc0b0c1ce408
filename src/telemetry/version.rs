//! What was built. The build script records the commit and the TLS features.

/// The version of the crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that was built, followed by `-modified` if the sources differed from it; `unknown` in
/// debug builds and without a repository.
pub const COMMIT: &str = env!("SPORTS_BET_COMMIT");
/// The TLS library of connections to PostgreSQL and Kafka; `none` if they cannot use TLS.
pub const TLS: &str = env!("SPORTS_BET_TLS");
/// All of it in one line.
pub const LINE: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    ", commit ",
    env!("SPORTS_BET_COMMIT"),
    ", TLS to PostgreSQL and Kafka: ",
    env!("SPORTS_BET_TLS")
);
