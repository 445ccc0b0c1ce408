//! The gRPC APIs of odds, wallets and bets: the same use cases, rights and limits as REST.
//!
//! All of tonic is here. The handlers translate, and call `services`. They run outside of actors, so
//! they cannot start one: `StreamStarter` does it for them.

mod admission;
mod bets;
mod connection;
mod convert;
mod encoded;
mod health;
mod method;
mod odds;
mod proto;
mod read;
pub(crate) mod server;
mod status;
mod wallet;
mod watch;

pub(crate) use self::admission::Admission;
pub(crate) use self::bets::BetsApi;
pub(crate) use self::odds::{OddsApi, WatchLimits};
pub(crate) use self::wallet::WalletApi;
