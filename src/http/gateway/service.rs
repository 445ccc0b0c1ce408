//! The services behind the gateway.

use strum::{IntoStaticStr, VariantArray};

use crate::config::settings::Role;

/// A service behind the gateway: the public API of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[derive(IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Service {
    /// Odds over REST and WebSocket.
    Odds,
    /// Users' money.
    Wallet,
    /// Bets.
    Bets,
}

impl Service {
    /// The service's name in messages and metrics.
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }

    /// The role that serves it.
    pub(crate) fn role(self) -> Role {
        match self {
            Service::Odds => Role::Odds,
            Service::Wallet => Role::Wallet,
            Service::Bets => Role::Bets,
        }
    }

    /// The prefix of its paths at the gateway, as in the original.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Service::Odds => "/api/odds",
            Service::Wallet => "/api/wallet",
            Service::Bets => "/api/bets",
        }
    }
}
