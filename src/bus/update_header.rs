//! Headers of the records of updates. Such an update is a suspension, so readers that do not know
//! the header show it as one.

/// Its source gives up the market.
pub(crate) const HANDED_OVER: &str = "handed_over";
/// `ingest` suspends the market, because its source does not confirm it.
pub(crate) const UNCONFIRMED: &str = "unconfirmed";
