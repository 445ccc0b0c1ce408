//! Who calls, and what a caller may do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use strum::{Display, EnumIter, EnumString, IntoStaticStr};

use super::ids::UserId;
use super::timestamp::Timestamp;
use super::unknown_variant::UnknownVariant;

/// A right. A route names the one that it requires.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Display,
    EnumIter,
    EnumString,
    IntoStaticStr
)]
#[strum(parse_err_ty = UnknownVariant, parse_err_fn = unknown_scope)]
pub enum Scope {
    /// Read events, odds and history, and subscribe to them.
    #[strum(to_string = "odds:read")]
    OddsRead,
    /// Read wallets, their ledger and their reservations.
    #[strum(to_string = "wallet:read")]
    WalletRead,
    /// Deposit, withdraw, reserve, commit and refund. For services only.
    #[strum(to_string = "wallet:move")]
    WalletMove,
    /// Read bets.
    #[strum(to_string = "bets:read")]
    BetsRead,
    /// Place bets.
    #[strum(to_string = "bets:write")]
    BetsWrite,
    /// Read what belongs to any user.
    #[strum(to_string = "operator:*")]
    Operator,
}

fn unknown_scope(text: &str) -> UnknownVariant {
    UnknownVariant::new("scope", text)
}

impl Scope {
    /// The name in tokens and keys.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether an operator has this right.
    fn is_read(self) -> bool {
        matches!(self, Scope::OddsRead | Scope::WalletRead | Scope::BetsRead)
    }
}

/// The rights of a caller. An empty set is no right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// Parses names separated by spaces, as in RFC 8693. Unknown names are ignored: tokens of an
    /// issuer may have scopes of other services.
    pub fn of_token(text: &str) -> Scopes {
        text.split(' ')
            .filter_map(|name| name.parse().ok())
            .collect()
    }

    /// Whether the caller has this right.
    pub fn allows(&self, scope: Scope) -> bool {
        self.0.contains(&scope) || self.is_operator() && scope.is_read()
    }

    /// Whether the caller is an operator.
    pub fn is_operator(&self) -> bool {
        self.0.contains(&Scope::Operator)
    }

    /// The rights, in the order of [`Scope`].
    pub fn iter(&self) -> impl Iterator<Item = Scope> + '_ {
        self.0.iter().copied()
    }
}

impl fmt::Display for Scopes {
    /// The names, separated by spaces.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, scope) in self.iter().enumerate() {
            let separator = if place == 0 { "" } else { " " };
            write!(out, "{separator}{scope}")?;
        }
        Ok(())
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Scopes {
        Scopes(scopes.into_iter().collect())
    }
}

/// Who sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Anybody: callers are not checked (`AUTH=off`).
    Unchecked,
    /// A caller without credentials.
    Anonymous,
    /// A user, with a token.
    User {
        /// The user: `sub` of the token.
        id: UserId,
        /// The rights.
        scopes: Scopes,
        /// When the token was issued: `iat`. Without it, before everything.
        issued_at: Timestamp,
        /// When the token expires.
        expires_at: Timestamp,
    },
    /// A service, with an API key.
    Service {
        /// The id of the key.
        key: String,
        /// The rights.
        scopes: Scopes,
        /// When the key expires, if it does.
        expires_at: Option<Timestamp>,
    },
}

/// Credentials that are not accepted any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Users whose tokens are revoked if they were issued before this time.
    pub users: BTreeMap<UserId, Timestamp>,
    /// The ids of revoked keys.
    pub keys: BTreeSet<String>,
}

impl Revocations {
    /// Whether the credential of this caller is revoked.
    pub fn concern(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Unchecked | Caller::Anonymous => false,
            Caller::User { id, issued_at, .. } => {
                self.users.get(id).is_some_and(|until| issued_at < until)
            }
            Caller::Service { key, .. } => self.keys.contains(key),
        }
    }
}

/// Why a caller may not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessDenied {
    /// The route is not for anonymous callers.
    #[error("a token or an API key is required")]
    Unauthenticated,
    /// The caller has no such right.
    #[error("the scope `{0}` is required")]
    MissingScope(Scope),
    /// The right is for services only.
    #[error("the scope `{0}` is for API keys only")]
    ServicesOnly(Scope),
    /// A user names another one.
    #[error("the token belongs to another user")]
    OtherUser,
}

impl Caller {
    /// Checks the right that a route requires. `is_public` is whether anonymous callers may read
    /// odds.
    pub fn require(&self, scope: Scope, is_public: bool) -> Result<(), AccessDenied> {
        let allowed = |scopes: &Scopes| {
            scopes
                .allows(scope)
                .then_some(())
                .ok_or(AccessDenied::MissingScope(scope))
        };
        match self {
            Caller::Unchecked => Ok(()),
            _ if scope == Scope::OddsRead && is_public => Ok(()),
            Caller::Anonymous => Err(AccessDenied::Unauthenticated),
            Caller::User { .. } if scope == Scope::WalletMove => {
                Err(AccessDenied::ServicesOnly(scope))
            }
            Caller::User { scopes, .. } | Caller::Service { scopes, .. } => allowed(scopes),
        }
    }

    /// Checks that the caller may act for this user. An operator's token acts for its own user only.
    pub fn act_for(&self, user: &UserId) -> Result<(), AccessDenied> {
        match self {
            Caller::Unchecked | Caller::Service { .. } => Ok(()),
            Caller::User { id, .. } if id == user => Ok(()),
            Caller::Anonymous | Caller::User { .. } => Err(AccessDenied::OtherUser),
        }
    }

    /// Whether the caller may know what belongs to this user.
    pub fn sees(&self, user: &UserId) -> bool {
        let is_operator = matches!(self, Caller::User { scopes, .. } if scopes.is_operator());
        is_operator || self.act_for(user).is_ok()
    }

    /// The caller's own user, who need not be named in a request. Operators name the user.
    pub fn own_user(&self) -> Option<&UserId> {
        match self {
            Caller::User { id, scopes, .. } if !scopes.is_operator() => Some(id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
